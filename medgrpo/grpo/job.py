"""What the training process does: load, resume, train, save. Everything it needs comes in one JSON file."""

import gc
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from medgrpo.answer import messages, render_gold, render_question
from medgrpo.config import Config
from medgrpo.data.store import read_split
from medgrpo.errors import TrainingRefused, TrainingStopped
from medgrpo.grpo.blocks import Blocks
from medgrpo.grpo.checkpoints import newest, sweep
from medgrpo.grpo.fit import refuse_what_cannot_fit
from medgrpo.grpo.guards import Broken, Guard, GuardBroken, broken_by
from medgrpo.grpo.metrics import MetricWriter
from medgrpo.grpo.protocol import Job
from medgrpo.grpo.ranks import is_main, is_sharded, join, main_first, world_size
from medgrpo.grpo.rollback import after_rollbacks, read_rollbacks, roll_back, whole_checkpoints
from medgrpo.grpo.stopping import Stopper
from medgrpo.grpo.warm_start import read_losses, warm_start
from medgrpo.policy import Policy, attach, keep_adapter_exact, load_base, lora_settings
from medgrpo.rewards import Context, Reward
from medgrpo.rewards.scorer import forget_scorers, share_scorer
from medgrpo.rewards.scoring import prepared, score
from medgrpo.rewards.trl import for_trl, read_rollout
from medgrpo.tracking import watching_system
from medgrpo.types import Example

log = logging.getLogger(__name__)


def run(job: Job) -> None:
    """Train to the last step, from the newest checkpoint that verifies.

    Raises:
        TrainingRefused: no step could be made, or NaN appeared.
        TrainingStopped: SIGTERM ended it, after a save.
    """
    config, output = job.config, Path(job.output)
    join()
    refuse_what_cannot_fit(config, job.base, job.dataset, job.settings)
    stopper = Stopper(output)
    stopper.listen()
    if is_main():
        sweep(output)
    with watching_system(job.run_id, job.settings) if is_main() else nullcontext():
        _train(job, output, stopper)


def _train(job: Job, output: Path, stopper: Stopper) -> None:
    """Make the rewards ready, start warm, and try until an attempt isn't rolled back."""
    config = job.config
    examples = read_split(job.dataset, "train", job.settings)
    with main_first():  # what is measured on the rows is measured and written once
        rewards = prepared(config.rewards, context(job, examples))
    forget_scorers()  # what measured a band now would be a second base beside the policy
    started = warm_start(config, job.base, examples, output)
    if started is not None and is_main():
        _report_warm_start(job, started)
    while (broken := _attempt(job, examples, rewards, started, stopper)) is not None:
        roll_back(output, config.grpo.guards, broken)
        gc.collect()  # the trainer that was ended holds a policy


def _attempt(
    job: Job, examples: list[Example], rewards: Sequence[Reward], started: Path | None, stopper: Stopper
) -> Broken | None:
    """Train to the last step, or until a guard's bound is broken and the config asks for a rollback: then, which.

    Raises:
        TrainingRefused: no step could be made, or a guard ended the training.
        TrainingStopped: SIGTERM ended it, after a save.
    """
    from accelerate.utils import set_seed

    config, output = job.config, Path(job.output)
    resume = newest(output)
    if resume:
        log.info("going on from step %d", resume[0])
    trainer = build_trainer(job, examples, rewards, started)
    trainer.add_callback(stopper)
    if not is_sharded():  # processes score different texts, and only all together can run a sharded policy
        share_scorer(job.base.folder, Policy(trainer.model, trainer.processing_class))
    _warm_up(rewards, examples[0])
    set_seed(config.seed, device_specific=True)  # whatever was drawn while loading, now or in an attempt before
    try:
        trainer.train(resume_from_checkpoint=str(resume[1]) if resume else None)
    except (GuardBroken, RuntimeError) as error:
        broken = broken_by(error, trainer.state.global_step + 1)
        alone = isinstance(error, RuntimeError) and world_size() > 1  # the other processes may not have met it
        if broken is None or alone or config.grpo.guards.action == "stop":
            raise
        return broken
    if stopper.asked and trainer.state.global_step < config.grpo.steps:
        raise TrainingStopped(f"it was asked to end, and saved after step {trainer.state.global_step}")
    if trainer.state.global_step < config.grpo.steps:
        raise TrainingRefused(
            f"training ended after {trainer.state.global_step} of {config.grpo.steps} steps: "
            "are there fewer train rows than grpo.prompts_per_step?"
        )
    return None


def _report_warm_start(job: Job, started: Path) -> None:
    """Log its losses, unless an earlier process did."""
    writer = MetricWriter(job.settings, job.run_id, Path(job.output))
    for step, loss in enumerate(read_losses(started), 1):
        writer.write({"warm_start/loss": loss}, step)


def context(job: Job, examples: list[Example]) -> Context:
    """What the job's rewards are made ready with."""
    policy = job.config.policy
    limit = job.config.grpo.max_completion_tokens
    return Context(job.base, examples, limit, job.settings, policy.dtype, policy.load_in_4bit)


def build_trainer(job: Job, examples: list[Example], rewards: Sequence[Reward], started: Path | None = None) -> Any:
    """The trainer with policy, rewards, rows and callbacks in place.

    Args:
        started: folder of the adapter that the warm start has left; None: a new one.
    """
    from medgrpo.grpo.arguments import trl_arguments
    from medgrpo.grpo.callbacks import LearningRate, Reporter, Watch
    from medgrpo.grpo.trainer import PolicyTrainer

    output, rollbacks = Path(job.output), len(read_rollbacks(Path(job.output)))
    config = after_rollbacks(job.config, rollbacks)
    arguments = trl_arguments(config, output, job.settings.vllm_url)  # before models: DeepSpeed wants so
    policy = load_base(job.base.folder, config.policy.dtype, config.policy.load_in_4bit, placed=not is_sharded())
    if started is not None:
        policy = attach(policy, started, is_trainable=True)
    reporters = []
    if is_main():
        writer = MetricWriter(job.settings, job.run_id, output, rollbacks)
        reporters = [Reporter(writer, rollbacks)]
    watch = Watch(Guard(config.grpo.guards, scales_loss=arguments.fp16))
    trainer = PolicyTrainer(
        model=policy.model,
        processing_class=policy.tokenizer,
        args=arguments,
        reward_funcs=[for_trl(reward) for reward in rewards],
        train_dataset=train_rows(examples, config),
        peft_config=lora_settings(config.policy.lora) if started is None else None,
        fast_path=config.grpo.fast_path,
        whole_checkpoints=whole_checkpoints(config.grpo),
        blocks=Blocks(output, [example.id for example in examples], config.grpo.redraws, config.seed),
        callbacks=[*reporters, watch, LearningRate()],
    )
    if arguments.fp16:
        keep_adapter_exact(trainer.model)
    return trainer


def _warm_up(rewards: Sequence[Reward], example: Example) -> None:
    """Load every reward's model before the first step, and score one completion, for what a user's function loads.

    Loading draws random numbers: in the middle of a training it would change the samples of a resumed one.
    """
    rollout = read_rollout(example.model_dump_json(), render_gold(example), 1)
    for reward in rewards:
        reward.load()
        score(reward, [rollout])


def train_rows(examples: list[Example], config: Config) -> Any:
    """The trainer's dataset: the prompt as a chat, and the example as JSON for the rewards."""
    from datasets import Dataset

    prompt = config.prompt
    return Dataset.from_dict(
        {
            "prompt": [messages(prompt.system, prompt.shown, render_question(example)) for example in examples],
            "example": [example.model_dump_json() for example in examples],
        }
    )
