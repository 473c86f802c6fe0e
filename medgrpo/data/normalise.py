"""Normalise: one form for texts that look the same, so that equal questions are equal, whatever file they come from."""

import re
import unicodedata

_BREAKS = "\r\v\f\x85\u2028\u2029"
_SPACES = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
# Not control characters: they are what a wrong encoding leaves behind, and the checks report them.
_INVISIBLE = "\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f"
_ODD = re.compile(f"([{_BREAKS}])|([{_SPACES}])|[{_INVISIBLE}]")
_HALF = re.compile("[\ud800-\udfff]")


def normalise(text: str) -> str:
    """Text in Unicode NFC, with plain spaces and line breaks, without invisible characters and outer white space.

    Raises:
        ValueError: half of a surrogate pair, which no file can hold: a character was cut in two.
    """
    # Printable are all characters but the odd ones, tabs and line breaks: most texts need no closer look.
    if not text.isprintable() and not text.replace("\n", "").isprintable():
        text = _plain(text)
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if "\n" in text:
        # Not a regular expression: `[ \t]+\n` takes quadratic time on a long run of spaces.
        text = "\n".join([line.rstrip() for line in text.split("\n")])
    return text.strip()


def _plain(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\u00a0", " ")  # by far the most frequent, and much faster so
    if text.replace("\n", "").isprintable():
        return text
    if half := _HALF.search(text):
        raise ValueError(f"character {half.start() + 1} is half of a surrogate pair (\\u{ord(half[0]):04x})")
    return _ODD.sub(_replace, text)


def _replace(odd: re.Match[str]) -> str:
    return "\n" if odd[1] else " " if odd[2] else ""
