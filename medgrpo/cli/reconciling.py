"""Commands: find and mend what dead processes have left behind."""

from typing import TYPE_CHECKING, Annotated

import typer

from medgrpo.cli.app import app

if TYPE_CHECKING:
    from medgrpo.upkeep.reconcile import Report


@app.command(rich_help_panel="Operating")
def reconcile(
    yes: Annotated[bool, typer.Option("--yes", help="Mend what is found; without it nothing is changed.")] = False,
) -> None:
    """Find what dead processes left: flow runs and MLflow runs that look busy, orphaned processes, drafts.

    What a living process works on is never touched.

    Example:  medgrpo reconcile --yes
    """
    from flows.local import run_reconcile
    from medgrpo.settings import Settings

    report = run_reconcile(Settings(), fix=yes)
    _show(report)
    if not yes and any(finding.mendable for finding in report.findings):
        print("nothing was changed: `medgrpo reconcile --yes` mends what is found")


def _show(report: "Report") -> None:
    from rich.console import Console
    from rich.table import Table

    if not report.findings:
        print("nothing was left behind")
        return
    table = Table("what", "which", "found", "remedy", "state")
    for row in report.rows:
        table.add_row(*row.values())
    Console().print(table)
