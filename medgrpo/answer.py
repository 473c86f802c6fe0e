"""The answer grammar: the prompt that asks for it, and the parser that reads it.

A completion follows the grammar when it is exactly one `<reasoning>…</reasoning>` block, then exactly one
`<answer>…</answer>` block, with nothing but white space outside, something inside each, and three words of reasoning at
least. `medgrpo.judge` says what is right.
"""

import re

from medgrpo.types import Example, Parsed

DEFAULT_SYSTEM_PROMPT = """Respond in the following format:
<reasoning>
...
</reasoning>
<answer>
...
</answer>"""

_FEWEST_WORDS = 3
_LONGEST_LABEL = 6
"""Words of a line such as `Here is my thought process:` that is a label, where nothing follows it."""
# Scripts without spaces, in which each character counts as a word: Thai, Lao, Burmese, Khmer, Kana, Han, Hangul.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]"
)


def render_question(example: Example) -> str:
    """The user's message: the question, then one line per option."""
    lines = [example.question, *(f"{letter}. {text}" for letter, text in example.options.items())]
    return "\n".join(lines)


def render_gold(example: Example) -> str:
    """A completion in the strict grammar that gives the gold answer, with the worked reasoning if it says anything."""
    gold = example.gold if example.kind == "choice" else example.gold_text
    reasoning = "The facts in the question lead to this." if _says_nothing(example.reasoning) else example.reasoning
    return render_completion(reasoning, gold)


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
    completion = without_halves(completion)
    reasoning = _block(completion, "reasoning", faults)
    if reasoning and _says_nothing(reasoning):
        faults.append("reasoning says nothing")
    answer = _block(completion, "answer", faults)
    if reasoning is not None and answer is not None:
        if completion.index("<answer>") < completion.index("<reasoning>"):
            faults.append("answer before reasoning")
        if _outside(completion):
            faults.append("text outside the blocks")
    return Parsed(reasoning=reasoning, answer=answer, faults=tuple(faults))


def without_halves(text: str) -> str:
    """The text with ? for halves of surrogate pairs, which no tokenizer takes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


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


def _says_nothing(reasoning: str) -> bool:
    """Whether a reasoning has fewer than three words, or is a label that nothing follows."""
    spaced, unspaced = _UNSPACED.subn(" ", reasoning)
    words = unspaced + sum(any(map(str.isalnum, chunk)) for chunk in spaced.split())
    return words < _FEWEST_WORDS or (words <= _LONGEST_LABEL and reasoning.rstrip("* ").endswith((":", "：")))
