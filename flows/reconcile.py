"""Finding and mending what dead processes have left behind. Run it with `medgrpo reconcile`, or as a deployment."""

from prefect import flow

from medgrpo.upkeep.reconcile import JUST_S, Report
from tasks.reconcile import end_orphans, look_for_moves, remove_leftovers, report, settle_flow_runs, settle_runs
from tasks.track import hold_run


@flow(name="medgrpo-reconcile", on_running=[hold_run])
def reconcile(fix: bool = True, just_s: float = JUST_S) -> Report:
    """End orphans, settle dead flow runs, close dead MLflow runs, remove leftovers; report them and cut-off moves.

    Args:
        fix: mend what is found; else only report it.
        just_s: a flow run that came into its state more recently counts as alive, in seconds.
    """
    findings = end_orphans(fix)  # first: what they hold is free after that
    findings += settle_flow_runs(fix, just_s)
    findings += settle_runs(fix)
    findings += remove_leftovers(fix)
    found: Report = report(findings + look_for_moves())
    return found
