"""Refusals: completions that decline to answer, found by phrases in which language models do so."""

import re

from medgrpo.types import Parsed

# What declines, then what is declined: 'I cannot sleep' is a patient's word, 'I cannot advise' is none.
_DECLINES = (
    *("can ?not", "can't", "could not", "couldn't", "will not", "won't", "am unable to", "'m unable to"),
    *("am not able to", "'m not able to", "must decline to", "do not feel comfortable", "am not qualified to"),
    *("'m not qualified to", "am not allowed to", "'m not allowed to"),
)
_DECLINED = (
    *("answer", "provide", "help", "assist", "give", "giving", "providing", "offer", "advise", "diagnose"),
    *("comply", "recommend", "respond", "discuss", "fulfil", "make a diagnosis"),
)
_WHOLE = (
    *("as an ai", "as a language model", "as a large language model", "i do not know", "i don't know"),
    *("i am not a doctor", "i'm not a doctor", "i am not a medical professional", "i'm not a medical professional"),
    *("i am sorry, but i", "i'm sorry, but i", "i am just an ai", "i'm just an ai", "i decline to answer"),
)
_REFUSAL = re.compile(
    rf"\bi ?(?:{'|'.join(_DECLINES)}) (?:\w+ly )?(?:{'|'.join(_DECLINED)})\b|\b(?:{'|'.join(_WHOLE)})\b"
)


def is_refusal(completion: str, parsed: Parsed) -> bool:
    """Whether a completion declines to answer: in its answer, or anywhere where it gives none.

    A reasoning may say 'I cannot give one cause' and come to an answer all the same.
    """
    text = completion if parsed.answer is None else parsed.answer
    return _REFUSAL.search(" ".join(text.replace("’", "'").casefold().split())) is not None
