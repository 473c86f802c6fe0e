"""Commands: look after what runs."""

from typing import Annotated, Literal

import typer

from medgrpo.cli.app import StartFrom, app


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
