"""Near-duplicates among short texts: the share of word 3-grams that two have in common."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

_WORD = re.compile(r"\w+")


class NearDuplicates:
    """Texts that were seen, and whether another is nearly one of them.

    Exact, not sketched: an index from each 3-gram to the texts that have it gives the Jaccard similarity at the cost of
    the texts that share something.
    """

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}
        self._index: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, name: str, text: str) -> None:
        """Remember a text under a name."""
        if name in self._sizes:
            return
        grams = _grams(text)
        self._sizes[name] = len(grams)
        for gram in grams:
            self._index[gram].append(name)

    def nearest(self, text: str) -> tuple[str, float] | None:
        """The most similar text that was seen, and the similarity in [0, 1]; None if none shares a 3-gram."""
        grams = _grams(text)
        shared = Counter(name for gram in grams for name in self._index.get(gram, ()))
        if not shared:
            return None
        scored = ((name, n / (len(grams) + self._sizes[name] - n)) for name, n in shared.items())
        return max(scored, key=lambda pair: (pair[1], pair[0]))


def _grams(text: str) -> set[str]:
    words = _WORD.findall(text.lower())
    if len(words) < 3:
        return {" ".join(words)} if words else set()
    return {" ".join(words[i : i + 3]) for i in range(len(words) - 2)}
