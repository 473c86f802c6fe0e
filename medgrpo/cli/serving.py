"""Commands: the served stage."""

import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medgrpo.cli.app import Overrides, app
from medgrpo.errors import UserError

if TYPE_CHECKING:
    from medgrpo.serve.stage import Stage
    from medgrpo.settings import Settings

    Starting = Callable[[], Awaitable[Stage]]

log = logging.getLogger(__name__)

EngineWord = Literal["embedded", "vllm"]
Url = Annotated[str, typer.Option(help="Where the served stage is.")]


@app.command(rich_help_panel="Serving")
def serve(
    config_path: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="A TOML config, for example configs/laptop.toml.")
    ] = None,
    overrides: Overrides = None,
    example: Annotated[
        bool, typer.Option("--example", help="Serve the adapter that comes with medgrpo: no config, no training.")
    ] = False,
    version: Annotated[
        int | None, typer.Option(help="Serve this version for good; default: the champion, whichever it is.")
    ] = None,
    engine: Annotated[EngineWord, typer.Option(help="What generates: this process, or vLLM beside it.")] = "embedded",
    engine_url: Annotated[str, typer.Option(help="A running server to use, where the engine is another process.")] = "",
    host: Annotated[str, typer.Option(help="Other than loopback only with a key: `medgrpo keys add`.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: a free one.")] = 8000,
) -> None:
    """Serve the champion over an OpenAI-compatible HTTP API, and follow its promotions.

    Example:  medgrpo serve configs/laptop.toml --port 8000
    """
    from medgrpo.serve.server import check_host
    from medgrpo.serve.server import run as run_server
    from medgrpo.settings import Settings

    settings = Settings()
    check_host(host, settings)
    if example:
        if config_path or overrides or version:
            raise UserError("--example serves what comes with medgrpo: leave CONFIG, --set and --version out")
        start = _starting_example(settings, engine, engine_url)
    elif config_path:
        start = _starting_config(config_path, overrides, settings, engine, engine_url, version)
    else:
        raise UserError("name a config, as in `medgrpo serve configs/laptop.toml`, or try `medgrpo serve --example`")
    run_server(start, host, port)


def _starting_example(settings: "Settings", engine: EngineWord, url: str) -> "Starting":
    from medgrpo.example import example_sources, read_card
    from medgrpo.serve.engines import starting_with

    card = read_card()
    log.warning("the example: %s", card.limits)
    return starting_with(example_sources(settings), card.config, settings, engine, url)


def _starting_config(
    path: Path, overrides: Overrides, settings: "Settings", engine: EngineWord, url: str, version: int | None
) -> "Starting":
    from medgrpo.config_file import read_config
    from medgrpo.serve.engines import starting

    return starting(read_config(path, overrides or ()), settings, engine, url, version)


@app.command(rich_help_panel="Serving")
def ask(
    question: Annotated[str, typer.Argument(help="The question, with its options if it has some.")],
    url: Url = "http://127.0.0.1:8000",
    model: Annotated[str, typer.Option(help="A version or a role, such as base; default: whatever answers.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Ask the served stage one question; show the completion while it comes, its answer, and which version gave it.

    Sends the key in MEDGRPO_API_KEY. Not medical advice.

    Example:  medgrpo ask "Serum sodium is 128 mmol/L (reference range 133-146). Is it low, normal or high?"
    """
    from medgrpo.serve.client import stream

    if as_json:
        print(json.dumps(stream(url, question, model or None), ensure_ascii=False))
        return
    told = stream(url, question, model or None, lambda text: print(text, end="", flush=True))["medgrpo"]
    answer = "(none in the grammar)" if told["answer"] is None else told["answer"]
    print(f"\n\n[{told['version']}] answer: {answer}")


@app.command(rich_help_panel="Serving")
def feedback(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Compare the served versions: thumbs, and figures of the requests that were recorded.

    Example:  medgrpo feedback
    """
    from medgrpo.serve.feedback import compare, describe
    from medgrpo.settings import Settings

    figures = compare(Settings())
    print(json.dumps([entry.model_dump() for entry in figures]) if as_json else describe(figures))


keys = typer.Typer(help="The served stage's API keys.", no_args_is_help=True)
app.add_typer(keys, name="keys", rich_help_panel="Serving")


@keys.command("add")
def add_key(name: Annotated[str, typer.Argument(help="Whose key it is, or what for.")]) -> None:
    """Make a key, print it this once, and store its hash; a running server takes it at once.

    Example:  medgrpo keys add clinic-notebook
    """
    from medgrpo.serve.api_keys import add
    from medgrpo.settings import Settings

    print(add(name, Settings()))


@keys.command("list")
def list_keys() -> None:
    """Print the names of the keys.

    Example:  medgrpo keys list
    """
    from medgrpo.serve.api_keys import names
    from medgrpo.settings import Settings

    for name in names(Settings()):
        print(name)


@keys.command("revoke")
def revoke_key(name: Annotated[str, typer.Argument(help="A name from `medgrpo keys list`.")]) -> None:
    """Take a key away; a running server refuses it at once.

    Example:  medgrpo keys revoke clinic-notebook
    """
    from medgrpo.serve.api_keys import revoke
    from medgrpo.settings import Settings

    revoke(name, Settings())
