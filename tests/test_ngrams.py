"""What filters rely on: words and their n-grams are the same as plain Python finds, and differ where these differ."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.curate.ngrams import BLOCK_BYTES, Lookup, blocks, words

TEXT = st.text(st.sampled_from("aB1 ,.-\n'é“”日本ーß" + "xyz "), max_size=60)


def plain(text: str) -> list[str]:
    """Words as they are meant: runs of letters and digits, Chinese and Japanese characters one by one."""
    return re.findall(r"[\u3041-\u9fff]|[^\W_\u3041-\u9fff]+", text.lower())


@settings(deadline=None)
@given(st.lists(TEXT, max_size=12), st.integers(1, 5))
def test_words_and_ngrams_are_those_of_plain_python(texts: list[str], n: int) -> None:
    found = words(pa.array(texts, pa.string()))
    hashes, valid = found.ngrams(n)
    meaning: dict[int, tuple[str, ...]] = {}
    for i, text in enumerate(texts):
        begin, end = found.offsets[i], found.offsets[i + 1]
        assert [found.text(word, 1) for word in range(begin, end)] == plain(text)
        for word in range(begin, end):
            assert valid[word] == (word + n <= end)
            if valid[word]:
                gram = tuple(plain(text)[word - begin : word - begin + n])
                assert meaning.setdefault(int(hashes[word]), gram) == gram
    assert len(set(meaning.values())) == len(meaning)
    whole = found.whole().tolist()
    assert len(set(whole)) == len({tuple(plain(text)) for text in texts})


def test_a_slice_of_an_array_is_like_a_copy_of_it() -> None:
    texts = pa.array(["one two", "three", "", "four five six"])
    assert words(texts.slice(1)).hashes.tolist() == words(pa.array(texts.to_pylist()[1:])).hashes.tolist()
    assert len(words(pa.array([], pa.string())).hashes) == 0


def test_blocks_cover_every_text_once_however_long() -> None:
    texts = pa.array(["x" * size for size in (10, BLOCK_BYTES + 5, 0, 7, BLOCK_BYTES, 3)])
    places = [begin + i for begin, block in blocks(texts) for i in range(len(block))]
    assert places == list(range(len(texts)))
    assert [text for _, block in blocks(texts) for text in block.to_pylist()] == texts.to_pylist()


def test_a_lookup_finds_what_is_there_and_nothing_else() -> None:
    draw = np.random.default_rng(0)
    few, many = draw.integers(0, 2**63, 1000).astype(np.uint64), draw.integers(0, 2**63, 100_000).astype(np.uint64)
    many[::100] = few
    places, at = Lookup(few).find(many, np.ones(len(many), bool))
    assert places.tolist() == list(range(0, 100_000, 100))
    assert Lookup(few).hashes[at].tolist() == few.tolist()
    assert len(Lookup(np.zeros(0, np.uint64)).find(many, np.ones(len(many), bool))[0]) == 0
