"""Commands: the pipeline and each of its stages."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medgrpo.cli.app import ConfigPath, Overrides, StartFrom, app, read_stages
from medgrpo.errors import UserError

if TYPE_CHECKING:
    from medgrpo.promotion import Incumbent
    from medgrpo.stages import Stages

SplitName = Literal["validation", "test"]


@app.command(rich_help_panel="Pipeline")
def run(config_path: ConfigPath, overrides: Overrides = None, start_from: StartFrom = None) -> None:
    """Run the whole pipeline as a Prefect flow: data, training, evaluation, registry, gate, served answer.

    Example:  medgrpo run configs/laptop.toml --set grpo.steps=60
    """
    from flows.local import run_pipeline
    from medgrpo.config_file import read_config
    from medgrpo.report import render
    from medgrpo.settings import Settings

    config = read_config(config_path, overrides or ())
    settings = Settings()
    print(render(run_pipeline(config, settings, start_from), settings))


@app.command(rich_help_panel="Pipeline")
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
    from medgrpo.plan.estimate import make_plan
    from medgrpo.settings import Settings

    print(make_plan(read_config(config_path, overrides or ()), Settings(), with_step=measure))


@app.command(rich_help_panel="Pipeline")
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

    stages = read_stages(config_path, overrides)
    pinned = stages.config.model_copy(update={"data": stages.config.data.pinned()})
    for line in describe_pins(stages.config.data, pinned.data):
        print(line)
    stages = Stages(pinned, stages.settings)
    report = validate(stages.config, stages.dataset, stages.settings, data_docs)
    print(describe_dataset(stages.config, stages.dataset, report, stages.settings, data_docs))


@app.command(rich_help_panel="Pipeline")
def audit(config_path: ConfigPath, overrides: Overrides = None) -> None:
    """Let the rewards prove themselves on the train rows: full marks for gold, none for cheats; exit code 2 if not.

    The page is kept in the home folder, as audits/KEY/report.html; `medgrpo run` stores it in MLflow, too.

    Example:  medgrpo audit configs/laptop.toml --set rewards=original
    """
    from medgrpo.audit.audit import audit_config, page_path
    from medgrpo.audit.page import describe_refusal, make_console, print_report
    from medgrpo.errors import AuditFailed

    stages = read_stages(config_path, overrides)
    report = audit_config(stages.config, stages.base, stages.dataset, stages.settings)
    page = page_path(stages.config, stages.base, stages.dataset, stages.settings)
    print_report(report, page, make_console())
    if not report.passed:
        raise AuditFailed(describe_refusal(report, page))


@app.command(rich_help_panel="Pipeline")
def train(config_path: ConfigPath, overrides: Overrides = None) -> None:
    """Train the adapter, from the newest good checkpoint if there is one; print the checkpoints.

    Example:  medgrpo train configs/laptop.toml
    """
    stages = read_stages(config_path, overrides)
    for checkpoint in stages.training.checkpoints:
        print(f"{checkpoint.label:10}  adapter {checkpoint.adapter_digest}")
    print(f"MLflow run {stages.run.run_id}")


@app.command(rich_help_panel="Pipeline")
def evaluate(
    config_path: ConfigPath,
    overrides: Overrides = None,
    split: Annotated[
        SplitName, typer.Option(help="Rows to measure on. Choose nothing on the test rows.")
    ] = "validation",
    adapter: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Measure this adapter, as PEFT saves it, wherever it is from.")
    ] = None,
    version: Annotated[
        str,
        typer.Option(
            metavar="VERSION", help="Measure this model version: a number, or champion, challenger, previous."
        ),
    ] = "",
    recompute: Annotated[
        bool, typer.Option(help="Compute every figure once more from the stored per-row tables, and compare.")
    ] = False,
    lm_eval: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write lm-evaluation-harness's results there, and a task to ask the same."),
    ] = None,
) -> None:
    """Measure the base model and every checkpoint on the same rows; stages that it stands on are done first.

    With --adapter or --version that one is measured beside the base, and nothing is trained.

    Example:  medgrpo evaluate configs/laptop.toml --split test --version champion --lm-eval results
    """
    from medgrpo.evaluation import check_figures, evaluate_all
    from medgrpo.types import CheckpointRef

    stages = read_stages(config_path, overrides)
    config, base, dataset, settings = stages.config, stages.base, stages.dataset, stages.settings
    if given := _given_policy(stages, adapter, version):
        config, base = given.config, given.base
        reports = evaluate_all(config, base, dataset, (CheckpointRef.base(), given.checkpoint), split, settings)
    else:
        reports = stages.reports(split)
    for report in reports:
        name = report.checkpoint.label
        if recompute:
            check_figures(report, config.evaluation, settings)
        print(f"{name:16} accuracy {report.accuracy}  format rate {report.format_rate}  rows {report.rows}")
    if lm_eval:
        from medgrpo.interchange.results import write_results

        for path in write_results(config, base, dataset, reports, lm_eval, settings):
            print(path)


def _given_policy(stages: "Stages", adapter: Path | None, version: str) -> "Incumbent | None":
    """The policy of `--adapter` or `--version`; None where neither was given."""
    from medgrpo.evaluation import adopt_adapter
    from medgrpo.promotion import Incumbent, find_version

    if adapter and version:
        raise UserError("--adapter and --version: give one of them")
    if version:
        return find_version(stages.config, version, stages.settings)
    if adapter:
        checkpoint = adopt_adapter(adapter, stages.settings)
        return Incumbent(config=stages.config, base=stages.base, checkpoint=checkpoint, version=None)
    return None


@app.command(rich_help_panel="Pipeline")
def register(config_path: ConfigPath, overrides: Overrides = None) -> None:
    """Make the checkpoint that is best on the validation rows a model version, and the challenger.

    Example:  medgrpo register configs/laptop.toml
    """
    version = read_stages(config_path, overrides).version
    print(f"{version.name} version {version.version}, adapter {version.adapter_digest}")


@app.command(rich_help_panel="Pipeline")
def report(config_path: ConfigPath, overrides: Overrides = None) -> None:
    """Write the page about the comparison with what is served: figures, plots, differing rows, the gate's reasons.

    Stages that it stands on are done first; nothing is moved. The page is stored in MLflow, too.

    Example:  medgrpo report configs/laptop.toml
    """
    from medgrpo.report.evaluation import gather_findings, write_page

    stages = read_stages(config_path, overrides)
    print(write_page(stages.config, gather_findings(stages), stages.settings))
