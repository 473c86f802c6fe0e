"""The command line: the same stages, with and without Prefect. Heavy libraries are imported inside the commands."""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medgrpo.errors import MedgrpoError, UserError

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

REFUSED = 3
"""Exit code of `promote` when the gate says no."""
CHANGED = 1
"""Exit code of `history` when the log's chain is broken."""

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML config, for example configs/laptop.toml.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, as in grpo.beta=0.01.")
]
SplitName = Literal["validation", "test"]


@app.command()
def run(config_path: ConfigPath, overrides: Overrides = None) -> None:
    """Run the whole pipeline as a Prefect flow: data, training, evaluation, registry, gate, served answer.

    Example:  medgrpo run configs/laptop.toml --set grpo.steps=60
    """
    from flows.local import run_pipeline
    from medgrpo.config_file import read_config
    from medgrpo.report import render
    from medgrpo.settings import Settings

    config = read_config(config_path, overrides or ())
    settings = Settings()
    print(render(run_pipeline(config, settings), settings))


@app.command()
def plan(
    config_path: ConfigPath,
    overrides: Overrides = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Make one real step, compare, and go by it from now on.")
    ] = False,
) -> None:
    """Show what a run would do: the resolved config, rows, steps, memory and time.

    Refuses a run that can't fit in the GPU, with a setting that makes it fit. Trains nothing that is kept.

    Example:  medgrpo plan configs/llama31-8b.toml
    """
    from medgrpo.config_file import read_config
    from medgrpo.plan import make_plan
    from medgrpo.settings import Settings

    print(make_plan(read_config(config_path, overrides or ()), Settings(), with_step=measure))


@app.command()
def prepare(
    config_path: ConfigPath,
    overrides: Overrides = None,
    data_docs: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write Great Expectations' own Data Docs there, too.")
    ] = None,
) -> None:
    """Load, clean, split and check the questions; print counts, warnings and where the report is.

    A hub dataset without a revision is read at its newest one, which is printed: training asks for it in the config.

    Example:  medgrpo prepare configs/laptop.toml
    """
    from medgrpo.data.describe import describe_dataset, describe_pins
    from medgrpo.data.validate import validate
    from medgrpo.stages import Stages

    stages = _stages(config_path, overrides)
    pinned = stages.config.model_copy(update={"data": stages.config.data.pinned()})
    for line in describe_pins(stages.config.data, pinned.data):
        print(line)
    stages = Stages(pinned, stages.settings)
    report = validate(stages.config, stages.dataset, stages.settings, data_docs)
    print(describe_dataset(stages.config, stages.dataset, report, stages.settings, data_docs))


@app.command()
def audit(config_path: ConfigPath, overrides: Overrides = None) -> None:
    """Let the rewards prove themselves on the train rows: full marks for gold, none for cheats; exit code 2 if not.

    The page is kept in the home folder, as audits/KEY/report.html; `medgrpo run` stores it in MLflow, too.

    Example:  medgrpo audit configs/laptop.toml --set rewards=original
    """
    from medgrpo.audit.audit import audit_config, page_path
    from medgrpo.audit.page import describe_refusal, make_console, print_report
    from medgrpo.errors import AuditFailed

    stages = _stages(config_path, overrides)
    report = audit_config(stages.config, stages.base, stages.dataset, stages.settings)
    page = page_path(stages.config, stages.base, stages.dataset, stages.settings)
    print_report(report, page, make_console())
    if not report.passed:
        raise AuditFailed(describe_refusal(report, page))


@app.command()
def train(config_path: ConfigPath, overrides: Overrides = None) -> None:
    """Train the adapter, from the newest good checkpoint if there is one; print the checkpoints.

    Example:  medgrpo train configs/laptop.toml
    """
    stages = _stages(config_path, overrides)
    for checkpoint in stages.training.checkpoints:
        print(f"{checkpoint.label:10}  adapter {checkpoint.adapter_digest}")
    print(f"MLflow run {stages.run.run_id}")


@app.command()
def evaluate(
    config_path: ConfigPath,
    overrides: Overrides = None,
    split: Annotated[
        SplitName, typer.Option(help="Rows to measure on. Choose nothing on the test rows.")
    ] = "validation",
    recompute: Annotated[
        bool, typer.Option(help="Compute every figure once more from the stored per-row tables, and compare.")
    ] = False,
) -> None:
    """Measure the base model and every checkpoint on the same rows; stages that it stands on are done first.

    Example:  medgrpo evaluate configs/laptop.toml --recompute
    """
    from medgrpo.evaluation import check_figures

    stages = _stages(config_path, overrides)
    for report in stages.reports(split):
        name = report.checkpoint.label
        if recompute:
            check_figures(report, stages.config.evaluation, stages.settings)
        print(f"{name:12} accuracy {report.accuracy}  format rate {report.format_rate}  rows {report.rows}")


@app.command()
def register(config_path: ConfigPath, overrides: Overrides = None) -> None:
    """Make the checkpoint that is best on the validation rows a model version, and the challenger.

    Example:  medgrpo register configs/laptop.toml
    """
    version = _stages(config_path, overrides).version
    print(f"{version.name} version {version.version}, adapter {version.adapter_digest}")


@app.command()
def promote(
    config_path: ConfigPath,
    overrides: Overrides = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask before the champion is moved.")] = False,
) -> None:
    """Compare the challenger with what is served, and make it the champion if the gate says so; exit code 3 if not.

    The new champion is served once and asked a question; if it doesn't answer, the one before it is champion again.

    Example:  medgrpo promote configs/laptop.toml
    """
    from medgrpo.audit_log import Mover
    from medgrpo.promotion import carry_out, describe, describe_figures, terminal_user, turn_down

    asks = not yes
    if asks and not sys.stdin.isatty():
        raise UserError("`medgrpo promote` asks before it moves the champion, and here is no terminal: add --yes")
    stages = _stages(config_path, overrides)
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


@app.command()
def rollback(
    config_path: ConfigPath,
    overrides: Overrides = None,
    reason: Annotated[str, typer.Option(help="Why, for the log of moves.")] = "",
) -> None:
    """Make the previous champion the champion again.

    Example:  medgrpo rollback configs/laptop.toml --reason "invents doses"
    """
    from medgrpo.audit_log import Mover
    from medgrpo.config_file import read_config
    from medgrpo.moves import rollback as roll_back
    from medgrpo.promotion import terminal_user
    from medgrpo.settings import Settings

    mover = Mover(who=terminal_user(), reason=reason, approved=True)
    version = roll_back(read_config(config_path, overrides or ()).model_name, mover, Settings())
    print(f"{version.name} version {version.version} is the champion again; restart `medgrpo serve` to serve it")


@app.command()
def history(config_path: ConfigPath, overrides: Overrides = None) -> None:
    """Who moved the champion, when and why; exit code 1 if somebody changed the log.

    Example:  medgrpo history configs/laptop.toml
    """
    from medgrpo.audit_log import describe_log, read_log
    from medgrpo.config_file import read_config
    from medgrpo.registry import read_aliases
    from medgrpo.settings import Settings

    name, settings = read_config(config_path, overrides or ()).model_name, Settings()
    log = read_log(name, settings)
    print(describe_log(log, read_aliases(name, settings)))
    if log.faults:
        raise typer.Exit(CHANGED)


@app.command()
def report(config_path: ConfigPath, overrides: Overrides = None) -> None:
    """Write the page about the comparison with what is served: figures, plots, differing rows, the gate's reasons.

    Stages that it stands on are done first; nothing is moved. The page is stored in MLflow, too.

    Example:  medgrpo report configs/laptop.toml
    """
    from medgrpo.report.evaluation import gather_findings, write_page

    stages = _stages(config_path, overrides)
    print(write_page(stages.config, gather_findings(stages), stages.settings))


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
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


def _stages(config_path: Path, overrides: list[str] | None) -> "Stages":
    from medgrpo.config_file import read_config
    from medgrpo.settings import Settings
    from medgrpo.stages import Stages

    return Stages(read_config(config_path, overrides or ()), Settings())


def main() -> None:
    """Entry point: a medgrpo failure is one message on standard error and its exit code, never a stack trace."""
    from medgrpo.progress import quiet

    quiet()
    # An exit that unwinds: the training process and the embedded server are ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        app()
    except MedgrpoError as error:
        print(f"medgrpo: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
