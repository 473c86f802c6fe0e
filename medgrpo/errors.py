"""The tree of failures. Each type names the boundary that was crossed; the message says what to do.

MedgrpoError
├── UserError               the user can mend it; exit code 2, never a stack trace
│   ├── ConfigError         a TOML file, a key or a `--set` override
│   ├── DataError           a source file, a column, a row
│   ├── ValidationFailed    the data broke a critical expectation
│   ├── BaseModelError      the base model's weights are missing or unreadable
│   ├── NotFoundError       an unknown checkpoint, model version or alias
│   ├── AuditFailed         a reward set pays for a cheat, or not for a gold answer
│   ├── PromotionStopped    the champion isn't what was compared, or the new one didn't answer when served
│   └── RequestRefused      (in serve/engine.py) a request that can't be answered as asked
├── RewardError             a reward raised, or returned what is no score
├── TrainingError           the training process ended badly
│   ├── TrainingRefused     … for a reason that a retry can't mend (config, memory, NaN)
│   │   └── GuardBroken     (in grpo/guards.py) … a guard's bound; may be caught for a rollback
│   └── TrainingCrashed     … for any other reason: retried from the newest checkpoint
│       └── TrainingStopped somebody asked it to end (SIGTERM)
├── TrackingError           MLflow refused a read, or a write that nothing can go on without
└── ServeError              the served stage, or vLLM, did not start or did not answer
"""


class MedgrpoError(Exception):
    """Any failure that medgrpo raises on purpose."""

    exit_code = 1


class UserError(MedgrpoError):
    """A mistake that the user can mend: shown as one message, without a stack trace."""

    exit_code = 2


class ConfigError(UserError):
    """A config file, key or override is wrong; the message lists every fault at once."""


class DataError(UserError):
    """A data source can't be read as questions; the message names the file, row or column."""


class ValidationFailed(UserError):
    """The question set broke a critical expectation; the message names the rows."""


class BaseModelError(UserError):
    """The base model can't be found or read."""


class NotFoundError(UserError):
    """A checkpoint, model version or alias doesn't exist."""


class RewardError(MedgrpoError):
    """A reward raised, or returned a wrong number of scores, NaN or infinity."""


class AuditFailed(UserError):
    """A reward set pays a known cheat, or withholds marks from a gold answer."""


class PromotionStopped(UserError):
    """A move of the champion was not made, or undone; the message says who is champion and what to do."""


class TrainingError(MedgrpoError):
    """The training process ended without a finished run."""


class TrainingRefused(TrainingError):
    """Training can't succeed as configured: a retry would end the same way."""


class TrainingCrashed(TrainingError):
    """Training died: a retry goes on from the newest checkpoint that verifies."""


class TrainingStopped(TrainingCrashed):
    """Training was asked to end, by SIGTERM: a retry goes on from the newest checkpoint."""


class TrackingError(MedgrpoError):
    """MLflow couldn't be reached or is set up wrongly."""


class ServeError(MedgrpoError):
    """The served stage, or vLLM, didn't start or didn't answer."""
