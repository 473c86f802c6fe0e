"""Everything that changes a result: frozen models, one per TOML section. Read a file with `config_file.read_config`."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from medgrpo.answer import DEFAULT_SYSTEM_PROMPT
from medgrpo.base_models import AnyBase, WheelBase
from medgrpo.data import AnySource, ClinicalSource
from medgrpo.data.checks import CheckName
from medgrpo.data.source import Licence
from medgrpo.gate.rules import DEFAULT_RULES, AnyRule
from medgrpo.rewards import PRESETS, AnyReward
from medgrpo.types import Frozen, Severity, Split

Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=64)]


class DataConfig(Frozen):
    """The questions and how they are split."""

    source: AnySource = ClinicalSource()
    """Where the questions come from."""
    benchmarks: tuple[AnySource, ...] = ()
    """Evaluation sets: source rows that overlap their questions are left out, so that none of it is trained on."""
    validation_rows: int = Field(default=64, ge=1)
    """Held-out rows on which checkpoints are compared."""
    test_rows: int = Field(default=128, ge=1)
    """Held-out rows on which the gate decides. Nothing is ever chosen on them."""
    max_prompt_tokens: int = Field(default=512, ge=1)
    """Rows whose prompt is longer are dropped, with the reason kept."""
    near_duplicate: float = Field(default=0.85, gt=0.5, le=1)
    """Jaccard similarity of word shingles from which on two questions count as one."""
    language: str = "en"
    """ISO 639-1 code that the questions are expected in; empty: any."""
    allowed_licences: tuple[Licence, ...] = (
        "own",
        "public-domain",
        "cc0-1.0",
        "cc-by-4.0",
        "cc-by-sa-4.0",
        "mit",
        "apache-2.0",
    )
    """SPDX identifiers in lower case; `own` is what the user holds the rights to."""
    severities: dict[CheckName, Severity] = Field(default_factory=dict)
    """Check → `critical` (stops a run) or `warning`, where it is to differ from the default."""

    @field_validator("language")
    @classmethod
    def _is_code(cls, language: str) -> str:
        if language and not (len(language) == 2 and language.isascii() and language.islower()):
            raise ValueError('two letters of ISO 639-1, such as "en"; "" for no check')
        return language

    @property
    def sources(self) -> tuple[AnySource, ...]:
        """Everything that is read: the questions, then the benchmarks."""
        return (self.source, *self.benchmarks)

    def pinned(self) -> "DataConfig":
        """The same, with the newest revision of each hub source that had none.

        Raises:
            DataError: a revision can't be found.
        """
        source, *benchmarks = (source.pinned() for source in self.sources)
        return self.model_copy(update={"source": source, "benchmarks": tuple(benchmarks)})


class LoraConfig(Frozen):
    """The adapter."""

    r: int = Field(default=16, ge=1)
    """Rank."""
    alpha: int = Field(default=32, ge=1)
    """Scale: the update is multiplied by alpha / r."""
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the linear layers that get an adapter."""


class PolicyConfig(Frozen):
    """The base model and the adapter that is trained on it."""

    base: AnyBase = WheelBase()
    """Where the base model's weights come from."""
    lora: LoraConfig = LoraConfig()
    """The adapter's shape."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Compute dtype. `auto`: bfloat16 where the GPU has it, else float16 on a GPU, float32 on a CPU."""
    load_in_4bit: bool = False
    """Load the base in 4 bits (NF4, double quantization). Needs a CUDA device."""


class Demonstration(Frozen):
    """A worked question, shown to the policy before each question."""

    question: str
    """The user's turn."""
    completion: str
    """The assistant's turn, in the answer grammar."""


class PromptConfig(Frozen):
    """How a question is put to the policy, in training, evaluation and serving alike."""

    system: str = DEFAULT_SYSTEM_PROMPT
    """The system prompt."""
    demonstrations: tuple[Demonstration, ...] = ()
    """Worked questions shown as earlier turns."""

    @property
    def shown(self) -> tuple[tuple[str, str], ...]:
        """The demonstrations as (question, completion) pairs."""
        return tuple((d.question, d.completion) for d in self.demonstrations)


class GuardConfig(Frozen):
    """Bounds on the signs of collapse. A bound that is broken for `patience` steps in a row ends the training."""

    action: Literal["stop", "rollback"] = "stop"
    """`stop`: end with the reason. `rollback`: go on from the newest good checkpoint with a lower learning rate."""
    patience: int = Field(default=5, ge=1)
    """Steps in a row that a bound must be broken for. NaN ends a training at once."""
    min_entropy: float = Field(default=0.0, ge=0)
    """Nats per token; below it the policy says the same whatever it is asked. 0: no bound."""
    max_kl: float | None = Field(default=None, gt=0)
    """Nats per token from the reference policy; needs `beta` above 0."""
    max_clipped_ratio: Share = 1.0
    """Share of completions that are cut off at `max_completion_tokens`; 1: no bound."""
    max_degenerate_ratio: Share = 1.0
    """Share of groups whose rewards are all the same; 1: no bound."""
    learning_rate_factor: float = Field(default=0.5, gt=0, lt=1)
    """What a rollback multiplies the learning rate by."""
    max_rollbacks: int = Field(default=2, ge=1)
    """After so many rollbacks the training is ended."""


class WarmStartConfig(Frozen):
    """Supervised training on worked answers of train rows, before GRPO, of the same adapter."""

    rows: int = Field(default=128, ge=1)
    """Train rows whose worked answer is shown, drawn once."""
    epochs: int = Field(default=1, ge=1)
    """How often each of them is shown."""
    batch_size: int = Field(default=8, ge=1)
    """Rows per optimiser step."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """Peak learning rate; it falls linearly."""


class GrpoConfig(Frozen):
    """Training with group relative policy optimisation."""

    steps: int = Field(default=200, ge=1)
    """Optimiser steps."""
    checkpoints: int = Field(default=4, ge=1)
    """At most so many checkpoints are kept and evaluated, evenly spaced; the last one is at the last step."""
    prompts_per_step: int = Field(default=4, ge=1)
    """Questions per optimiser step."""
    num_generations: int = Field(default=8, ge=2)
    """Completions sampled per question: the group size G."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Parts that a step's completions are split into, to save memory."""
    max_completion_tokens: int = Field(default=128, ge=1)
    """Completions are cut at this many tokens."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling bound."""
    learning_rate: float = Field(default=5e-5, gt=0)
    """Peak learning rate."""
    lr_schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    """How the learning rate falls."""
    warmup_ratio: Share = 0.1
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm."""
    beta: float = Field(default=0.0, ge=0)
    """Weight of the KL divergence from the reference policy; 0 needs no reference."""
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"] = "dapo"
    """How token losses are averaged (TRL's names)."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """What the advantages are divided by the standard deviation of."""
    mask_truncated_completions: bool = False
    """Leave completions that were cut off out of the loss."""
    num_iterations: int = Field(default=1, ge=1)
    """Optimiser steps that are made on each step's completions (μ of the GRPO paper)."""
    fast_path: bool = True
    """Make steps cheaper without changing their numbers, where that can be done; false: TRL's own path everywhere."""
    rollouts: Literal["transformers", "vllm-colocate", "vllm-server"] = "transformers"
    """What samples completions: this process, vLLM inside of it, or a vLLM server (`MEDGRPO_VLLM_URL`)."""
    redraws: int = Field(default=0, ge=0)
    """Dynamic sampling: how often a step may draw other prompts for groups whose rewards are all the same."""
    guards: GuardConfig = GuardConfig()
    """When a training that goes wrong is ended."""

    @model_validator(mode="after")
    def _parts_fit(self) -> "GrpoConfig":
        if self.completions_per_step % self.gradient_accumulation_steps:
            raise ValueError(
                f"gradient_accumulation_steps must divide prompts_per_step x num_generations = "
                f"{self.completions_per_step}"
            )
        if self.checkpoints > self.steps:
            raise ValueError("more checkpoints than steps")
        if self.guards.max_kl is not None and self.beta == 0:
            raise ValueError("guards.max_kl needs beta above 0: without a reference policy no divergence is measured")
        return self

    @property
    def completions_per_step(self) -> int:
        """Completions sampled for one optimiser step."""
        return self.prompts_per_step * self.num_generations

    @property
    def save_every(self) -> int:
        """Steps from one checkpoint to the next; completions that are used several times are used up by then."""
        return -(-self.steps // (self.checkpoints * self.num_iterations)) * self.num_iterations

    @property
    def checkpoint_steps(self) -> tuple[int, ...]:
        """The steps after which a checkpoint is made and later evaluated."""
        return (*range(self.save_every, self.steps, self.save_every), self.steps)


class EvaluationConfig(Frozen):
    """How checkpoints are measured: greedy decoding in the strict grammar, and more where it is asked for."""

    samples: int = Field(default=0, ge=0)
    """Completions that are also sampled per row of the test rows and benchmarks, for pass@k and maj@k; 0: none."""
    temperature: float = Field(default=1.0, gt=0)
    """At which they are sampled."""
    orders: int = Field(default=1, ge=1)
    """Orders of the options that test and benchmark rows of kind `choice` are asked in, their own among them."""
    benchmark_rows: int = Field(default=0, ge=0)
    """Rows of each of `data.benchmarks` that the best checkpoint and the incumbent are measured on; 0: none."""

    engine: Literal["transformers", "vllm"] = "transformers"
    """What completes the prompts: this process, or vLLM beside it (`MEDGRPO_VLLM_COMMAND`)."""
    max_completion_tokens: int = Field(default=128, ge=1)
    """Completions are cut at this many tokens."""
    batch_size: int = Field(default=32, ge=1)
    """Rows generated together."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Level of the intervals."""
    resamples: int = Field(default=2000, ge=100)
    """Bootstrap resamples."""

    def on(self, split: Split, benchmark: str = "") -> "EvaluationConfig":
        """What of this is done on some rows: more than greedy decoding on the test rows and benchmarks alone."""
        everything = split == "test" or bool(benchmark)
        samples, orders = (self.samples, self.orders) if everything else (0, 1)
        temperature = self.temperature if samples else 1.0
        changes = {"samples": samples, "orders": orders, "temperature": temperature, "benchmark_rows": 0}
        return self.model_copy(update=changes)


class GateConfig(Frozen):
    """When the champion moves: every rule must hold."""

    rules: tuple[AnyRule, ...] = DEFAULT_RULES
    """What a challenger must show; a list in a config takes the place of the default rules, all of them."""

    @model_validator(mode="before")
    @classmethod
    def _no_old_keys(cls, tree: Any) -> Any:
        old = [key for key in ("margin", "min_format_rate") if isinstance(tree, dict) and key in tree]
        if old:
            raise ValueError(
                f'{" and ".join(old)} moved into rules: write [[gate.rules]] with kind = "better" and its '
                'margin, [[gate.rules]] with kind = "format" and its floor, and those of the other rules of '
                "docs/evidence.md that are to hold"
            )
        return tree

    @field_validator("rules")
    @classmethod
    def _decides(cls, rules: tuple[AnyRule, ...]) -> tuple[AnyRule, ...]:
        kinds = [rule.kind for rule in rules]
        if doubled := {kind for kind in kinds if kinds.count(kind) > 1}:
            raise ValueError(f"more than one rule is of kind {', '.join(sorted(doubled))}: keep one of each")
        if kinds.count("better") + kinds.count("better-or-cheaper") != 1:
            raise ValueError('name one rule of kind "better" or "better-or-cheaper": nothing else shows an improvement')
        return rules


class RegistryConfig(Frozen):
    """Where versions are kept."""

    model_name: str = ""
    """Registered model in MLflow; empty: `medgrpo-` and the config's name."""
    approval: bool = False
    """A person approves each promotion (`medgrpo promote`, the flow medgrpo-promotion); runs end with a challenger."""


class ServeConfig(Frozen):
    """What the served stage allows."""

    max_completion_tokens: int = Field(default=256, ge=1)
    """Longest completion that a request may ask for, and its length where it doesn't say."""
    max_messages: int = Field(default=64, ge=1)
    """Longest conversation that a request may hold, in messages."""


class Config(Frozen):
    """One pipeline, whole."""

    name: Name
    """Names the MLflow experiment and the registered model."""
    seed: int = Field(default=0, ge=0)
    """Decides the built-in questions, the split, the sampling and the adapter's first weights."""
    data: DataConfig = DataConfig()
    """The questions."""
    policy: PolicyConfig = PolicyConfig()
    """What is trained."""
    prompt: PromptConfig = PromptConfig()
    """How a question is put."""
    rewards: tuple[AnyReward, ...] = Field(default=PRESETS["default"], min_length=1)
    """The total reward is the weighted sum of these; or the name of a preset: default, corrected, original."""
    warm_start: WarmStartConfig | None = None
    """Supervised training before GRPO; None: GRPO starts from the base model."""
    grpo: GrpoConfig = GrpoConfig()
    """How the policy is trained."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How checkpoints are measured."""
    gate: GateConfig = GateConfig()
    """When a challenger replaces the champion."""
    registry: RegistryConfig = RegistryConfig()
    """The model registry."""
    serve: ServeConfig = ServeConfig()
    """The limits of the served stage."""

    @model_validator(mode="after")
    def _whole_weights_in_vllm(self) -> "Config":
        if self.evaluation.engine == "vllm" and self.policy.load_in_4bit:
            raise ValueError(
                'evaluation.engine = "vllm" would measure another policy than the one on a 4-bit base: choose '
                '"transformers", or policy.load_in_4bit = false'
            )
        return self

    @field_validator("rewards", mode="before")
    @classmethod
    def _from_preset(cls, rewards: Any) -> Any:
        if isinstance(rewards, str) and rewards not in PRESETS:
            raise ValueError(f"no preset has this name: choose {', '.join(PRESETS)}, or write [[rewards]] tables")
        return PRESETS[rewards] if isinstance(rewards, str) else rewards

    @model_validator(mode="after")
    def _one_reward_of_a_name(self) -> "Config":
        labels = [reward.label for reward in self.rewards]
        if doubled := {label for label in labels if labels.count(label) > 1}:
            raise ValueError(
                f"rewards: more than one is named {', '.join(sorted(doubled))}: give it one weight or another name"
            )
        return self

    @property
    def shortest_completion_limit(self) -> int:
        """Tokens that a completion may have wherever it is asked for, in training and in evaluation."""
        return min(self.grpo.max_completion_tokens, self.evaluation.max_completion_tokens)

    @property
    def model_name(self) -> str:
        """The registered model's name in MLflow."""
        return self.registry.model_name or f"medgrpo-{self.name}"
