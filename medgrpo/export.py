"""Export: a model version as a folder that other tools read, checked against the policy that was evaluated."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medgrpo import registry
from medgrpo.answer import messages, render_question
from medgrpo.base_models import HubBase
from medgrpo.config import Config, PromptConfig
from medgrpo.errors import MedgrpoError, NotFoundError, UserError
from medgrpo.fingerprint import write_whole
from medgrpo.policy import Policy, attach, load_base
from medgrpo.report.card import CARD
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, Frozen, ModelVersionRef

if TYPE_CHECKING:
    import torch

Form = Literal["adapter", "merged", "gguf"]
CONVERTER = "convert_hf_to_gguf.py"
RECORD, README = "export.json", "README.md"
MERGE_BOUND = 1e-4
"""Largest difference between logits of the merged weights and of base plus adapter, in float32, as a share of the
largest logit: sums in another order differ by some 1e-6."""
PROBES = 4
PROBED_TOKENS = 64
"""Logits are compared on so many last tokens of so many questions."""


class Exported(Frozen):
    """What was exported; stored as `export.json` beside it."""

    version: ModelVersionRef
    form: Form
    float32_difference: float | None = None
    """Largest difference of a logit between the merged weights and base plus adapter, both in float32."""
    largest_logit: float | None = None
    """What to compare the differences with."""
    rounded_difference: float | None = None
    """The same after rounding to 16 bits, read back from the folder."""
    same_tokens: float | None = None
    """Share of the probed places where the rounded weights choose the same next token."""


def export(
    config: Config, form: Form, target: Path, settings: Settings, version: int | None = None, push: str = ""
) -> Exported:
    """Write a model version to a new folder; whole or not at all.

    Args:
        target: the folder to make.
        version: which one; None: the champion.
        push: a hub repository, `owner/name`, to upload the folder to; it is made private if it is new.

    Raises:
        UserError: the folder is there already, the form isn't to be had, or the hub doesn't take it.
        NotFoundError: there is no such version, or no champion.
        MedgrpoError: the merged weights are not the policy that was evaluated, or the converter failed.
    """
    if target.exists():
        raise UserError(f"{target} is there already: name a folder that is not, or remove it")
    converter = find_converter(settings) if form == "gguf" else None
    chosen = _find_version(config, version, settings)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as folder:
        stored, card = registry.download(chosen, Path(folder) / "stored", settings)
        draft, exported = Path(folder) / "export", Exported(version=chosen, form=form)
        if form == "adapter":
            _copy_adapter(stored, card, draft)
        else:
            base = registry.resolve_base(chosen, card, settings)
            exported = exported.model_copy(update=_write_merged(card.config, base, stored, draft))
        if converter is not None:
            draft = _convert(converter, draft, Path(folder) / "gguf", chosen)
        _write_readme(stored / CARD, draft / README, form)
        write_whole(draft / RECORD, exported.model_dump_json(indent=1) + "\n")
        draft.rename(target)
    if push:
        _push(target, push)
    return exported


def describe(exported: Exported, target: Path, push: str = "") -> str:
    """What was written where, and what merging and rounding changed."""
    version, largest = exported.version, exported.largest_logit
    lines = [f"{version.name} version {version.version}, {exported.form}: {target}"]
    if exported.float32_difference is not None:
        lines += [
            "  logits of the merged weights differ from those of base plus adapter by at most "
            f"{exported.float32_difference:.2g} in float32 and {exported.rounded_difference:.2g} in 16 bits; "
            f"the largest is {largest:.3g}",
            f"  the same next token at {exported.same_tokens:.1%} of the places that were probed",
        ]
    return "\n".join([*lines, f"  pushed to {push}"] if push else lines)


def _find_version(config: Config, version: int | None, settings: Settings) -> ModelVersionRef:
    if version is not None:
        return registry.get(config.model_name, version, settings)
    champion = registry.find(config.model_name, "champion", settings)
    if champion is None:
        raise NotFoundError(f"'{config.model_name}' has no champion: name a version, as in --version 1")
    return champion


def _copy_adapter(adapter: Path, card: registry.VersionCard, draft: Path) -> None:
    """The version's files; its base model is named so that another machine finds it."""
    shutil.copytree(adapter, draft, ignore=shutil.ignore_patterns(CARD, README, "tokenizer"))
    if (adapter / "tokenizer").is_dir():
        shutil.copytree(adapter / "tokenizer", draft, dirs_exist_ok=True)
    path = draft / "adapter_config.json"
    base, revision = card.config.policy.base, card.base.revision or None
    name = base.repo if isinstance(base, HubBase) else card.base.name
    settings = json.loads(path.read_text(encoding="utf-8"))
    write_whole(path, json.dumps(settings | {"base_model_name_or_path": name, "revision": revision}, indent=2))


def _write_merged(config: Config, base: BaseRef, adapter: Path, draft: Path) -> dict[str, float]:
    """Write base and adapter as one plain model in 16 bits; the differences that it makes.

    Raises:
        UserError: the adapter was trained on 4-bit weights.
        MedgrpoError: the merged weights give other logits.
    """
    if config.policy.load_in_4bit:
        raise UserError(
            "this adapter was trained and evaluated on a 4-bit base: merged into 16-bit weights it would be a policy "
            "that nobody has measured. Use --form adapter, or train with --set policy.load_in_4bit=false"
        )
    policy = attach(load_base(base.folder, "float32"), adapter)
    probes = _probes(policy, config.prompt)
    wanted = _logits(policy, probes)
    _untie(policy.model)
    merged = Policy(policy.model.merge_and_unload().eval(), policy.tokenizer)
    exact, largest = _largest_difference(_logits(merged, probes), wanted), float(wanted.abs().max())
    if not exact <= MERGE_BOUND * largest:
        raise MedgrpoError(
            f"the merged weights are not this policy: logits differ by {exact:.3g}, more than {MERGE_BOUND:g} of the "
            f"largest ({largest:.3g}). Use --form adapter"
        )
    merged.model.to(_sixteen_bits(base)).save_pretrained(draft)
    merged.tokenizer.save_pretrained(draft)
    rounded = _logits(load_base(str(draft), "float32"), probes)
    return {
        "float32_difference": exact,
        "largest_logit": largest,
        "rounded_difference": _largest_difference(rounded, wanted),
        "same_tokens": float((rounded.argmax(-1) == wanted.argmax(-1)).float().mean()),
    }


def _probes(policy: Policy, prompt: PromptConfig) -> list[list[int]]:
    """Some built-in questions as the policy is asked them, in token ids."""
    from medgrpo.data.clinical import generate

    asked = [render_question(example) for example in generate(PROBES, 0, ())]
    return [policy.prompt_tokens(messages(prompt.system, prompt.shown, question)) for question in asked]


def _logits(policy: Policy, probes: list[list[int]]) -> "torch.Tensor":
    """Logits on the last tokens of each probe: (tokens, vocabulary), float32, on the CPU."""
    import torch

    def last(ids: list[int]) -> torch.Tensor:
        rows = torch.tensor([ids], device=policy.model.device)
        found: torch.Tensor = policy.model(input_ids=rows).logits[0, -PROBED_TOKENS:].float().cpu()
        return found

    with torch.inference_mode():
        return torch.cat([last(ids) for ids in probes])


def _largest_difference(ours: "torch.Tensor", theirs: "torch.Tensor") -> float:
    return float((ours - theirs).abs().max())


def _untie(model: Any) -> None:
    """Give the head weights of its own where it shares the embeddings' and either is adapted.

    Merging would move both.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch import nn

    plain = model.get_base_model()
    head, embeddings = plain.get_output_embeddings(), plain.get_input_embeddings()
    if head is None or not any(isinstance(layer, BaseTunerLayer) for layer in (head, embeddings)):
        return
    ends = [layer.base_layer if isinstance(layer, BaseTunerLayer) else layer for layer in (head, embeddings)]
    if ends[0].weight is ends[1].weight:
        ends[0].weight = nn.Parameter(ends[0].weight.detach().clone(), requires_grad=False)
        plain.config.tie_word_embeddings = False


def _sixteen_bits(base: BaseRef) -> "torch.dtype":
    """The base model's own 16-bit dtype; bfloat16 where it has none."""
    import torch
    from transformers import AutoConfig

    own = AutoConfig.from_pretrained(base.folder, trust_remote_code=False).dtype
    return own if own in (torch.float16, torch.bfloat16) else torch.bfloat16


def find_converter(settings: Settings) -> list[str]:
    """The command of llama.cpp's converter: the one that the settings name, or the one on PATH.

    Raises:
        UserError: there is none.
    """
    named = settings.gguf_converter
    path = Path(named) if named else Path(shutil.which(CONVERTER) or "")
    if not path.is_file():
        where = f"MEDGRPO_GGUF_CONVERTER names {named}, which is no file" if named else f"no {CONVERTER} on PATH"
        raise UserError(
            f"{where}: get llama.cpp (git clone https://github.com/ggml-org/llama.cpp, pip install -r "
            f"llama.cpp/requirements/requirements-convert_hf_to_gguf.txt in an environment of its own) and set "
            f"MEDGRPO_GGUF_CONVERTER to its {CONVERTER}"
        )
    return [sys.executable, str(path)] if path.suffix == ".py" else [str(path)]


def _convert(converter: list[str], merged: Path, folder: Path, version: ModelVersionRef) -> Path:
    folder.mkdir()
    file = folder / f"{version.name}-v{version.version}.gguf"
    command = [*converter, str(merged), "--outfile", str(file), "--outtype", "auto"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not file.is_file():
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-8:])
        raise MedgrpoError(f"the converter failed ({' '.join(command[:2])}, exit code {done.returncode}):\n{last}")
    return folder


def _write_readme(stored: Path, target: Path, form: Form) -> None:
    """The version's model card under the name that the hub shows; merged weights are no adapter of PEFT's."""
    from huggingface_hub import ModelCard

    if not stored.is_file():
        return
    card = ModelCard(stored.read_text(encoding="utf-8"), ignore_metadata_errors=True)
    if form != "adapter":
        card.data.library_name = "transformers" if form == "merged" else "gguf"
        if card.data.base_model:
            card.data.base_model_relation = "finetune" if form == "merged" else "quantized"
    write_whole(target, str(card))


def _push(folder: Path, repo: str) -> None:
    from huggingface_hub import HfApi

    try:
        HfApi().create_repo(repo, private=True, exist_ok=True)
        HfApi().upload_folder(repo_id=repo, folder_path=folder, commit_message="Exported by medgrpo")
    except Exception as error:  # the hub's, the network's and the check of the name raise types of their own
        raise UserError(
            f"the folder {folder} is whole, but the hub didn't take it as '{repo}' ({type(error).__name__}): check the "
            "name, the network and `hf auth login`"
        ) from error
