"""Make the adapter that comes with the package, by a run of the pipeline: train, measure on the test rows, copy.

    python benchmarks/example.py

What an earlier run in this home folder has finished is found and not done again. Some 15 minutes on one core.
"""

import argparse
import json
import shutil
from pathlib import Path

from medgrpo.config_file import read_config
from medgrpo.example import CARD, ExampleCard
from medgrpo.fingerprint import source_digest, write_whole
from medgrpo.policy import ADAPTER_FILES, adapter_digest
from medgrpo.settings import Settings
from medgrpo.stages import Stages

ROOT = Path(__file__).parent.parent
CONFIG = "configs/laptop.toml"
OVERRIDES = ("name=example", "policy.lora.r=8", "policy.lora.alpha=16")
"""Half the demonstration's rank: half the file."""
SOURCE = ("answer.py", "policy.py", "generation.py", "data", "rewards", "judge", "grpo", "evaluation")
LIMITS = (
    "A toy: 135 million parameters, trained for twelve steps on made-up questions about four kinds of laboratory "
    "values. It answers most questions wrong, those of its own kind, too, and its reasoning seldom makes sense, also "
    "before a right answer. It shows how the served stage works and is good for nothing else. Not medical advice."
)


def main() -> None:
    """Write medgrpo/example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=ROOT / "medgrpo" / "example", help="the folder to write")
    target = parser.parse_args().to
    stages = Stages(read_config(ROOT / CONFIG, OVERRIDES), Settings())
    chosen, reports = stages.chosen, stages.reports("test")
    folder = stages.settings.adapter(chosen.adapter_digest)
    assert adapter_digest(folder) == chosen.adapter_digest
    target.mkdir(parents=True, exist_ok=True)
    for name in ADAPTER_FILES:
        shutil.copyfile(folder / name, target / name)
    name_base(target, stages.base.name)
    card = ExampleCard(
        files_digest=adapter_digest(target),
        config=stages.config,
        base=stages.base.model_copy(update={"folder": ""}),
        dataset=stages.dataset,
        checkpoint=chosen,
        limits=LIMITS,
        command="python benchmarks/example.py",
        run_id=stages.run.run_id,
        source_digest=source_digest(*SOURCE),
        reports=tuple(reports),
    )
    write_whole(target / CARD, card.model_dump_json(indent=1) + "\n")
    for report in reports:
        print(f"{report.checkpoint.label:12} accuracy {report.accuracy}  format rate {report.format_rate}")


def name_base(folder: Path, name: str) -> None:
    """Write the base's name where PEFT wrote its folder on this machine."""
    path = folder / "adapter_config.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    write_whole(path, json.dumps(told | {"base_model_name_or_path": name}, indent=2) + "\n")


if __name__ == "__main__":
    main()
