"""Guards on a training: bounds on the signs of collapse; which was broken, from which step on, and what to change."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from medgrpo.config import GuardConfig
from medgrpo.errors import TrainingRefused

OVERFLOWS = 10
"""Steps in a row whose gradient may overflow in float16: the loss scale starts too high, and such steps are skipped."""
SHOWN = 5
"""Newest values of a broken stretch that a reason names."""
NO_PROBABILITIES = "probability tensor contains"
"""torch's words when it is to draw from NaN."""
NAN_ADVICE = "lower grpo.learning_rate or grpo.max_grad_norm, or use policy.dtype = 'float32'"


class Broken(NamedTuple):
    """A guard's finding."""

    first: int
    """First step of the stretch."""
    step: int
    """The step at which patience ended."""
    reason: str
    """Which bound, with the values, and what to change."""


class GuardBroken(TrainingRefused):
    """A guard ended the training; where the config asks for a rollback, it goes on from a checkpoint before."""

    def __init__(self, broken: Broken) -> None:
        super().__init__(broken.reason)
        self.broken = broken


def no_probabilities(step: int) -> Broken:
    """What it means that the policy gives NaN for a token at a step."""
    return Broken(step, step, f"the policy's probabilities are NaN at step {step}: {NAN_ADVICE}")


def broken_by(error: Exception, step: int) -> Broken | None:
    """What an error during a step says about the training; None: nothing that a lower learning rate could mend."""
    if isinstance(error, GuardBroken):
        return error.broken
    if NO_PROBABILITIES in str(error):
        return no_probabilities(step)
    return None


class _Bound(NamedTuple):
    """One bound on one figure of a step."""

    key: str
    """Where the config has it."""
    figures: tuple[str, ...]
    """Names of the figure; the first that a step has is read."""
    lowest: float
    highest: float
    patience: int
    advice: str

    def __str__(self) -> str:
        return f"{self.key} = {self.lowest if math.isinf(self.highest) else self.highest:g}"


class Guard:
    """Counts, bound by bound, the steps in a row that broke it.

    A step that lacks a figure neither breaks its bound nor ends a stretch: completions are counted only in steps
    that sample some.
    """

    def __init__(self, config: GuardConfig, *, scales_loss: bool = False) -> None:
        """Watch for what the config bounds, and for NaN.

        Args:
            scales_loss: whether the trainer scales the loss, as in float16, so that a gradient may overflow now and
                then.
        """
        self._bounds = _bounds(config, OVERFLOWS if scales_loss else 1)
        self._stretches: dict[str, list[tuple[int, float]]] = {}

    def watch(self, figures: Mapping[str, float], step: int) -> Broken | None:
        """Take in one step's figures; tells when a bound has been broken for too long."""
        for bound in self._bounds:
            value = next((figures[name] for name in bound.figures if name in figures), None)
            if value is None:
                continue
            if bound.lowest <= value <= bound.highest and math.isfinite(value):
                self._stretches.pop(bound.key, None)
                continue
            stretch = self._stretches.setdefault(bound.key, [])
            stretch.append((step, value))
            if len(stretch) >= bound.patience:
                return Broken(stretch[0][0], step, _reason(bound, stretch))
        return None

    def replay(self, history: Iterable[Mapping[str, Any]]) -> None:
        """Count what a resumed training has logged before, so that patience doesn't start anew.

        Args:
            history: the trainer's `log_history`.
        """
        self._stretches.clear()
        for entry in history:
            numbers = {name: float(value) for name, value in entry.items() if isinstance(value, int | float)}
            self.watch(numbers, int(entry["step"]))


def _reason(bound: _Bound, stretch: list[tuple[int, float]]) -> str:
    first, last = stretch[0][0], stretch[-1][0]
    newest = ", ".join(f"{value:.4g}" for _, value in stretch[-SHOWN:])
    if bound.key in ("loss", "grad_norm"):
        return f"{bound.key} is {newest} at step {last}: {bound.advice}"
    since = f"at step {last}" if len(stretch) == 1 else f"for {len(stretch)} steps in a row, {first} to {last}"
    return f"{bound} was broken {since}: {bound.figures[-1]} was {newest}. {bound.advice}"


def _bounds(config: GuardConfig, overflows: int) -> list[_Bound]:
    inf, patience = math.inf, config.patience
    bounds = [
        _Bound("loss", ("loss",), -inf, inf, 1, NAN_ADVICE),
        _Bound("grad_norm", ("grad_norm",), -inf, inf, overflows, NAN_ADVICE),
    ]
    if config.min_entropy > 0:
        advice = "The policy always says the same: raise grpo.temperature, or lower grpo.learning_rate"
        bounds += [_Bound("grpo.guards.min_entropy", ("entropy",), config.min_entropy, inf, patience, advice)]
    if config.max_kl is not None:
        advice = "The policy runs away from the base model: raise grpo.beta, or lower grpo.learning_rate"
        bounds += [_Bound("grpo.guards.max_kl", ("kl",), -inf, config.max_kl, patience, advice)]
    if config.max_clipped_ratio < 1:
        key, name = "grpo.guards.max_clipped_ratio", ("completions/clipped_ratio",)
        advice = "Completions don't come to an end: raise grpo.max_completion_tokens, or pay for short ones"
        bounds += [_Bound(key, name, -inf, config.max_clipped_ratio, patience, advice)]
    if config.max_degenerate_ratio < 1:
        # Ours counts what redraws have left, and also where TRL divides by the whole batch's deviation.
        key, names = "grpo.guards.max_degenerate_ratio", ("degenerate_groups", "frac_reward_zero_std")
        advice = (
            "There is nothing to compare in these groups: raise grpo.temperature or grpo.redraws, "
            "or take questions that the policy gets right sometimes"
        )
        bounds += [_Bound(key, names, -inf, config.max_degenerate_ratio, patience, advice)]
    return bounds
