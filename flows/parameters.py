"""What the forms of deployments ask for; Prefect's server refuses a value that doesn't fit."""

from typing import Annotated

from pydantic import Field

ConfigFile = Annotated[
    str, Field(pattern=r"\.(toml|json)$", description="A config file of the worker's machine, as configs/laptop.toml.")
]
Override = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.-]*=.*$", description="KEY=VALUE, as in grpo.beta=0.01.")]
