"""Commands: look after what runs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from medgrpo.cli.app import Overrides, StartFrom, app


@app.command(rich_help_panel="Operating")
def ui(
    which: Annotated[Literal["mlflow", "prefect"], typer.Argument(help="Which UI to open.")],
    port: Annotated[int, typer.Option(help="0: the UI's usual one (MLflow 5000, Prefect 4200).")] = 0,
) -> None:
    """Start the MLflow or the Prefect UI on the home folder, on loopback, until Ctrl-C.

    Example:  medgrpo ui mlflow
    """
    from medgrpo.environment import run_ui
    from medgrpo.settings import Settings

    run_ui(which, port, Settings())


@app.command(rich_help_panel="Operating")
def rerun(
    which: Annotated[
        str, typer.Argument(metavar="[RUN]", help="A flow run's id or name; default: the newest failed.")
    ] = "",
    start_from: StartFrom = None,
) -> None:
    """Run a flow run again: finished stages are found again, only failed ones and those after them run.

    With --from a new flow run starts with the same parameters, in which that stage and those after it are forced.

    Example:  medgrpo rerun
    """
    from flows.local import connect
    from medgrpo.report import Summary, render
    from medgrpo.settings import Settings

    settings = Settings()
    connect(settings)
    from flows.rerun import rerun as run_again

    done = run_again(which, start_from)
    if isinstance(done, Summary):
        print(render(done, settings))
    else:
        print(f"flow run {done.name} ({done.run_id}) is scheduled again: its worker takes it up")


@app.command(rich_help_panel="Operating")
def deploy(
    configs: Annotated[list[Path] | None, typer.Argument(metavar="[CONFIG]...", help="TOML configs to deploy.")] = None,
    overrides: Overrides = None,
    cron: Annotated[str, typer.Option(help="When trainings start, as in '0 2 * * 0'.")] = "",
    interval: Annotated[str, typer.Option(help="How often they start, as in 6h; s, m, h or d.")] = "",
    timezone: Annotated[str, typer.Option(help="Of the schedule.")] = "UTC",
    pool: Annotated[str, typer.Option(help="Name of the work pool; it is made if it isn't there.")] = "medgrpo",
    pool_type: Annotated[Literal["process", "docker", "kubernetes"], typer.Option(help="Of a new pool.")] = "process",
    directory: Annotated[str, typer.Option(help="Folder in which flows run; default: this one, or the image's.")] = "",
    image: Annotated[str, typer.Option(help="Container image, for docker and kubernetes.")] = "",
    gpus: Annotated[int, typer.Option(min=1, help="How many stages may hold a policy at once, over all runs.")] = 1,
    notify_url: Annotated[
        str, typer.Option(envvar="MEDGRPO_NOTIFY_URL", help="Webhook that is told of failures, promotions, refusals.")
    ] = "",
    notify_block: Annotated[str, typer.Option(help="Or a notification block, as slack-webhook/ours.")] = "",
    serve_url: Annotated[
        str, typer.Option(help="A served stage that is told of promotions at once; its key is in MEDGRPO_API_KEY.")
    ] = "",
) -> None:
    """Set up the Prefect server that PREFECT_API_URL names; a second call changes nothing.

    Makes the work pool, per config a training and a promotion deployment, the limit of the GPU, and automations that
    bring back crashed runs and tell of failures, promotions and refusals.

    Example:  medgrpo deploy configs/llama31-8b.toml --cron "0 2 * * 0"
    """
    from flows.deploy import Place, Target, parse_schedule
    from flows.deploy import deploy as bring_up
    from medgrpo.config_file import read_config
    from medgrpo.serve.api_keys import key_from_environment

    targets = [Target(read_config(path, overrides or ()).name, str(path), overrides or []) for path in configs or []]
    place = Place(
        pool=pool,
        pool_type=pool_type,
        directory=directory or (str(Path.cwd()) if pool_type == "process" else ""),
        image=image,
        gpus=gpus,
        schedule=parse_schedule(cron, interval, timezone),
        notify_url=notify_url,
        notify_block=notify_block,
        serve_url=serve_url,
        serve_key=key_from_environment(),
    )
    for what, done in bring_up(targets, place):
        print(f"{done:9}  {what}")
