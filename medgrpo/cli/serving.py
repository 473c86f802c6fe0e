"""Commands: the served stage."""

import json
from typing import Annotated, Literal

import typer

from medgrpo.cli.app import ConfigPath, Overrides, app

Url = Annotated[str, typer.Option(help="Where the served stage is.")]


@app.command(rich_help_panel="Serving")
def serve(
    config_path: ConfigPath,
    overrides: Overrides = None,
    version: Annotated[
        int | None, typer.Option(help="Serve this version for good; default: the champion, whichever it is.")
    ] = None,
    engine: Annotated[Literal["embedded"], typer.Option(help="What generates: this process.")] = "embedded",
    engine_url: Annotated[str, typer.Option(help="A running server to use, where the engine is another process.")] = "",
    host: Annotated[str, typer.Option(help="Other than loopback only with a key: `medgrpo keys add`.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: a free one.")] = 8000,
) -> None:
    """Serve the champion over an OpenAI-compatible HTTP API, and follow its promotions.

    Example:  medgrpo serve configs/laptop.toml --port 8000
    """
    from medgrpo.config_file import read_config
    from medgrpo.serve.engines import starting
    from medgrpo.serve.server import check_host
    from medgrpo.serve.server import run as run_server
    from medgrpo.settings import Settings

    settings = Settings()
    check_host(host, settings)
    config = read_config(config_path, overrides or ())
    run_server(starting(config, settings, engine, engine_url, version), host, port)


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
