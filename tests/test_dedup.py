"""What is promised of deduplication: the best row stays and each removed one names it, whatever the order of rows."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flywheel.curate import clusters, make_filters, run_filters, semantic
from flywheel.curate.near_exact import near_exact, signatures
from flywheel.curate.rows import Row
from flywheel.curate.semantic import deduplicate
from flywheel.engines import neighbours
from flywheel.errors import RecipeError

GSM8K = Path(__file__).parents[2] / "shared" / "data" / "gsm8k_train.jsonl.gz"
AGAINST = ("kept", "seen")


def units(vectors: Any) -> NDArray[np.float32]:
    array = np.asarray(vectors, np.float64)
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float32)


def grouped(count: int, dimensions: int, noise: float, seed: int = 0, per_group: int = 10) -> NDArray[np.float32]:
    """Vectors around a few directions."""
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((max(1, count // per_group), dimensions))
    return units(centres[draw.integers(0, len(centres), count)] + noise * draw.standard_normal((count, dimensions)))


def one_by_one(vectors: NDArray[np.float32], threshold: float, against: str) -> NDArray[np.bool_]:
    """Which rows stay, as the paper words it."""
    cosines = vectors @ vectors.T
    stays = np.zeros(len(vectors), bool)
    for i in range(len(vectors)):
        before = cosines[i, :i] if against == "seen" else cosines[i, :i][stays[:i]]
        stays[i] = not (before >= min(threshold, 1 - 1e-6)).any()
    return stays


def stays(removed: semantic.Removed, count: int) -> NDArray[np.bool_]:
    kept = np.ones(count, bool)
    kept[removed.rows] = False
    return kept


def small(monkeypatch: pytest.MonkeyPatch, **values: int) -> None:
    """Many clusters and blocks among few rows."""
    defaults = {"EXACT_ROWS": 100, "FIRST_BLOCK": 64, "SMALLEST_BLOCK": 16, "MOST_PAIRS": 500, "REFERENCES": 32}
    for name, value in (defaults | values).items():
        monkeypatch.setattr(semantic, name, value)
    monkeypatch.setattr(clusters, "ROWS_PER_CLUSTER", 60)


# -- the organ ------------------------------------------------------------------------------------


@pytest.mark.parametrize("against", AGAINST)
@pytest.mark.parametrize("threshold", [0.3, 0.9, 0.99, 1.0])
@pytest.mark.parametrize(("count", "dimensions", "noise"), [(1, 3, 0.1), (2, 3, 0.0), (400, 8, 0.3), (600, 4, 0.01)])
def test_it_is_the_sequential_pass(count: int, dimensions: int, noise: float, threshold: float, against: Any) -> None:
    vectors = grouped(count, dimensions, noise)
    kept = stays(deduplicate(vectors, threshold, against), count)
    assert (kept == one_by_one(vectors, threshold, against)).all()


@pytest.mark.parametrize("against", AGAINST)
def test_blocks_and_clusters_change_nothing_where_groups_are_apart(
    monkeypatch: pytest.MonkeyPatch, against: Any
) -> None:
    small(monkeypatch)
    vectors = grouped(3000, 16, 0.05)
    removed = deduplicate(vectors, 0.9, against)
    assert removed.clusters > 10
    assert (stays(removed, 3000) == one_by_one(vectors, 0.9, against)).all()


def test_few_duplicates_are_missed_where_clusters_run_into_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, MOST_PAIRS=10**6)
    draw = np.random.default_rng(3)
    rows = units(draw.standard_normal((6000, 64)))  # no clusters at all: the worst case
    noise = units(draw.standard_normal((3000, 64)))
    vectors = np.concatenate([rows, units(rows[:3000] + 0.45 * noise)])[draw.permutation(9000)]
    exact = one_by_one(vectors, 0.9, "kept")
    removed = deduplicate(vectors, 0.9)
    assert 1 < removed.probed < removed.clusters / 2
    missed = stays(removed, 9000) & ~exact
    assert missed.sum() <= 0.01 * (~exact).sum()


@pytest.mark.parametrize("against", AGAINST)
@pytest.mark.parametrize("threshold", [0.5, 0.9, 1.0])
def test_all_pairs_on_a_device_are_the_sequential_pass(
    monkeypatch: pytest.MonkeyPatch, threshold: float, against: Any
) -> None:
    small(monkeypatch)
    monkeypatch.setattr(neighbours, "REFERENCES", 200)
    monkeypatch.setattr(neighbours, "SCORES", 5000)
    draw = np.random.default_rng(5)
    rows = units(draw.standard_normal((1200, 16)))  # neighbours on both sides of the threshold, also just beside it
    vectors = np.concatenate([rows, units(rows + 0.5 * units(draw.standard_normal((1200, 16)))), rows[:50], rows[:50]])
    vectors = vectors[draw.permutation(len(vectors))]
    exact = one_by_one(vectors, threshold, against)
    removed = deduplicate(vectors, threshold, against, device="cpu")
    assert (stays(removed, len(vectors)) == exact).all()
    assert 50 < len(removed.rows) < len(vectors) - 10
    assert (removed.by < removed.rows).all()
    assert against == "seen" or exact[removed.by].all()
    cosines = (vectors[removed.rows] * vectors[removed.by]).sum(1)
    assert np.abs(cosines - removed.cosine).max() < 1e-5
    assert (removed.cosine >= min(threshold, 1 - 1e-6) - 1e-6).all()


@pytest.mark.parametrize("against", AGAINST)
def test_a_device_names_the_duplicates_that_the_processor_names(against: Any) -> None:
    vectors = grouped(3000, 16, 0.1)
    here, there = deduplicate(vectors, 0.9, against), deduplicate(vectors, 0.9, against, device="cpu")
    assert here.rows.tolist() == there.rows.tolist()
    assert here.by.tolist() == there.by.tolist()
    assert np.abs(here.cosine - there.cosine).max() < 1e-5


@pytest.mark.parametrize("against", AGAINST)
def test_a_dense_mass_is_no_trouble_for_a_device(monkeypatch: pytest.MonkeyPatch, against: Any) -> None:
    small(monkeypatch)
    same = np.tile(units([[1, 2, 3, 4]]), (3000, 1))
    assert deduplicate(same, 1.0, against, device="cpu").rows.tolist() == list(range(1, 3000))


def test_many_rows_go_to_a_gpu_that_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, str]] = []
    monkeypatch.setattr(semantic, "EXACT_ROWS", 100)
    monkeypatch.setattr(semantic, "visible_gpus", lambda: ["0"])
    monkeypatch.setattr(neighbours, "room_for", lambda *sizes: asked.append(sizes))  # it has none
    assert len(deduplicate(np.tile(units([[3, 4]]), (150, 1)), 0.9).rows) == 149
    deduplicate(units([[3, 4], [4, 3]]), 0.9)  # too few to be worth it
    assert asked == [(150, 2, "cuda")]


@pytest.mark.parametrize("against", AGAINST)
def test_a_dense_mass_leaves_one_row_and_takes_no_square_of_time(against: Any) -> None:
    same = np.tile(units([[1, 2, 3, 4]]), (40_000, 1))
    removed = deduplicate(same, 1.0, against)
    assert removed.rows.tolist() == list(range(1, 40_000))
    if against == "kept":
        assert set(removed.by.tolist()) == {0}
    near = units(np.ones((1, 32)) + 0.01 * np.random.default_rng(0).standard_normal((40_000, 32)))
    assert len(deduplicate(near, 0.9, against).rows) == 39_999


def test_the_vectors_are_not_touched_unless_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    vectors = grouped(500, 8, 0.1)
    before = vectors.copy()
    deduplicate(vectors, 0.9)
    assert (vectors == before).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [({"threshold": 0.0}, "above 0"), ({"threshold": 1.01}, "at most 1"), ({"against": "all"}, "'kept' or 'seen'")],
)
def test_wrong_options_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        deduplicate(grouped(3, 3, 0.1), **options)
    with pytest.raises(RecipeError, match=said):
        make_filters([{"dedup": {"embedding": "v", **options}}])


# -- the filter -----------------------------------------------------------------------------------


def run(rows: list[Row], **options: Any) -> tuple[list[str], list[Row]]:
    """Ids that stay, and the dropped rows."""
    kept, dropped, _ = run_filters(make_filters([{"dedup": {"embedding": "v", **options}}], verified=False), rows)
    return [row["sample_id"] for row in kept], dropped


CORNERS = [[1.0, 0.0, 0.0], [0.95, 0.3, 0.0], [0.8, 0.6, 0.0], [0.5, 0.8, 0.3], [0.0, 0.0, 1.0], [0.1, 0.0, 0.9]]
ROWS = st.lists(
    st.tuples(st.sampled_from(CORNERS), st.sampled_from([0.0, 0.05]), st.sampled_from([None, -1.0, 0.5, 1.0])),
    min_size=1,
    max_size=40,
).map(
    lambda drawn: [
        {"sample_id": f"s{i}", "v": [x + shift * (i % 3) for x in corner], "reward": reward}
        for i, (corner, shift, reward) in enumerate(drawn)
    ]
)


@settings(deadline=None, max_examples=60)
@given(
    rows=ROWS, order=st.randoms(), threshold=st.sampled_from([0.5, 0.9, 0.99, 1.0]), against=st.sampled_from(AGAINST)
)
def test_every_row_is_kept_or_removed_whatever_the_order(
    rows: list[Row], order: Any, threshold: float, against: str
) -> None:
    kept, dropped = run(rows, threshold=threshold, against=against)
    gone = [row["sample_id"] for row in dropped]
    assert sorted(kept + gone) == sorted(row["sample_id"] for row in rows)
    shuffled = order.sample(rows, len(rows))
    again, dropped_again = run(shuffled, threshold=threshold, against=against)
    assert set(again) == set(kept)
    assert sorted(dropped_again, key=str) == sorted(dropped, key=str)
    quality = {row["sample_id"]: -np.inf if row["reward"] is None else row["reward"] for row in rows}
    vector = dict(zip((row["sample_id"] for row in rows), units([row["v"] for row in rows]), strict=True))
    for row in dropped:
        id, by, told = row["sample_id"], row["removed_by"], json.loads(row["detail"])
        assert against == "seen" or by in kept
        assert quality[by] >= quality[id]
        assert told["cosine"] == pytest.approx(float(vector[id] @ vector[by]), abs=1e-5)
        assert told["cosine"] >= threshold - 1e-5
        assert told["cluster"] >= 0
    survivors = [row for row in rows if row["sample_id"] in set(kept)]
    assert run(survivors, threshold=threshold, against=against) == (kept, [])  # idempotent


def test_the_order_of_many_rows_does_not_matter_either(monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    draw = np.random.default_rng(1)
    vectors = grouped(2000, 16, 0.2)
    rows = [
        {"sample_id": f"s{i}", "v": vector.tolist(), "reward": float(draw.integers(0, 5)), "pass_rate": 0.5}
        for i, vector in enumerate(vectors)
    ]
    kept, dropped = run(rows)
    assert 100 < len(dropped) < 1900
    again, dropped_again = run([rows[i] for i in draw.permutation(len(rows))])
    assert set(again) == set(kept)
    assert sorted(dropped_again, key=str) == sorted(dropped, key=str)
    assert {row["removed_by"] for row in dropped} <= set(kept)


def test_better_is_quality_times_difficulty() -> None:
    rows = [
        {"sample_id": "easy", "v": [1, 0], "reward": 0.9, "pass_rate": 0.9},
        {"sample_id": "hard", "v": [1, 0], "reward": 0.6, "pass_rate": 0.2},
    ]
    assert run(rows)[0] == ["hard"]
    assert run([{**row, "pass_rate": 0.5} for row in rows])[0] == ["easy"]


def test_a_vector_that_cannot_be_compared_keeps_its_row_and_is_counted() -> None:
    good = [{"sample_id": f"s{i}", "v": [1.0, 2.0]} for i in range(3)]
    odd: list[Any] = [[0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0], None, [1.0, None], []]
    rows = [*good, *({"sample_id": f"x{i}", "v": value} for i, value in enumerate(odd))]
    filters = make_filters([{"dedup": {"embedding": "v"}}], verified=False)
    kept, dropped, funnel = run_filters(filters, rows)
    assert [row["sample_id"] for row in kept] == ["s0", *(f"x{i}" for i in range(len(odd)))]
    assert [row["sample_id"] for row in dropped] == ["s1", "s2"]
    assert funnel[0]["report"]["not_compared"] == {"zero": 1, "not finite": 2, "missing": 3}


def test_tiny_and_huge_vectors_have_a_direction_too() -> None:
    rows = [{"sample_id": f"s{i}", "v": [scale, 2 * scale]} for i, scale in enumerate((1e-30, 1.0, 1e30))]
    assert run(rows)[0] == ["s0"]


# -- texts ----------------------------------------------------------------------------------------


def dialogue(id: str, question: str, answer: str, **fields: Any) -> Row:
    asked = [{"role": "user", "content": question}]
    return {
        "sample_id": id, "prompt": asked, "messages": [{"role": "assistant", "content": answer}], **fields
    }  # fmt: skip


def test_dialogues_are_compared_by_what_they_say() -> None:
    rows = [
        dialogue("a", "What is the capital of France?", "The capital of France is Paris.", reward=0.1),
        dialogue("b", "Which city is France's capital?", "Paris is the capital city of France.", reward=0.9),
        dialogue("c", "How do I boil an egg?", "Put it into boiling water for eight minutes.", reward=0.5),
        dialogue("d", "How do I boil an egg?", "Put it into boiling water for eight minutes.", reward=0.4),
    ]
    kept, dropped, _ = run_filters(make_filters([{"dedup": {"threshold": 0.85}}], verified=False), rows)
    assert [row["sample_id"] for row in kept] == ["b", "c"]
    assert {row["sample_id"]: row["removed_by"] for row in dropped} == {"a": "b", "d": "c"}


TALE = "the cook walked down to the market and bought {} apples, {} pears and a {} for the soup of the {} day".format


def test_texts_that_nearly_repeat_others_go_and_the_order_does_not_matter() -> None:
    draw = np.random.default_rng(0)
    things = ["leek", "turnip", "carrot", "beet"]
    texts = [" ".join(TALE(draw.integers(2, 99), draw.integers(2, 99), draw.choice(things), draw.integers(1, 99))
             for _ in range(12)) for _ in range(300)]  # fmt: skip
    rows = [{"sample_id": f"s{i}", "text": text, "reward": 1.0} for i, text in enumerate(texts)]
    rows += [{"sample_id": f"copy{i}", "text": texts[i].upper() + " indeed!", "reward": 0.5} for i in range(100)]
    filters = make_filters([{"near_exact": {}}], verified=False)
    kept, dropped, _ = run_filters(filters, rows)
    assert [row["sample_id"] for row in kept] == [f"s{i}" for i in range(300)]
    assert {row["sample_id"]: row["removed_by"] for row in dropped} == {f"copy{i}": f"s{i}" for i in range(100)}
    assert all(json.loads(row["detail"])["similarity"] >= 0.8 for row in dropped)
    again, dropped_again, _ = run_filters(filters, [rows[i] for i in draw.permutation(len(rows))])
    assert {row["sample_id"] for row in again} == {row["sample_id"] for row in kept}
    assert sorted(dropped_again, key=str) == sorted(dropped, key=str)


def test_short_and_empty_texts_are_texts() -> None:
    texts = ["", "yes", "no", "Yes!", "", "yes no"]
    rows = [{"sample_id": f"s{i}", "text": text} for i, text in enumerate(texts)]
    kept, _, _ = run_filters(make_filters([{"near_exact": {}}], verified=False), rows)
    assert [row["text"] for row in kept] == ["", "yes", "no", "yes no"]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=12).map(" ".join), min_size=1, max_size=30), st.data())
def test_a_near_exact_row_names_one_that_stays(texts: list[str], data: st.DataObject) -> None:
    import pyarrow as pa

    signed = signatures(pa.array(texts), 2, 64)
    threshold = data.draw(st.sampled_from([0.4, 0.8, 1.0]))
    removed = near_exact(signed, threshold)
    gone = set(removed.rows.tolist())
    for row, by, similarity in zip(removed.rows, removed.by, removed.similarity, strict=True):
        assert by not in gone
        assert by < row
        assert similarity >= threshold
    kept = [i for i in range(len(texts)) if i not in gone]
    assert len(near_exact(signed[kept], threshold).rows) == 0  # idempotent


@pytest.mark.slow
@pytest.mark.skipif(not GSM8K.exists(), reason="shared/data/gsm8k_train.jsonl.gz is not there")
def test_planted_copies_of_real_problems_are_found() -> None:
    lines = gzip.decompress(GSM8K.read_bytes()).splitlines()[:600]
    questions = [json.loads(line)["question"] for line in lines]
    rows = [{"sample_id": f"q{i}", "text": text, "reward": 1.0} for i, text in enumerate(questions)]
    rows += [{"sample_id": f"copy{i}", "text": f"Q: {questions[i].upper()}", "reward": 0.0} for i in range(0, 600, 12)]
    kept, dropped, _ = run_filters(make_filters([{"dedup": {}}], verified=False), rows)
    by = {row["sample_id"]: row["removed_by"] for row in dropped}
    assert all(by.get(f"copy{i}") == f"q{i}" for i in range(0, 600, 12) if f"q{i}" not in by)
    assert not [row for row in kept if row["sample_id"].startswith("copy")]
    assert len(kept) > 590, "different problems stay"
