"""Runs training processes for test_resume.py: libraries are loaded once, each process is a fork that can really be killed.

Reads one JSON order per line from standard input: `job` (the file), `output` (where its log goes), and `end`: None, or
where the process ends itself: {"at": place, "step": N, "signal": name}. Answers with the exit status as waitpid gives it.
"""

import functools
import gc
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401
import datasets  # noqa: F401
import mlflow  # noqa: F401
import pandas  # noqa: F401
import peft  # noqa: F401
import trl  # noqa: F401

import medgrpo.grpo.__main__ as process
import medgrpo.grpo.job as job
from medgrpo.grpo import checkpoints, metrics, resumable
from medgrpo.grpo.trainer import PolicyTrainer


def shape(rollouts: Any) -> list[float]:
    """A reward that tells most completions apart, so that groups teach something."""
    return [sum(map(ord, rollout.completion)) % 97 / 96 for rollout in rollouts]


def parity(rollouts: Any) -> list[float]:
    """A reward that leaves many a group without anything to compare."""
    return [float(sum(map(ord, rollout.completion)) % 2) for rollout in rollouts]


def end_at(end: dict[str, Any]) -> None:
    """Make this process end itself in the middle of what it does."""

    def die() -> None:
        os.kill(os.getpid(), signal.Signals[end["signal"]])

    def before_and_after(owner: Any, name: str, *, before: bool, step: Any) -> None:
        original = getattr(owner, name)

        def patched(*args: Any, **kwargs: Any) -> Any:
            now = step(args)
            if before and now:
                die()
            result = original(*args, **kwargs)
            if not before and now:
                die()
            return result

        setattr(owner, name, patched)

    def made(args: Any) -> bool:
        return bool(args[0].state.global_step == end["step"])

    def saved(args: Any) -> bool:
        return any(f"checkpoint-{end['step']}" in str(arg) for arg in args) or end["step"] in args

    def sent(args: Any) -> bool:
        return bool(args[3] == end["step"])

    if end["at"] == "anywhere":
        threading.Timer(end["step"], die).start()  # here the step is a number of seconds
        return
    places = {
        "rollout": (PolicyTrainer, "_generate", False, made),
        "scoring": (PolicyTrainer, "_calculate_rewards", False, made),
        "loss": (PolicyTrainer, "_compute_loss", False, made),
        "step": (PolicyTrainer, "training_step", False, made),
        "log": (PolicyTrainer, "log", False, made),
        "half-saved": (PolicyTrainer, "_save_rng_state", True, made),
        "unsealed": (checkpoints, "seal", True, saved),
        "unnamed": (checkpoints, "seal", False, saved),
        "named": (resumable, "prune", True, lambda args: True),
        "pruned": (checkpoints, "_keep_adapter", False, saved),
        "unsent": (metrics, "log_step", True, sent),
        "sent": (metrics, "log_step", False, sent),
    }
    owner, name, before, step = places[end["at"]]
    before_and_after(owner, name, before=before, step=step)


def evaluate_too() -> None:
    """Give the trainer some rows to evaluate on after every second step."""
    build = job.build_trainer

    def built(*args: Any, **kwargs: Any) -> Any:
        trainer = build(*args, **kwargs)
        trainer.eval_dataset = trainer.train_dataset.select(range(4))
        trainer.args.eval_strategy, trainer.args.eval_steps = "steps", 2
        trainer.args.per_device_eval_batch_size = 4
        return trainer

    job.build_trainer = built


def work(order: dict[str, Any]) -> None:
    """The training process itself; never returns."""
    log = os.open(Path(order["output"]) / "train.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    process.die_with_parent = lambda: None
    sys.argv = ["medgrpo.grpo", order["job"]]
    if order["end"]:
        end_at(order["end"])
    if order.get("evaluates"):
        evaluate_too()
    if "grace_s" in order:
        job.Stopper = functools.partial(job.Stopper, grace_s=order["grace_s"])
    code = 1
    try:
        code = process.main()
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)


def serve() -> None:
    """Fork a training process per order."""
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            work(json.loads(line))
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    serve()
