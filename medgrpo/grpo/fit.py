"""Refuses a training that can't fit in its GPU, before minutes are spent on loading it."""

from medgrpo.config import Config
from medgrpo.data.store import read_prompt_tokens
from medgrpo.errors import ConfigError
from medgrpo.grpo.ranks import is_sharded
from medgrpo.plan.memory import Place, Shape, find_refusal, read_shape
from medgrpo.policy import choose_dtype
from medgrpo.settings import Settings
from medgrpo.types import BaseRef, DatasetRef


def refuse_what_cannot_fit(config: Config, base: BaseRef, dataset: DatasetRef, settings: Settings) -> None:
    """Called in each training process once it has its GPU.

    Raises:
        ConfigError: the GPU is too small; the message names a setting that makes the training fit.
    """
    place = find_place(config, settings)
    if place.free is None:
        return
    longest = max(read_prompt_tokens(dataset, "train", settings))
    refusal = find_refusal(config, base_shape(config, base), longest, place)
    if refusal:
        raise ConfigError(refusal)


def find_place(config: Config, settings: Settings) -> Place:
    """The GPU of this process as it is now, or the CPU. What is spread over GPUs is never refused: `free` is None."""
    import torch

    width = choose_dtype(config.policy.dtype).itemsize
    if not torch.cuda.is_available():
        return Place(on_gpu=False, width=width, processes=settings.processes)
    free, total = torch.cuda.mem_get_info()
    known = None if is_sharded() or settings.accelerate_config else free
    return Place(on_gpu=True, width=width, processes=settings.processes, free=known, total=total)


def base_shape(config: Config, base: BaseRef) -> Shape:
    """The base model's size with the config's adapter on it."""
    from transformers import AutoConfig

    return read_shape(AutoConfig.from_pretrained(base.folder, trust_remote_code=False), config.policy.lora)
