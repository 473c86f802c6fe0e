"""Commands: give disk back."""

import os
from typing import Annotated

import typer

from medgrpo.cli.app import app


@app.command(rich_help_panel="Operating")
def clean(
    older_than: Annotated[str, typer.Option("--older-than", metavar="AGE", help="As in 30d, 12h or 8w.")] = "30d",
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this, only show what would go.")] = False,
) -> None:
    """Remove old trainings, adapters, evaluations, datasets, flow runs and MLflow's trash.

    Champion, previous, challenger and all that they came from stay.

    Example:  medgrpo clean --older-than 30d
    """
    from medgrpo.upkeep.clean import carry_out, describe, parse_age, plan_cleaning

    age = parse_age(older_than)
    from flows.local import find_server
    from medgrpo.settings import Settings

    settings = Settings()
    has_flow_runs = "PREFECT_API_URL" in os.environ or (settings.prefect_home / "prefect.db").is_file()
    plan = plan_cleaning(age, settings, find_server(settings) if has_flow_runs else "")
    print(describe(plan, done=yes))
    if yes:
        print(f"removed: {carry_out(plan, settings)} items")
