"""From a growing list of tokens to text that can be sent: whole characters, and nothing that may become a stop text."""

from collections.abc import Callable, Sequence

HALF = "\N{REPLACEMENT CHARACTER}"


class GrowingText:
    """The text of one completion as its tokens come."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        """Begin with no text.

        Args:
            decode: tokens → text.
            stop: texts that end the completion.
        """
        self._decode = decode
        self._stop = stop
        self._sent = ""
        self.stopped = False
        """Whether a stop text has come: nothing comes after it."""

    def take(self, tokens: Sequence[int], ended: bool) -> str:
        """What can be sent now and wasn't yet.

        Args:
            tokens: all of the completion's tokens so far.
            ended: no more come: what was held back is sent, too.
        """
        text = self._decode(tokens)
        if (cut := first(text, self._stop)) is not None:
            self.stopped = True
            text = text[:cut]
        elif not ended:
            text = text[: self._certain(text)]
        if not text.startswith(self._sent):  # a later token changed how an earlier one reads: wait for it to settle
            return ""
        new = text[len(self._sent) :]
        self._sent = text
        return new

    def _certain(self, text: str) -> int:
        """Up to where no further token can change the text or make it a stop text."""
        whole = len(text.rstrip(HALF))
        held = (length for word in self._stop for length in range(1, len(word)) if text.endswith(word[:length]))
        return min(whole, len(text) - max(held, default=0))


def first(text: str, words: Sequence[str]) -> int | None:
    """Where the first of some words begins in a text; None: none is in it."""
    return min((text.find(word) for word in words if word in text), default=None)
