"""What the training process does: load, resume, train, save. Everything it needs comes in one JSON file."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medgrpo.answer import messages, render_gold, render_question
from medgrpo.config import Config
from medgrpo.data.store import read_split
from medgrpo.errors import TrainingRefused
from medgrpo.grpo.checkpoints import verified
from medgrpo.grpo.protocol import Job
from medgrpo.policy import Policy, load_base
from medgrpo.rewards import Context, Reward
from medgrpo.rewards.scorer import forget_scorers, share_scorer
from medgrpo.rewards.scoring import prepared, score
from medgrpo.rewards.trl import for_trl, read_rollout
from medgrpo.tracking import MetricWriter, connect
from medgrpo.types import Example

log = logging.getLogger(__name__)


def run(job: Job) -> None:
    """Train to the last step, from the newest checkpoint that verifies.

    Raises:
        TrainingRefused: no step could be made, or NaN appeared.
    """
    config, output = job.config, Path(job.output)
    resume = verified(output)
    if resume:
        log.info("going on from step %d", resume[-1][0])
    examples = read_split(job.dataset, "train", job.settings)
    rewards = prepared(config.rewards, context(job, examples))
    forget_scorers()  # what measured a band now would be a second base beside the policy
    trainer = build_trainer(job, examples, rewards)
    share_scorer(job.base.folder, Policy(trainer.model, trainer.processing_class))
    _warm_up(rewards, examples[0])
    trainer.train(resume_from_checkpoint=str(resume[-1][1]) if resume else None)
    if trainer.state.global_step < config.grpo.steps:
        raise TrainingRefused(
            f"training ended after {trainer.state.global_step} of {config.grpo.steps} steps: "
            "are there fewer train rows than grpo.prompts_per_step?"
        )


def context(job: Job, examples: list[Example]) -> Context:
    """What the job's rewards are made ready with."""
    policy = job.config.policy
    limit = job.config.grpo.max_completion_tokens
    return Context(job.base, examples, limit, job.settings, policy.dtype, policy.load_in_4bit)


def build_trainer(job: Job, examples: list[Example], rewards: Sequence[Reward]) -> Any:
    """The trainer with policy, rewards, rows and callbacks in place."""
    from peft import LoraConfig
    from trl import GRPOTrainer

    from medgrpo.grpo.arguments import trl_arguments
    from medgrpo.grpo.callbacks import Reporter, Sealer
    from medgrpo.grpo.trainer import SharedPrefixTrainer, rollout

    config = job.config
    policy = load_base(job.base.folder, config.policy.dtype, config.policy.load_in_4bit)
    lora = config.policy.lora
    writer = MetricWriter(connect(job.settings), job.run_id)
    shared = config.grpo.fast_path
    return (SharedPrefixTrainer if shared else GRPOTrainer)(
        model=policy.model,
        processing_class=policy.tokenizer,
        args=trl_arguments(config, Path(job.output)),
        reward_funcs=[for_trl(reward) for reward in rewards],
        train_dataset=train_rows(examples, config),
        peft_config=LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            target_modules=list(lora.target_modules),
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
        ),
        rollout_func=rollout if shared else None,
        callbacks=[Reporter(writer), Sealer()],
    )


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
