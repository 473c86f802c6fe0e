"""Texts that a wrong encoding damaged: what was lost or mixed up can't be learnt from."""

import re

# Controls other than tabs, line ends and page breaks; half a surrogate pair; what decoders write for bytes they can't
# read.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ENTITY = re.compile(
    r"&(?:amp|lt|gt|quot|apos|nbsp|deg|micro|plusmn|alpha|beta|gamma|mdash|ndash|#\d{2,6}|#x[0-9A-Fa-f]{2,5});"
)
# ftfy takes a quarter of a millisecond. Mojibake is a letter or sign that bytes C2 to F4 become in a usual encoding,
# and right after it another one, or a space where a byte became one. Accented words and CJK text rarely look like
# that.
_SUSPICIOUS = re.compile("[\x80-\u04ff\u2200-\u22ff][^\x00-\x7f]|[ÃÂâÐÑ][ \xa0]")
_NON_ASCII_PAIR = re.compile("[^\x00-\x7f]{2}")  # much faster than the pattern above, and in few texts
_SPACED = re.compile("[ÃÂâÐÑ] ")


def find_damage(text: str) -> str:
    """What is damaged and where, the first of each kind ('mojibake: Ã©; control character: …'); empty if intact."""
    found = []
    if not text.isascii():
        at = text.find("\ufffd")
        if at >= 0:
            found.append(f"replacement character: {text[max(0, at - 9) : at + 10]!r}")
        if _SURROGATE.search(text):
            found.append("half a surrogate pair")
        elif mojibake := _mojibake(text):
            found.append(f"mojibake: {mojibake}")
    if not text.replace("\n", "").isprintable() and (control := _CONTROL.search(text)):
        found.append(f"control character: {control[0]!r}")
    if "&" in text and (entity := _ENTITY.search(text)):
        found.append(f"HTML entity: {entity[0]}")
    return "; ".join(found)


def _mojibake(text: str) -> str:
    if not (_NON_ASCII_PAIR.search(text) or _SPACED.search(text)) or not _SUSPICIOUS.search(text):
        return ""
    from ftfy.badness import BADNESS_RE

    match = BADNESS_RE.search(text)
    return str(match[0]) if match else ""
