"""Commands: the served stage."""

from typing import Annotated

import typer

from medgrpo.cli.app import ConfigPath, Overrides, app


@app.command(rich_help_panel="Serving")
def serve(
    config_path: ConfigPath,
    overrides: Overrides = None,
    version: Annotated[int | None, typer.Option(help="Serve this version; default: the champion.")] = None,
    host: Annotated[str, typer.Option(help="Other than loopback only with MEDGRPO_API_KEY set.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: a free one.")] = 8000,
) -> None:
    """Serve the champion over an OpenAI-compatible HTTP API.

    Example:  medgrpo serve configs/laptop.toml --port 8000
    """
    from medgrpo.config_file import read_config
    from medgrpo.serve.load import load_engine
    from medgrpo.serve.process import check_host
    from medgrpo.serve.process import run as run_server
    from medgrpo.settings import Settings

    check_host(host)
    config = read_config(config_path, overrides or ())
    run_server(load_engine(config, Settings(), version), host, port, config.serve.max_completion_tokens)


@app.command(rich_help_panel="Serving")
def ask(
    question: Annotated[str, typer.Argument(help="The question, with its options if it has some.")],
    url: Annotated[str, typer.Option(help="Where the served stage is.")] = "http://127.0.0.1:8000",
) -> None:
    """Ask the served stage one question; print what it says and which version said it.

    Example:  medgrpo ask "Serum sodium is 128 mmol/L (reference range 133-146). Is it low, normal or high?"
    """
    from medgrpo.serve.process import ask as ask_server

    answer = ask_server(url, question)
    print(answer.completion)
    print(f"\n[{answer.version}] answer: {answer.answer if answer.answer is not None else '(none in the grammar)'}")
