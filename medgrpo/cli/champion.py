"""Commands: compare, move and export model versions."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from medgrpo.cli.app import ConfigPath, Overrides, app, read_stages
from medgrpo.errors import UserError

REFUSED = 3
"""Exit code of `promote` when the gate says no."""
CHANGED = 1
"""Exit code of `history` when the log's chain is broken."""


@app.command(rich_help_panel="Champion")
def promote(
    config_path: ConfigPath,
    overrides: Overrides = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask before the champion is moved.")] = False,
) -> None:
    """Compare the challenger with what is served, and make it the champion if the gate says so; exit code 3 if not.

    The new champion is served once and asked a question; if it doesn't answer, the one before it is champion again.

    Example:  medgrpo promote configs/laptop.toml
    """
    from medgrpo.promotion import carry_out, describe, describe_figures, terminal_user, turn_down
    from medgrpo.promotion.audit_log import Mover

    asks = not yes
    if asks and not sys.stdin.isatty():
        raise UserError("`medgrpo promote` asks before it moves the champion, and here is no terminal: add --yes")
    stages = read_stages(config_path, overrides)
    proposal = stages.proposal
    for name in ("", *stages.dataset.benchmarks):
        print(describe_figures(*stages.compared(name)))
    print(describe(proposal))
    # A script that says --yes is nobody who could approve.
    mover = Mover(who=terminal_user(), reason="asked" if asks else "--yes", approved=sys.stdin.isatty())
    question = f"Make version {proposal.version.version} the champion?"
    if asks and proposal.is_open and not typer.confirm(question):
        outcome = turn_down(proposal, mover.model_copy(update={"reason": "declined in the terminal"}), stages.settings)
    else:
        outcome = carry_out(stages.config, proposal, mover, stages.settings)
    print(f"{proposal.version.name} version {proposal.version.version}: {outcome}")
    if outcome == "refused":
        raise typer.Exit(REFUSED)


@app.command(rich_help_panel="Champion")
def rollback(
    config_path: ConfigPath,
    overrides: Overrides = None,
    reason: Annotated[str, typer.Option(help="Why, for the log of moves.")] = "",
) -> None:
    """Make the previous champion the champion again.

    Example:  medgrpo rollback configs/laptop.toml --reason "invents doses"
    """
    from medgrpo.config_file import read_config
    from medgrpo.promotion import terminal_user
    from medgrpo.promotion.audit_log import Mover
    from medgrpo.promotion.moves import rollback as roll_back
    from medgrpo.settings import Settings

    mover = Mover(who=terminal_user(), reason=reason, approved=True)
    version = roll_back(read_config(config_path, overrides or ()).model_name, mover, Settings())
    print(f"{version.name} version {version.version} is the champion again; a served stage follows within seconds")


@app.command(rich_help_panel="Champion")
def history(config_path: ConfigPath, overrides: Overrides = None) -> None:
    """Who moved the champion, when and why; exit code 1 if somebody changed the log.

    Example:  medgrpo history configs/laptop.toml
    """
    from medgrpo.config_file import read_config
    from medgrpo.promotion.audit_log import describe_log, read_log
    from medgrpo.registry import read_aliases
    from medgrpo.settings import Settings

    name, settings = read_config(config_path, overrides or ()).model_name, Settings()
    log = read_log(name, settings)
    print(describe_log(log, read_aliases(name, settings)))
    if log.faults:
        raise typer.Exit(CHANGED)


@app.command(rich_help_panel="Champion")
def export(
    config_path: ConfigPath,
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="A folder that is not there yet.")],
    overrides: Overrides = None,
    form: Annotated[
        Literal["adapter", "merged", "gguf"],
        typer.Option(help="The adapter alone, merged 16-bit weights, or a GGUF file by llama.cpp's converter."),
    ] = "adapter",
    version: Annotated[int | None, typer.Option(help="Export this version; default: the champion.")] = None,
    push: Annotated[str, typer.Option(metavar="OWNER/NAME", help="Upload it to this hub repository, too.")] = "",
) -> None:
    """Write a model version to a folder that other tools read; merged weights are checked against the adapter's logits.

    Example:  medgrpo export configs/laptop.toml --form merged --to laptop-merged
    """
    from medgrpo.config_file import read_config
    from medgrpo.export import describe
    from medgrpo.export import export as export_version
    from medgrpo.settings import Settings

    exported = export_version(read_config(config_path, overrides or ()), form, to, Settings(), version, push)
    print(describe(exported, to, push))
