"""Commands: look after what runs."""

from typing import Annotated, Literal

import typer

from medgrpo.cli.app import app


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
