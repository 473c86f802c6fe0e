"""Drugs: which medicines a text names, by one name each, whatever synonym or brand it uses."""

import re
from collections.abc import Callable, Set
from functools import lru_cache
from typing import Any

from medgrpo.contradictions.tokens import plain, stem

_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")
_LONGEST_NAME = 60
# An entry of the dictionary that has one of these is a medicine; the others are germs' enzymes, tissues and classes.
_REGISTRIES = ("drugbank_id", "medline_plus_id", "nhs_url")
_NOT_MEANT = frozenset({"at 10"})
"""Names in the dictionary that a text hardly ever means."""
_SYNONYMS = {"adrenaline": "epinephrine", "adrenalin": "epinephrine", "noradrenalin": "norepinephrine"}
"""Names that the dictionary lacks."""
_SPLIT_NOR = re.compile(r"\bnor[\s‐-―-](?=adrenalin|epinephrin)")


def name_different_drugs(one: str, other: str) -> bool:
    """Whether each of two texts names a medicine that the other doesn't.

    A salt or a form of a medicine is that medicine: 'tiotropium bromide' and 'tiotropium', 'insulin' and 'insulin
    glargine'.
    """
    here, there = find_drugs(one), find_drugs(other)
    return any(not _has(there, drug) for drug in here) and any(not _has(here, drug) for drug in there)


def find_drugs(text: str) -> frozenset[str]:
    """The medicines that a text names, as DrugBank calls them, in lower case. Never touches the network."""
    words = [
        _SYNONYMS.get(word, word)
        for word in _WORD.findall(_SPLIT_NOR.sub("nor", plain(text)))
        if len(word) <= _LONGEST_NAME
    ]
    parts = [part for word in words for part in word.split("-")]
    found = _finder()(words, is_ignore_case=True)
    if len(parts) > len(words):
        found += _finder()(parts, is_ignore_case=True)
    return frozenset(
        data["name"].lower()
        for data, _, _ in found
        if any(data.get(registry) for registry in _REGISTRIES) and data["matching_string"] not in _NOT_MEANT
    )


def _has(drugs: Set[str], wanted: str) -> bool:
    """Whether one of the drugs is the wanted one, or a form of it, or what it is a form of."""
    words = _words(wanted)
    return any(words <= _words(drug) or _words(drug) <= words for drug in drugs)


@lru_cache(maxsize=4096)
def _words(drug: str) -> frozenset[str]:
    """Stems that tell a drug: 'valproic acid' and 'valproate' have the same."""
    return frozenset(stem(word).removesuffix("at") for word in _WORD.findall(drug) if word != "acid")


@lru_cache(maxsize=1)
def _finder() -> Callable[..., list[tuple[dict[str, Any], int, int]]]:
    """The library's dictionary; read once per process, since it takes two seconds."""
    from drug_named_entity_recognition import find_drugs as find

    return find  # type: ignore[no-any-return]
