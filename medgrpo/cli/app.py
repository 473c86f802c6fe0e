"""What all commands share: the application, the arguments that name a config, and how a config's stages are found."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medgrpo.upkeep.redo import STAGES, StageName

if TYPE_CHECKING:
    from medgrpo.stages import Stages

app = typer.Typer(
    name="medgrpo",
    help=(
        "Fine-tune small open language models with GRPO on medical questions; serve only what is shown to be better."
        "\n\nExample:  medgrpo run configs/laptop.toml"
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML config, for example configs/laptop.toml.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, as in grpo.beta=0.01.")
]
StartFrom = Annotated[
    StageName | None,
    typer.Option("--from", metavar="STAGE", help=f"Do this stage and those after it again: {', '.join(STAGES)}."),
]


def read_stages(config_path: Path, overrides: list[str] | None) -> "Stages":
    """The stages of a config file.

    Raises:
        ConfigError: the file can't be read, or keys in it are wrong.
    """
    from medgrpo.config_file import read_config
    from medgrpo.settings import Settings
    from medgrpo.stages import Stages

    return Stages(read_config(config_path, overrides or ()), Settings())
