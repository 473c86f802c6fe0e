"""The answer grammar: the prompt that asks for it, the parser that reads it, and the judge of a parsed answer.

A completion follows the grammar when it is exactly one `<reasoning>…</reasoning>` block, then exactly one
`<answer>…</answer>` block, with nothing but white space outside and something inside each.
"""

import re
from collections.abc import Callable
from datetime import date, datetime
from typing import Any

from medgrpo.types import Example, Kind, Parsed

DEFAULT_SYSTEM_PROMPT = """Respond in the following format:
<reasoning>
...
</reasoning>
<answer>
...
</answer>"""

_NUMBER = re.compile(r"([-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3})?)\s*(.*)", re.DOTALL)
_DATE_FORMATS = ("%m/%d/%Y", "%Y-%m-%d", "%B %d, %Y", "%d %B %Y")
_LETTER = re.compile(r"\(?([A-Za-z])\)?(?:\s*[.:)\-]\s*(.*)|\s*)", re.DOTALL)


def render_question(example: Example) -> str:
    """The user's message: the question, then one line per option."""
    lines = [example.question, *(f"{letter}. {text}" for letter, text in example.options.items())]
    return "\n".join(lines)


def render_gold(example: Example) -> str:
    """A completion in the strict grammar that gives the gold answer, with the worked reasoning where there is one."""
    gold = f"{example.gold} {example.unit}".strip() if example.kind == "numeric" else example.gold
    return render_completion(example.reasoning or "The facts in the question lead to this.", gold)


def render_completion(reasoning: str, answer: str) -> str:
    """A completion in the strict grammar."""
    return f"<reasoning>{reasoning}</reasoning>\n<answer>{answer}</answer>"


def messages(system: str, demonstrations: tuple[tuple[str, str], ...], question: str) -> list[dict[str, str]]:
    """The chat that asks one question.

    Args:
        system: the system prompt; left out when empty, for bases whose template has no such role.
        demonstrations: (question, completion) pairs, shown as earlier turns.
        question: the last user message.
    """
    turns = [{"role": "system", "content": system}] if system else []
    for shown_question, shown_completion in demonstrations:
        turns.append({"role": "user", "content": shown_question})
        turns.append({"role": "assistant", "content": shown_completion})
    return [*turns, {"role": "user", "content": question}]


def parse(completion: str) -> Parsed:
    """Read a completion, and note each way in which it breaks the grammar. Never raises; takes linear time."""
    faults: list[str] = []
    reasoning = _block(completion, "reasoning", faults)
    answer = _block(completion, "answer", faults)
    if reasoning is not None and answer is not None:
        if completion.index("<answer>") < completion.index("<reasoning>"):
            faults.append("answer before reasoning")
        if _outside(completion):
            faults.append("text outside the blocks")
    return Parsed(reasoning=reasoning, answer=answer, faults=tuple(faults))


def is_correct(answer: str | None, example: Example) -> bool:
    """Whether a parsed answer is right. Rewards and evaluation both ask here, so they can't disagree."""
    return answer is not None and _JUDGES[example.kind](answer.strip(), example)


def _block(text: str, tag: str, faults: list[str]) -> str | None:
    """Content of the only `<tag>` block, or None with the fault noted."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    if text.count(opening) > 1 or text.count(closing) > 1:
        faults.append(f"several {tag} blocks")
        return None
    start, end = text.find(opening), text.find(closing)
    if start < 0 or end < start:
        faults.append(f"no {tag} block")
        return None
    content = text[start + len(opening) : end].strip()
    if not content:
        faults.append(f"empty {tag} block")
    return content


def _outside(completion: str) -> bool:
    """Whether anything but white space stands before, between or after the two blocks, or one block is in the other."""
    before, _, rest = completion.partition("<reasoning>")
    inside, _, rest = rest.partition("</reasoning>")
    between, _, rest = rest.partition("<answer>")
    after = rest.partition("</answer>")[2]
    return bool(before.strip() or between.strip() or after.strip() or "<answer>" in inside)


def comparable(text: str) -> str:
    """Text for comparison: case, runs of white space and closing punctuation don't count."""
    return " ".join(text.casefold().split()).strip(" .,;:!\"'")


def _judge_choice(answer: str, example: Example) -> bool:
    """Right: the gold letter, the gold option's text, or both; a letter with another option's text is wrong.

    A bare letter of an option always means that option, also where the gold's text is that letter (blood group A).
    """
    if example.gold not in example.options:
        return False
    gold_text = comparable(example.options[example.gold])
    match = _LETTER.fullmatch(answer)
    is_bare = match is not None and not comparable(match[2] or "") and match[1].upper() in example.options
    if comparable(answer) == gold_text and not is_bare:
        return True
    if match is None:
        return False
    letter, text = match[1].upper(), comparable(match[2] or "")
    return letter == example.gold and text in ("", gold_text)


def _judge_numeric(answer: str, example: Example) -> bool:
    """Right: a number within the limits, or else the tolerance, alone or with the gold's own unit."""
    match = _NUMBER.fullmatch(answer)
    if match is None:
        return False
    unit = comparable(match[2])
    if unit and unit != comparable(example.unit):
        return False
    number, gold = read_number(match[1]), read_number(example.gold)
    lowest, highest = example.limits or (gold - example.tolerance, gold + example.tolerance)
    return lowest - 1e-9 <= number <= highest + 1e-9


def is_number(text: str) -> bool:
    """Whether a text is a number, alone, as a numeric gold must be; thousands may have commas."""
    match = _NUMBER.fullmatch(text)
    return match is not None and not match[2]


def read_number(text: str) -> float:
    """The number that a numeric gold is."""
    return float(text.replace(",", ""))


def _judge_date(answer: str, example: Example) -> bool:
    """Right: the gold's day, as month/day/year, year-month-day, or with the month's English name."""
    return (day := _read_date(answer)) is not None and day == _read_date(example.gold)


def _read_date(text: str) -> date | None:
    for form in _DATE_FORMATS:
        try:
            return datetime.strptime(text.strip(" ."), form).date()
        except ValueError:
            continue
    return None


def _judge_text(answer: str, example: Example) -> bool:
    """Right: the gold's words."""
    return comparable(answer) == comparable(example.gold)


_JUDGES: dict[Kind, Callable[[str, Example], Any]] = {
    "choice": _judge_choice,
    "numeric": _judge_numeric,
    "date": _judge_date,
    "text": _judge_text,
}
