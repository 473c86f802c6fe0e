"""The policy: a base model, its tokenizer, and an adapter on top."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgrpo.errors import BaseModelError
from medgrpo.fingerprint import digest, file_digest

if TYPE_CHECKING:
    import torch

    from medgrpo.config import LoraConfig
    from medgrpo.settings import Settings

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass
class Policy:
    """A loaded model with its tokenizer, in evaluation mode unless a trainer changes that."""

    model: Any
    tokenizer: Any

    def prompt_tokens(self, chat: Sequence[dict[str, str]]) -> list[int]:
        """Token ids of a chat up to where the completion starts."""
        ids = self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        return [int(i) for i in ids]


def choose_dtype(name: str = "auto") -> "torch.dtype":
    """The dtype to compute in; `auto`: bfloat16 on a GPU that has it, else float16 on a GPU, float32 on a CPU."""
    import torch

    if name != "auto":
        return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[name]
    if not torch.cuda.is_available():
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def load_base(folder: str, dtype: str = "auto", load_in_4bit: bool = False, placed: bool = True) -> Policy:
    """Load a base model from its folder. Only safetensors are read, and no code from the folder is run.

    Args:
        placed: whether the weights go to the GPU at once; False where FSDP or DeepSpeed will spread them.

    Raises:
        BaseModelError: the folder can't be read, or 4-bit weights are asked for without a CUDA device.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()

    compute = choose_dtype(dtype)
    options: dict[str, Any] = {"dtype": compute, "use_safetensors": True, "trust_remote_code": False}
    if torch.cuda.is_available() and placed:
        options["device_map"] = {"": torch.cuda.current_device()}
    if load_in_4bit:
        if not torch.cuda.is_available():
            raise BaseModelError("policy.load_in_4bit needs a CUDA device: run with --set policy.load_in_4bit=false")
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, **options)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, padding_side="left")
    except (OSError, ValueError) as error:
        raise BaseModelError(f"the base model in {folder} can't be loaded: {error}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Policy(model.eval(), tokenizer)


def lora_settings(lora: "LoraConfig") -> Any:
    """The adapter's shape in PEFT's words."""
    from peft import LoraConfig as PeftLoraConfig

    return PeftLoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        target_modules=list(lora.target_modules),
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )


def attach(policy: Policy, adapter: Path, is_trainable: bool = False) -> Policy:
    """The same base with a stored adapter on top.

    Args:
        is_trainable: whether the adapter is to be trained on.

    Raises:
        BaseModelError: the adapter was trained on another architecture.
    """
    from peft import PeftModel

    try:
        model = PeftModel.from_pretrained(policy.model, str(adapter), use_safetensors=True, is_trainable=is_trainable)
    except (RuntimeError, ValueError, OSError) as error:
        raise BaseModelError(f"the adapter in {adapter} doesn't fit this base model: {error}") from error
    return Policy(model.eval(), policy.tokenizer)


def keep_adapter_exact(model: Any) -> None:
    """Hold the weights in training in float32.

    TRL makes those on a 4-bit base bfloat16, and float16 training can't scale such gradients: GPUs without bfloat16.
    """
    for weights in model.parameters():
        if weights.requires_grad:
            weights.data = weights.data.float()


def adapter_digest(folder: Path) -> str:
    """Digest of an adapter: its weights and its settings.

    PEFT writes sets of module names in the order of Python's random string hashes, so the order of lists doesn't count.
    """
    settings, weights = (folder / name for name in ADAPTER_FILES)
    content = json.loads(settings.read_text(encoding="utf-8"))
    plain = {name: sorted(value, key=str) if isinstance(value, list) else value for name, value in content.items()}
    return digest([plain, file_digest(weights)])


def store_adapter(folder: Path, settings: "Settings") -> str:
    """Copy an adapter to the folder where it is found by its content; its digest."""
    found = adapter_digest(folder)
    target = settings.adapter(found)
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as name:
            draft = Path(name) / "adapter"
            draft.mkdir()
            for file in ADAPTER_FILES:
                shutil.copy2(folder / file, draft / file)
            draft.rename(target)
    return found
