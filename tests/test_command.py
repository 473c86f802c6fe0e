"""The command that starts the training processes, and what it refuses before any is started."""

import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from medgrpo.config import Config, WarmStartConfig
from medgrpo.errors import ConfigError
from medgrpo.grpo.command import check_place, training_command, training_environment
from medgrpo.settings import Settings

SHIPPED = {"ddp-cpu": "MULTI_GPU", "ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED"}
JOB = Path("/home/job.json")


def shipped(name: str) -> str:
    return str(ROOT / "configs" / "accelerate" / f"{name}.yaml")


def with_grpo(config: Config, **changes: Any) -> Config:
    return config.model_copy(update={"grpo": config.grpo.model_copy(update=changes)})


def test_one_process_is_started_without_a_launcher(config: Config) -> None:
    assert training_command(config, Settings(), JOB) == [sys.executable, "-m", "medgrpo.grpo", str(JOB)]


def test_several_are_started_by_accelerate_on_loopback_with_a_free_port(config: Config) -> None:
    command = training_command(config, Settings(processes=2), JOB)
    assert command[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    assert command[-3:] == ["-m", "medgrpo.grpo", str(JOB)]
    said = " ".join(command)
    for words in ("--num_processes 2", "--main_process_ip 127.0.0.1", "--main_process_port 0", "--multi_gpu"):
        assert words in said


def test_a_config_file_takes_the_place_of_plain_ddp(config: Config) -> None:
    command = training_command(config, Settings(processes=2, accelerate_config=shipped("ddp-cpu")), JOB)
    assert command[command.index("--config_file") + 1] == shipped("ddp-cpu")
    assert "--multi_gpu" not in command
    alone = training_command(config, Settings(accelerate_config=shipped("ddp-cpu")), JOB)
    assert "accelerate.commands.launch" in alone, "one process can be sharded to RAM, so the file counts"


def test_processes_share_the_cores_unless_the_user_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert training_environment(Settings(processes=2)).get("OMP_NUM_THREADS") is None, "the tests set it"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert training_environment(Settings(processes=2))["OMP_NUM_THREADS"] == "4"
    assert "OMP_NUM_THREADS" not in training_environment(Settings())


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDGRPO_PROCESSES", "4")
    monkeypatch.setenv("MEDGRPO_VLLM_URL", "http://127.0.0.1:8000")
    monkeypatch.setenv("MEDGRPO_ACCELERATE_CONFIG", "a.yaml")
    settings = Settings()
    assert (settings.processes, settings.vllm_url, settings.accelerate_config) == (4, "http://127.0.0.1:8000", "a.yaml")


@pytest.mark.parametrize(
    ("prompts", "parts", "processes", "said"),
    [
        (2, 1, 2, ""),
        (4, 2, 2, ""),
        (2, 1, 1, ""),
        (3, 1, 2, "grpo.prompts_per_step (3) must be a multiple of MEDGRPO_PROCESSES (2)"),
        (1, 1, 2, "grpo.prompts_per_step (1) must be a multiple of MEDGRPO_PROCESSES (2)"),
        (2, 8, 2, "2 x 8 must divide prompts_per_step x num_generations = 8"),
    ],
)
def test_groups_must_divide_among_processes(
    config: Config, prompts: int, parts: int, processes: int, said: str
) -> None:
    changed = with_grpo(config, prompts_per_step=prompts, gradient_accumulation_steps=parts)
    if not said:
        check_place(changed, Settings(processes=processes))
        return
    with pytest.raises(ConfigError) as refused:
        check_place(changed, Settings(processes=processes))
    assert said in str(refused.value)


def test_a_warm_starts_batches_must_divide_among_processes(config: Config) -> None:
    changed = config.model_copy(update={"warm_start": WarmStartConfig(batch_size=3)})
    check_place(changed, Settings())
    with pytest.raises(ConfigError, match=r"warm_start\.batch_size \(3\)"):
        check_place(changed, Settings(processes=2))


@pytest.mark.parametrize("rollouts", ["vllm-colocate", "vllm-server"])
def test_vllm_that_is_not_installed_is_refused(config: Config, rollouts: str) -> None:
    with pytest.raises(ConfigError, match=f"'{rollouts}' needs vLLM"):
        check_place(with_grpo(config, rollouts=rollouts), Settings(vllm_url="http://127.0.0.1:8000"))


@pytest.fixture
def with_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of vLLM's name, which is all that is looked for."""
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_vllm_server_needs_an_address(config: Config, with_vllm: None) -> None:
    changed = with_grpo(config, rollouts="vllm-server")
    for url in ("", "127.0.0.1:8000"):
        with pytest.raises(ConfigError, match="MEDGRPO_VLLM_URL"):
            check_place(changed, Settings(vllm_url=url))
    check_place(changed, Settings(vllm_url="http://127.0.0.1:8000"))
    check_place(with_grpo(config, rollouts="vllm-colocate"), Settings())


def test_trl_is_told_who_samples(config: Config, tmp_path: Path) -> None:
    from medgrpo.grpo.arguments import trl_arguments

    stock = trl_arguments(config, tmp_path)
    assert not stock.use_vllm
    server = trl_arguments(with_grpo(config, rollouts="vllm-server"), tmp_path, "http://127.0.0.1:8000")
    assert (server.use_vllm, server.vllm_mode) == (True, "server")
    assert server.vllm_server_base_url == "http://127.0.0.1:8000"
    inside = trl_arguments(with_grpo(config, rollouts="vllm-colocate"), tmp_path)
    assert (inside.use_vllm, inside.vllm_mode) == (True, "colocate")
    assert inside.vllm_max_model_length == config.data.max_prompt_tokens + config.grpo.max_completion_tokens


def test_weights_in_training_are_raised_to_float32_and_no_others() -> None:
    import torch

    from medgrpo.policy import keep_adapter_exact

    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)).bfloat16()
    model[0].requires_grad_(False)
    keep_adapter_exact(model)
    assert [p.dtype for p in model.parameters()] == [torch.bfloat16] * 2 + [torch.float32] * 2


@pytest.mark.parametrize("name", SHIPPED)
def test_accelerate_takes_every_shipped_config(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    read = load_config_from_file(shipped(name))
    assert read.distributed_type.value == SHIPPED[name]
    assert (read.num_machines, read.use_cpu) == (1, name == "ddp-cpu")
    assert sorted(path.stem for path in (ROOT / "configs" / "accelerate").iterdir()) == sorted(SHIPPED)


@pytest.mark.parametrize("name", ["ddp-cpu", "ddp", "fsdp2"])
def test_accelerates_launcher_knows_every_key(name: str) -> None:
    """An unknown key below fsdp_config would only be ignored: each must be an argument of the launcher."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    command = training_command_of(name)
    parsed, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(command))
    known = {action.dest for action in launch_command_parser()._actions}
    assert set(defaults.fsdp_config) <= known
    assert parsed.num_processes == 2
    assert parsed.use_fsdp == (name == "fsdp2")
    assert parsed.main_process_ip == "127.0.0.1"


def training_command_of(name: str) -> list[str]:
    """The launcher's arguments for a shipped file."""
    config = Config.model_validate({"name": "x", "grpo": {"prompts_per_step": 2}})
    return training_command(config, Settings(processes=2, accelerate_config=shipped(name)), JOB)[3:]


def test_zero3_is_refused_without_deepspeed(config: Config) -> None:
    with pytest.raises(ConfigError, match=r"zero3\.yaml needs DeepSpeed"):
        check_place(config, Settings(processes=2, accelerate_config=shipped("zero3")))


def test_sharding_and_4_bits_are_refused_together(config: Config) -> None:
    policy = config.policy.model_copy(update={"load_in_4bit": True})
    changed = config.model_copy(update={"policy": policy})
    with pytest.raises(ConfigError, match="can't spread 4-bit weights"):
        check_place(changed, Settings(processes=2, accelerate_config=shipped("fsdp2")))
    check_place(changed, Settings(processes=2, accelerate_config=shipped("ddp-cpu")))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist"),
        ("distributed_type: NONSENSE\n", "is no accelerate config"),
        ("distributed_type: MULTI_GPU\nsurprise: 1\n", "surprise"),
        ("just words\n", "is no accelerate config"),
        ("a: [1\n", "is no accelerate config"),
        ("distributed_type: MULTI_GPU\nnum_machines: 2\n", "num_machines is 2"),
    ],
)
def test_a_config_file_that_accelerate_would_not_take_is_refused(
    config: Config, tmp_path: Path, content: str | None, said: str
) -> None:
    path = tmp_path / "own.yaml"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        check_place(config, Settings(processes=2, accelerate_config=str(path)))
