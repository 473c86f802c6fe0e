"""Disguises: what makes a text look like an answer that it isn't, or hides one: look-alike letters, markup, JSON."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

_MARKUP = re.compile(
    r"\\[A-Za-z(\[{]"  # LaTeX: \boxed{…}, \(…\)
    r"|\$[^$]*\$"
    r"|\*\*|`|^#+ |^[*+] |^\|"  # Markdown
    r"|^[{\[]"  # JSON
    r"|</?[A-Za-z]{1,10} ?/?>"  # HTML
)
_WORD = re.compile(r"[^\W\d_]+")
# Letters without a shape, and marks that join or choose shapes: none is seen.
_SHAPELESS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | {chr(c) for c in range(0xFE00, 0xFE10)}
_LOOKS_LATIN = frozenset("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧινου")  # of the Greek letters; α, β, κ and μ are parts of medical words
_OTHER_SCRIPTS = frozenset({"CYRILLIC", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU", "DESERET"})


def is_disguised(answer: str, known: Sequence[str]) -> bool:
    """Whether an answer is wrapped in markup, or has characters that aren't seen, or words of several scripts.

    Args:
        known: the gold's and the options' texts: what they have themselves disguises nothing.
    """
    stripped = answer.strip()
    if _markup([stripped]) - _markup(known):
        return True
    if stripped.isascii() and stripped.replace("\n", "").isprintable():
        return False
    return bool((_unseen(answer) - _unseen("".join(known))) or (_mixed([answer]) - _mixed(known)))


def _markup(texts: Iterable[str]) -> set[str]:
    """The signs that markup begins with."""
    return {found[0][0] for text in texts for found in _MARKUP.finditer(text.strip())}


def _unseen(text: str) -> set[str]:
    """Control and format characters, and others that show nothing."""
    return {
        character
        for character in set(text)
        if character in _SHAPELESS or (unicodedata.category(character) in {"Cc", "Cf"} and character not in "\n\r\t")
    }


def _mixed(texts: Iterable[str]) -> set[str]:
    """The words that mix scripts which look alike, or have the letters of formulas."""
    words = {word for text in texts for word in _WORD.findall(text) if not word.isascii()}
    return {word for word in words if _is_mixed(set(word))}


def _is_mixed(letters: set[str]) -> bool:
    scripts = {unicodedata.name(letter, "?").split()[0] for letter in letters}
    if scripts & {"MATHEMATICAL", "FULLWIDTH"}:
        return True
    latin_with_other = "LATIN" in scripts and (scripts & _OTHER_SCRIPTS or letters & _LOOKS_LATIN)
    return bool(latin_with_other) or {"CYRILLIC", "GREEK"} <= scripts
