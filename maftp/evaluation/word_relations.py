"""Whether two class names mean the same, or one is a kind of the other.

Benchmarks name classes that overlap (a sofa is also a seat), and a model that takes one for another
is scored as wrong as one that sees a dog. What counts is stated in
`word_relations.yaml` and derived from the names: synonyms that two classes share, and the last
word, as English puts the kind last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

import yaml

from maftp.data.vocabulary import split_synonyms

RELATIONS = ("same meaning", "more general", "more specific", "same kind", "unrelated")
"""Of a predicted name to the true one."""


class WordRelations:
    """Relations between class names.

    Args:
        same: words of one meaning, a row for each meaning.
        kinds: by kind the words of which each is one.
        not_kinds: names whose last word is not their kind.
    """

    def __init__(
        self,
        *,
        same: Iterable[Sequence[str]],
        kinds: Mapping[str, Sequence[str]],
        not_kinds: Iterable[str],
    ) -> None:
        self._same = [frozenset(row) for row in same]
        self._kinds_of: dict[str, set[str]] = {}
        for kind, words in kinds.items():
            for word in words:
                self._kinds_of.setdefault(word, set()).add(kind)
        self._not_kinds = frozenset(not_kinds)

    @classmethod
    def read(cls) -> WordRelations:
        """Read the table of the package."""
        content: dict[str, Any] = yaml.safe_load(
            resources.files("maftp.evaluation").joinpath("word_relations.yaml").read_text()
        )
        return cls(**content)

    def between(self, truth: str, predicted: str) -> str:
        """Return what a predicted class name is to the true one, of `RELATIONS`.

        Args:
            truth: name of the true class, commas between synonyms.
            predicted: that of the predicted class.
        """
        true_words, other_words = _words(truth), _words(predicted)
        if any(self._is_same(a, b) for a in true_words for b in other_words):
            return "same meaning"
        above, other_above = self._above(true_words), self._above(other_words)
        if above & self._all_same(other_words):
            return "more general"
        if other_above & self._all_same(true_words):
            return "more specific"
        return "same kind" if above & other_above else "unrelated"

    def _is_same(self, first: str, second: str) -> bool:
        return first == second or any({first, second} <= row for row in self._same)

    def _all_same(self, words: Iterable[str]) -> set[str]:
        """Return words and those of the same meaning."""
        known = set(words)
        return known.union(*(row for row in self._same if row & known))

    def _above(self, words: Iterable[str]) -> set[str]:
        """Return all kinds of words, those of the kinds too."""
        found: set[str] = set()
        wanted = self._all_same(words)
        while wanted:
            word = wanted.pop()
            new = self._all_same(self._direct(word)) - found
            found |= new
            wanted |= new
        return found

    def _direct(self, word: str) -> set[str]:
        kinds = set(self._kinds_of.get(word, ()))
        if " " in word and word not in self._not_kinds:
            kinds.add(word.split(" ", 1)[1])  # "striped red car", "red car", "car"
        return kinds


def _words(name: str) -> list[str]:
    return [synonym.strip().lower() for synonym in split_synonyms(name)]
