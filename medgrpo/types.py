"""The values that stages hand to one another: small, frozen, JSON-ready; ids and digests, never models or tables."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Kind = Literal["choice", "numeric", "range", "date", "text"]
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Severity = Literal["critical", "warning"]
Outcome = Literal["promoted", "champion already", "refused", "waits for approval"]
DropReason = Literal["exact duplicate", "near duplicate", "contradiction", "benchmark overlap", "prompt too long"]


class Frozen(BaseModel):
    """An immutable value without room for unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Example(Frozen):
    """One question with the answer that counts as right (its gold).

    `gold` is an option letter for kind `choice`, a decimal number for `numeric`, two of them as in `3.5-5.0` for
    `range`, a day as month/day/year for `date`, any text for `text`.
    """

    id: str = Field(min_length=1)
    kind: Kind
    question: str
    gold: str
    options: dict[str, str] = Field(default_factory=dict)
    """Letter → text, in the order shown. Only for kind `choice`."""
    tolerance: float = Field(default=0.0, ge=0)
    """Largest absolute difference from `gold` that is still right: of the number, or of each end of a range."""
    limits: tuple[float, float] | None = None
    """Lowest and highest number that is right, where the source gives them; else `gold` ± `tolerance`. Only for kind
    `numeric`."""
    unit: str = ""
    """The unit that `gold` is in. Only for kinds `numeric` and `range`."""
    aliases: tuple[str, ...] = Field(default=(), exclude_if=lambda aliases: not aliases)
    """Other texts that are right too. Only for kind `text`. Where there is none, JSON and digests leave it out."""
    topic: str = "general"
    reasoning: str = ""
    """A worked reasoning, where the source has one."""
    original: str = ""
    """The question that this one was rewritten from, where the source keeps it: benchmarks are looked for there too."""
    citation: str = ""
    """Where the gold comes from: a paper, a guideline, a data set."""

    @property
    def gold_text(self) -> str:
        """The gold as words: the option's text for a choice, numbers with their unit."""
        if self.kind == "choice":
            return self.options.get(self.gold, self.gold)
        return f"{self.gold} {self.unit}".strip() if self.kind in ("numeric", "range") else self.gold


class DatasetRef(Frozen):
    """A prepared question set, found by its key under `<home>/datasets/`."""

    key: str
    name: str
    rows: dict[Split, int]
    digests: dict[Split, str]
    benchmarks: dict[str, str] = Field(default_factory=dict)
    """Name of each benchmark → digest of the rows drawn from it; none where `evaluation.benchmark_rows` is 0."""


class Origin(Frozen):
    """Where a source's rows come from, as manifests and reports name it."""

    name: str
    """A path, a hub repository or the name of a built-in set."""
    revision: str = ""
    """The commit of a hub repository."""
    licence: str = ""
    """SPDX identifier in lower case, or `own`; empty: unknown."""
    citation: str = ""


class Drop(Frozen):
    """Why a source row isn't in the dataset."""

    reason: DropReason
    detail: str
    """What it was compared with, and the figure behind it."""


class BadRow(Frozen):
    """A row that broke an expectation, and the value that broke it (patient data is masked)."""

    id: str
    value: str


class ExpectationResult(Frozen):
    """One expectation about the data: whether it held, and which rows broke it."""

    name: str
    meaning: str
    """What is expected, as a sentence."""
    severity: Severity
    success: bool
    bad_rows: tuple[BadRow, ...] = ()
    """At most the first 20 rows that broke it."""
    bad_count: int = 0


class ValidationReport(Frozen):
    """What Great Expectations found in a dataset."""

    dataset_key: str
    results: tuple[ExpectationResult, ...]
    majority_accuracy: float
    """Accuracy of always giving the answer (of a choice: the letter) that is most frequent among the golds."""

    @property
    def critical_failures(self) -> tuple[ExpectationResult, ...]:
        """The failures that stop a run."""
        return tuple(r for r in self.results if r.severity == "critical" and not r.success)


class CheckpointRef(Frozen):
    """A policy that can be evaluated: the base model alone (`adapter_digest` empty), or with an adapter at a step."""

    train_key: str = ""
    step: int = 0
    adapter_digest: str = ""

    @classmethod
    def base(cls) -> "CheckpointRef":
        """The base model alone."""
        return cls()

    @property
    def is_base(self) -> bool:
        """Whether this is the base model without an adapter."""
        return not self.adapter_digest

    @property
    def label(self) -> str:
        """What people call it; step 0 is what GRPO started from, after a warm start."""
        if self.is_base:
            return "base"
        if not self.train_key:  # of an adapter that wasn't trained here nothing else is known
            return f"adapter {self.adapter_digest[:8]}"
        return f"step {self.step}" if self.step else "warm start"


class TrainingRef(Frozen):
    """A finished training: where its checkpoints are and which MLflow run tells of it."""

    key: str
    run_id: str
    checkpoints: tuple[CheckpointRef, ...]


class Interval(Frozen):
    """An estimate with its confidence interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


class SampledFigures(Frozen):
    """Figures over k sampled completions of each row."""

    samples: int
    """k."""
    temperature: float
    accuracy: Interval
    """Of a completion; rows are resampled, not completions."""
    pass_at: dict[int, Interval]
    """n → the chance that one of n completions is right (Chen et al. 2021, unbiased), for n = 1, 2, 4, … up to k."""
    majority: Interval
    """Accuracy of each row's most frequent answer (maj@k); among equally frequent ones the first that was given."""
    agreement: Interval
    """Share of a row's completions that give its most frequent answer: self-consistency."""
    calibration_error: float
    """Expected calibration error of agreement, taken as the confidence in the most frequent answer; ten equal bins."""


class OrderFigures(Frozen):
    """Figures over several orders of the options; rows of kind `choice` alone."""

    orders: int
    """Orders per row, the row's own among them."""
    rows: int
    accuracy: Interval
    """Mean over rows and orders; rows are resampled."""
    stable: Interval
    """Share of rows that get the same option, by its text, in every order."""
    places: dict[str, Interval]
    """Letter → share of answers that name it."""
    position_bias: float
    """Largest difference between a letter's share of answers and its share of golds."""


class EvalReport(Frozen):
    """Figures of one policy on one set of rows. The rows behind them lie under `<home>/evaluations/<key>/`."""

    key: str
    checkpoint: CheckpointRef
    split: Split
    benchmark: str = ""
    """Name of the benchmark whose rows these are; empty: the dataset's own split."""
    rows_digest: str
    """Digest of the rows: figures on other rows can't be compared."""
    rows: int
    accuracy: Interval
    """Right answers in the strict grammar."""
    lenient_accuracy: Interval
    """The same with format faults forgiven: never decides anything."""
    format_rate: Interval
    refusal_rate: Interval
    """Share of completions that decline to answer."""
    completion_tokens: Interval
    """Length of a completion in tokens."""
    topics: dict[str, Interval]
    """Accuracy per topic."""
    slices: dict[str, Interval]
    """Accuracy per safety slice that has rows: negation, dosing, paediatric, pregnancy."""
    slice_rows: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Slice → places of its rows in `correct`: what its paired comparison is made of."""
    correct: tuple[bool, ...]
    """Row by row, in the split's order: what paired comparisons are made of."""
    sampled: SampledFigures | None = None
    """None where `evaluation.samples` is 0."""
    orders: OrderFigures | None = None
    """None where `evaluation.orders` is 1 or no row is of kind `choice`."""

    @property
    def rows_name(self) -> str:
        """What people call the rows."""
        return self.benchmark or self.split


class Verdict(Frozen):
    """What one rule of the gate found."""

    rule: str
    """The rule's kind."""
    holds: bool
    reason: str
    """A sentence with every figure that the rule looked at."""
    figures: dict[str, float]
    """The same figures, for machines."""


class Decision(Frozen):
    """The gate's verdict, with every reason and figure behind it."""

    promote: bool
    verdicts: tuple[Verdict, ...]
    challenger: str
    """Key of the challenger's report on the test rows."""
    incumbent: str
    """Key of the report that it was compared with: the champion's, or the base model's."""
    difference: Interval
    """Challenger's accuracy minus the incumbent's, paired by row."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """One sentence per rule."""
        return tuple(verdict.reason for verdict in self.verdicts)


class ModelVersionRef(Frozen):
    """A version in the MLflow registry."""

    name: str
    version: int
    run_id: str
    adapter_digest: str


class RunRef(Frozen):
    """The MLflow run that a pipeline run writes to."""

    run_id: str
    key: str
    experiment_id: str


class ServedAnswer(Frozen):
    """What the served stage answered to one question, and which version said it."""

    question: str
    completion: str
    answer: str | None
    version: str


class Parsed(Frozen):
    """A completion read by the answer grammar."""

    reasoning: str | None
    answer: str | None
    faults: tuple[str, ...] = ()

    @property
    def is_strict(self) -> bool:
        """Whether the completion follows the grammar without a fault."""
        return not self.faults


class Rollout(Frozen):
    """One completion of one example's prompt, parsed: what a reward judges."""

    example: Example
    completion: str
    parsed: Parsed
    tokens: int = 0
    """Length of the completion in tokens of the base model."""

    @property
    def answer(self) -> str | None:
        """The answer of a completion that follows the grammar; None where it doesn't: it is worth nothing then."""
        return self.parsed.answer if self.parsed.is_strict else None

    @property
    def reasoning(self) -> str | None:
        """The reasoning of a completion that follows the grammar; None where it doesn't."""
        return self.parsed.reasoning if self.parsed.is_strict else None


class BaseRef(Frozen):
    """A base model on this disk: its folder, and the digest that stands for its content."""

    name: str
    folder: str
    digest: str
    revision: str = ""

    @model_validator(mode="after")
    def _has_digest(self) -> "BaseRef":
        if not self.digest:
            raise ValueError("a base model needs a digest")
        return self
