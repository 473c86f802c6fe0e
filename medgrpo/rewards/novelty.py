"""How much of a reasoning is its own: neither said before, nor copied from the question."""

import re
from collections.abc import Iterable, Sequence

from medgrpo.answer import render_question
from medgrpo.types import Example

RUN = 4
"""Words in a run. A shorter text is read in shorter runs, down to single words."""
COPIED, OWN = 0.25, 0.5
"""Share of new runs at or below which the factor is 0, and at or above which it is 1.

Worked reasonings that quote a lot stay above `OWN`; a sentence said four times, or an echoed question with a few words
of one's own, lies at or below `COPIED`.
"""
LONGEST_WORD = 24
"""Letters of the longest word that is read as one; `hahahaha…` without a space is read letter by letter."""

_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """The words of a text, without case, punctuation and white space."""
    found = _WORD.findall(text.casefold())
    return [part for word in found for part in (word if len(word) > LONGEST_WORD else (word,))]


def runs_of(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """Every run of `size` words in a row; none where there are fewer."""
    return list(zip(*(words[start:] for start in range(size)), strict=False))


def novelty(reasoning: str, example: Example) -> float:
    """Factor in [0, 1]: the share of new runs, mapped from [`COPIED`, `OWN`] to [0, 1] and clipped.

    A run is new where it stands for the first time, not in the prompt either, and isn't made of the options' texts.
    The share is of the reasoning's words, so that a text said k times has a share of 1 / k, whatever its length.
    """
    words = words_of(reasoning)
    share = _new_runs(words, example) / len(words) if words else 0.0
    return min(1.0, max(0.0, (share - COPIED) / (OWN - COPIED)))


def _new_runs(words: Sequence[str], example: Example) -> int:
    size = min(RUN, 1 + len(words) // 3)
    seen = set(runs_of(words_of(render_question(example)), size))
    from_options = _of_options(words, example.options.values())
    new = 0
    for place, run in enumerate(runs_of(words, size)):
        if run not in seen and 4 * sum(from_options[place : place + size]) < 3 * size:
            new += 1
        seen.add(run)
    return new


def _of_options(words: Sequence[str], options: Iterable[str]) -> list[bool]:
    """For each word, whether it belongs to the whole text of an option: such a list says nothing, in any order."""
    texts = {tuple(words_of(option)) for option in options} - {()}
    marked = [False] * len(words)
    for text in texts:
        for place, run in enumerate(runs_of(words, len(text))):
            if run == text:
                marked[place : place + len(text)] = [True] * len(text)
    return marked
