"""Text of a growing list of tokens: never half a character, never the beginning of what may become a stop text."""

from collections.abc import Callable, Sequence

HALF = "\ufffd"
"""What a tokenizer gives for bytes that are no whole character yet."""


class Detokeniser:
    """The text of one completion while its tokens come."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str]) -> None:
        """Start with nothing.

        Args:
            decode: token ids → text.
            stop: texts that end the completion.
        """
        self._decode = decode
        self._stop = stop
        self._sent = 0
        self.is_stopped = False
        """Whether a stop text came: the completion ends before it."""

    def read(self, tokens: Sequence[int], is_last: bool) -> str:
        """What is new and sure in the text of all tokens so far.

        Args:
            is_last: no more tokens come: what was held back is given, too.
        """
        text = self._decode(tokens)
        found = [text.find(word) for word in self._stop if word in text]
        if found:
            self.is_stopped, text = True, text[: min(found)]
        elif not is_last:
            text = text[: len(text) - self._unsure(text)]
        new = text[self._sent :]
        self._sent = max(self._sent, len(text))
        return new

    def _unsure(self, text: str) -> int:
        """How many characters at the end may still change, or belong to a stop text."""
        halves = len(text) - len(text.rstrip(HALF))
        beginnings = (
            length
            for word in self._stop
            for length in range(1, min(len(word), len(text)) + 1)
            if text.endswith(word[:length])
        )
        return max(halves, max(beginnings, default=0))
