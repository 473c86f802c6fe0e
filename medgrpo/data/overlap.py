"""Training rows that are questions of a benchmark: word for word, in large part, by their options or rewritten.

A benchmark whose questions were trained on measures memory. Thresholds come from real sets compared by eye: different
cases told in the same phrases share up to 25 % of their 8-word runs, one case with two questions shares 49 % or more.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from medgrpo.data.patient_data import mask
from medgrpo.data.words import is_generic, option_text, option_texts, options_agree, words
from medgrpo.types import Drop, Example

_TELLING_WORDS = 5  # a question with fewer is no evidence without its options
_N = 8
_NGRAM_SHARE = 0.4
_FEWEST_NGRAMS = 5
_PROBE = 4  # rows are compared when one of every 4 n-grams is found, which any 11 words in a row make sure of
_FEW_QUESTIONS = 3  # what stands in more questions is boilerplate, or a closed set of options
_FEWEST_OPTIONS = 3
_TOPIC_SHARE = 0.02  # of the benchmarks' questions have a word of the topic at most,
_RARE_SHARE = 0.005  # and a rare word
_FEWEST_TOPIC_WORDS, _TOPIC_WORD_SHARE = 2, 0.5
_FEWEST_RARE_WORDS, _RARE_WORD_SHARE = 5, 0.8


class _Entry(NamedTuple):
    """A benchmark's question."""

    benchmark: str
    example: Example
    text: int
    """Number of its normalised question: several entries may have one text."""

    def __str__(self) -> str:
        return f"question '{mask(self.example.id)}' of {self.benchmark}"


def find_overlaps(examples: Sequence[Example], benchmarks: Mapping[str, Sequence[Example]]) -> dict[int, Drop]:
    """Which rows to drop because a benchmark asks the same, by position.

    The question and the one that it was rewritten from are both looked for.

    Args:
        benchmarks: name → questions.
    """
    index = _Index(benchmarks)
    closed = _closed_sets(examples, index)
    drops: dict[int, Drop] = {}
    for row, example in enumerate(examples):
        detail = next(index.evidence(example, closed), None)
        if detail is not None:
            drops[row] = Drop(reason="benchmark overlap", detail=detail)
    return drops


def _closed_sets(examples: Sequence[Example], index: "_Index") -> set[frozenset[str]]:
    """The benchmarks' option sets that more than a few questions of the rows have, such as low, normal and high."""
    questions: dict[frozenset[str], set[str]] = defaultdict(set)
    for example in examples:
        options = _option_set(example)
        if options in index.by_options and len(questions[options]) <= _FEW_QUESTIONS:
            questions[options].add(" ".join(words(example.question)))
    return {options for options, texts in questions.items() if len(texts) > _FEW_QUESTIONS}


def _option_set(example: Example) -> frozenset[str]:
    """All option texts for comparison; none where they say too little about the question."""
    texts = frozenset(map(option_text, example.options.values()))
    return texts if sum(not is_generic(text) for text in texts) >= _FEWEST_OPTIONS else frozenset()


class _Index:
    """What the benchmarks' questions are found by."""

    def __init__(self, benchmarks: Mapping[str, Sequence[Example]]) -> None:
        self.by_text: dict[str, list[_Entry]] = defaultdict(list)
        for benchmark, examples in benchmarks.items():
            for example in examples:
                entries = self.by_text[" ".join(words(example.question))]
                number = entries[0].text if entries else len(self.by_text) - 1
                entries.append(_Entry(benchmark, example, number))
        self.texts = [text.split() for text in self.by_text]
        self.first = [entries[0] for entries in self.by_text.values()]
        entries = [entry for found in self.by_text.values() for entry in found]
        self.by_options = _with_one_text((_option_set(entry.example), entry) for entry in entries)
        self.by_gold: dict[str, list[_Entry]] = defaultdict(list)
        for entry in entries:
            self.by_gold[option_text(entry.example.gold_text)].append(entry)
        self.counts = Counter(word for text in self.texts for word in set(text))
        self.rare_words = [self._words_of_few(text, _RARE_SHARE) for text in self.texts]
        self._index_ngrams()

    def _index_ngrams(self) -> None:
        """Which texts have an n-gram; none where it is boilerplate."""
        counts = Counter(ngram for text in self.texts for ngram in set(_ngrams(text)))
        self.by_ngram: dict[tuple[str, ...], tuple[int, ...]] = dict.fromkeys(counts, ())
        self.sizes: list[int] = []
        for number, text in enumerate(self.texts):
            ngrams = {ngram for ngram in _ngrams(text) if counts[ngram] <= _FEW_QUESTIONS}
            self.sizes.append(len(ngrams))
            alone = (number,)  # one for all, which saves most of the index's memory
            for ngram in ngrams:
                self.by_ngram[ngram] = self.by_ngram[ngram] + alone if self.by_ngram[ngram] else alone

    def evidence(self, example: Example, closed: set[frozenset[str]]) -> Iterator[str]:
        """What shows that the row is a benchmark's question, most telling first."""
        texts = [words(text) for text in (example.question, example.original) if text]
        for text in texts:
            yield from self._same_text(text, example)
        for text in texts:
            yield from self._same_ngrams(text)
        options = _option_set(example)
        if options not in closed and options in self.by_options:
            for text in texts:
                yield from self._same_topic(text, self.by_options[options])
        for text in texts:
            yield from self._same_gold(text, example)

    def _same_text(self, text: Sequence[str], example: Example) -> Iterator[str]:
        for entry in self.by_text.get(" ".join(text), ()):
            if example.options and entry.example.options:
                same = options_agree(option_texts(example), option_texts(entry.example))
            else:
                golds = option_text(example.gold_text), option_text(entry.example.gold_text)
                same = len(text) >= _TELLING_WORDS or (bool(text) and golds[0] == golds[1])
            if same:
                yield f"same question as {entry}"

    def _same_ngrams(self, text: Sequence[str]) -> Iterator[str]:
        if not any(map(self.by_ngram.get, _ngrams(text, step=_PROBE))):
            return
        found = set(filter(self.by_ngram.__contains__, _ngrams(text)))
        common = Counter(number for ngram in found for number in self.by_ngram[ngram])
        own = len(set(_ngrams(text))) - sum(not self.by_ngram[ngram] for ngram in found)
        shares = {number: count / min(own, self.sizes[number]) for number, count in common.items()}
        telling = [n for n, share in shares.items() if share >= _NGRAM_SHARE and common[n] >= _FEWEST_NGRAMS]
        if telling:
            best = max(telling, key=lambda number: (shares[number], -number))
            share, entry = round(100 * shares[best]), self.first[best]
            if own <= self.sizes[best]:
                yield f"{share} % of its {_N}-grams are in {entry}"
            else:
                yield f"{share} % of the {_N}-grams of {entry} are in it"

    def _same_topic(self, text: Sequence[str], entry: _Entry) -> Iterator[str]:
        """Four muscles or antibiotics are the options of many questions: with the same topic they are evidence."""
        own, theirs = (self._words_of_few(each, _TOPIC_SHARE) for each in (text, self.texts[entry.text]))
        common, fewer = len(own & theirs), min(len(own), len(theirs))
        if common >= _FEWEST_TOPIC_WORDS and common >= _TOPIC_WORD_SHARE * fewer:
            yield f"same options as {entry}, and {common} of {fewer} words of the topic"

    def _same_gold(self, text: Sequence[str], example: Example) -> Iterator[str]:
        """A rewritten question keeps its gold and most of the words that few questions have."""
        gold = option_text(example.gold_text)
        if gold not in self.by_gold or is_generic(gold):
            return
        for entry in self.by_gold[gold]:
            theirs = self.rare_words[entry.text]
            common = len(theirs.intersection(text))
            if common < _FEWEST_RARE_WORDS:
                continue
            fewer = min(len(self._words_of_few(text, _RARE_SHARE)), len(theirs))
            if common >= _RARE_WORD_SHARE * fewer:
                yield f"same gold as {entry}, and {common} of {fewer} rare words"

    def _words_of_few(self, text: Sequence[str], share: float) -> set[str]:
        """The words that at most this share of the benchmarks' questions has."""
        most = max(_FEW_QUESTIONS, round(share * len(self.texts)))
        return {word for word in text if self.counts.get(word, 0) <= most}


def _with_one_text(entries: Iterator[tuple[frozenset[str], _Entry]]) -> dict[frozenset[str], _Entry]:
    """The option sets that belong to one question only."""
    found: dict[frozenset[str], list[_Entry]] = defaultdict(list)
    for options, entry in entries:
        found[options].append(entry)
    found.pop(frozenset(), None)
    return {options: same[0] for options, same in found.items() if len({entry.text for entry in same}) == 1}


def _ngrams(text: Sequence[str], step: int = 1) -> Iterator[tuple[str, ...]]:
    """Every run of 8 words (or every `step`-th), as tuples: joined words take twice as long to make and look up."""
    return zip(*(text[start::step] for start in range(_N)), strict=False)
