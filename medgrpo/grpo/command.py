"""The command that starts the training processes, and whether a config can be trained in this place at all."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from medgrpo.config import Config
from medgrpo.errors import ConfigError
from medgrpo.settings import Settings
from medgrpo.vllm.child import find_executable

SHARDING = ("FSDP", "DEEPSPEED")
"""accelerate's names for what spreads the weights over processes."""


def training_command(config: Config, settings: Settings, job: Path) -> list[str]:
    """`python -m medgrpo.grpo JOB`, started once, or by accelerate in as many processes as the settings ask for.

    accelerate's launcher ends with 1 however a process ended, so the file with a refusal counts, not its code.

    Raises:
        ConfigError: this config can't be trained with these settings.
    """
    check_place(config, settings)
    return [*launcher(settings), "-m", "medgrpo.grpo", str(job)]


def launcher(settings: Settings) -> list[str]:
    """What starts a Python script or module, whose name and arguments follow, in each training process."""
    if settings.processes == 1 and not settings.accelerate_config:
        return [sys.executable]
    # All that accelerate could ask for is given: else it reads a config file from the user's home folder.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(settings.processes)]
    command += ["--main_process_ip", "127.0.0.1", "--main_process_port", "0"]
    if settings.accelerate_config:
        return [*command, "--config_file", str(Path(settings.accelerate_config).resolve())]
    command += ["--multi_gpu", "--num_machines", "1", "--machine_rank", "0", "--mixed_precision", "no"]
    return [*command, "--dynamo_backend", "no", "--rdzv_backend", "static", "--same_network"]


def training_environment(settings: Settings) -> dict[str, str]:
    """What the training processes' environment is to have beside ours."""
    variables = {"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    if settings.processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        # The launcher would give each process one thread.
        variables["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // settings.processes))
    return variables


def check_place(config: Config, settings: Settings) -> None:
    """Refuse what would fail minutes after the start.

    Raises:
        UserError: the message names the setting to change.
    """
    _check_split(config, settings.processes)
    _check_vllm(config, settings)
    if settings.accelerate_config:
        _check_accelerate(config, settings)
    _check_devices(settings)


def _check_split(config: Config, processes: int) -> None:
    """Each process samples whole groups and takes an equal part of every accumulation step."""
    grpo, warm = config.grpo, config.warm_start
    if warm and warm.batch_size % processes:
        raise ConfigError(
            f"warm_start.batch_size ({warm.batch_size}) must be a multiple of MEDGRPO_PROCESSES ({processes})"
        )
    if grpo.prompts_per_step % processes:
        raise ConfigError(
            f"grpo.prompts_per_step ({grpo.prompts_per_step}) must be a multiple of MEDGRPO_PROCESSES ({processes}): "
            "each process samples whole groups"
        )
    if grpo.completions_per_step % (processes * grpo.gradient_accumulation_steps):
        raise ConfigError(
            f"MEDGRPO_PROCESSES x grpo.gradient_accumulation_steps = {processes} x "
            f"{grpo.gradient_accumulation_steps} must divide prompts_per_step x num_generations = "
            f"{grpo.completions_per_step}"
        )


def _check_vllm(config: Config, settings: Settings) -> None:
    if config.evaluation.engine == "vllm" and not settings.vllm_engine_url:
        find_executable(settings)  # the evaluation comes after hours of training
    rollouts = config.grpo.rollouts
    if rollouts == "transformers":
        return
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            f"grpo.rollouts = '{rollouts}' needs vLLM, which is not installed (docs/operations.md says how): "
            "install it, or --set grpo.rollouts=transformers"
        )
    if rollouts == "vllm-server" and not settings.vllm_url.startswith(("http://", "https://")):
        raise ConfigError(
            "grpo.rollouts = 'vllm-server' needs the server's address: MEDGRPO_VLLM_URL=http://127.0.0.1:8000"
        )


def _check_accelerate(config: Config, settings: Settings) -> None:
    path = settings.accelerate_config
    plan = _read_accelerate(path)
    kind = plan.distributed_type.value
    if plan.num_machines > 1:
        raise ConfigError(f"{path}: num_machines is {plan.num_machines}, but processes are started on this one only")
    if kind == "DEEPSPEED" and importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(f"{path} needs DeepSpeed, which is not installed: pip install deepspeed")
    if kind in SHARDING and config.policy.load_in_4bit:
        raise ConfigError(
            f"policy.load_in_4bit: {kind} ({path}) can't spread 4-bit weights over processes; leave one of both out"
        )


def _read_accelerate(path: str) -> Any:
    """The content of an accelerate config file.

    Raises:
        ConfigError: it isn't there, or accelerate doesn't take it.
    """
    import yaml
    from accelerate.commands.config.config_args import load_config_from_file

    try:
        return load_config_from_file(path)
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(f"MEDGRPO_ACCELERATE_CONFIG: {path} is no accelerate config: {error}") from error


def _check_devices(settings: Settings) -> None:
    if settings.processes == 1:
        return
    import torch

    if torch.cuda.is_available() and torch.cuda.device_count() < settings.processes:
        raise ConfigError(
            f"MEDGRPO_PROCESSES is {settings.processes}, but this machine has {torch.cuda.device_count()} GPUs"
        )
