"""What a user is promised of `flywheel dedup`: two files that hold all rows, counts, and one message for an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import flywheel

from flywheel.cli.dedup import command
from flywheel.errors import UserError

FACTS = {"rows", "kept", "removed", "reasons", "not_compared", "threshold", "against", "clusters", "seconds", "out"}


def table(count: int = 60, **columns: Any) -> pa.Table:
    """Rows of which every third repeats the one before it."""
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((count, 16)).astype(np.float32)
    vectors[2::3] = vectors[1 : count - 1 : 3] + 0.05 * draw.standard_normal((len(vectors[2::3]), 16))
    made = {
        "id": [f"r{i}" for i in range(count)],
        "embedding": pa.array(vectors.tolist(), pa.list_(pa.float32())),
        "score": draw.random(count),
        "text": [f"text {i}" for i in range(count)],
        "note": [{"a": i, "b": [str(i)]} for i in range(count)],
    }
    return pa.table({**made, **columns})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    pq.write_table(table(), tmp_path / "in.parquet")
    return tmp_path / "in.parquet"


def dedup(source: Path, capsys: pytest.CaptureFixture[str] | None = None, **options: Any) -> dict[str, Any]:
    """The command as a function; its JSON."""
    given = {"embedding_column": "embedding", "score_column": "score", "as_json": True, **options}
    command(
        source, options.pop("out", source.with_name("out.parquet")), **{k: v for k, v in given.items() if k != "out"}
    )
    return json.loads(capsys.readouterr().out) if capsys is not None else {}


def read(file: Path) -> pa.Table:
    return pq.ParquetFile(file).read()


@pytest.mark.parametrize("against", ["kept", "seen"])
def test_two_files_hold_all_rows(source: Path, against: str) -> None:
    out = source.with_name("out.parquet")
    done = flywheel("dedup", source, out, "--embedding-column", "embedding", "--score-column", "score", "--id-column",
                    "id", "--threshold", "0.95", "--against", against, "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts.keys() >= FACTS
    assert (facts["rows"], facts["kept"], facts["removed"], facts["against"]) == (60, 40, 20, against)
    before, kept, removed = read(source), read(out), read(source.with_name("out.removed.parquet"))
    assert kept.schema == before.schema
    ids = kept["id"].to_pylist()
    assert ids == [id for id in before["id"].to_pylist() if id in set(ids)], "the order of the input"
    assert kept.equals(before.filter(pa.array([id in set(ids) for id in before["id"].to_pylist()])))
    assert sorted(ids + removed["id"].to_pylist()) == sorted(before["id"].to_pylist())
    score = dict(zip(before["id"].to_pylist(), before["score"].to_pylist(), strict=True))
    for row in removed.to_pylist():
        assert row["removed_by"] in ids
        assert score[row["removed_by"]] > row["score"]
        assert row["cosine"] >= 0.95
        assert row["cluster"] >= 0
        assert row["reason"] == "near-duplicate"


def test_people_are_told_the_counts_and_where_the_rows_are(source: Path) -> None:
    done = flywheel("dedup", source, source.with_name("out.parquet"), "--embedding-column", "embedding", "--removed",
                    source.with_name("gone.parquet"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "kept                40" in done.stdout
    assert "gone.parquet" in done.stdout


def test_rows_without_ids_are_numbered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(table().drop_columns(["id"]), tmp_path / "in.parquet")
    dedup(tmp_path / "in.parquet", capsys, score_column=None)
    removed = read(tmp_path / "out.removed.parquet")
    assert removed["row"].to_pylist() == list(range(2, 60, 3)), "of equals the first stays"
    assert removed["removed_by"].to_pylist() == list(range(1, 60, 3))


def test_ids_that_nobody_named_must_tell_rows_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(table(id=["same"] * 60), tmp_path / "in.parquet")
    assert dedup(tmp_path / "in.parquet", capsys)["ids"] == "row numbers"
    pq.write_table(table(), tmp_path / "in.parquet")
    assert dedup(tmp_path / "in.parquet", capsys)["ids"] == "id"


def test_ids_keep_their_type_and_own_columns_their_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(table(id=list(range(100, 160)), cosine=["mine"] * 60), tmp_path / "in.parquet")
    dedup(tmp_path / "in.parquet", capsys)
    removed = read(tmp_path / "out.removed.parquet")
    assert removed.schema.field("removed_by").type == pa.int64()
    assert removed["input_cosine"].to_pylist() == ["mine"] * 20
    assert read(tmp_path / "out.parquet")["cosine"].to_pylist() == ["mine"] * 40


def test_a_folder_of_parts_is_one_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "parts").mkdir()
    whole = table()
    pq.write_table(whole.slice(0, 31), tmp_path / "parts" / "a.parquet")
    pq.write_table(whole.slice(31), tmp_path / "parts" / "b.parquet")
    assert dedup(tmp_path / "parts", capsys)["removed"] == 20


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.float16(), 16), pa.large_list(pa.float32())])
def test_any_list_of_numbers_is_a_vector(kind: pa.DataType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = table()["embedding"].to_pylist()
    numbers = [np.array(v, np.float16) for v in values] if "half" in str(kind) else values
    pq.write_table(table(embedding=pa.array(numbers, kind)), tmp_path / "in.parquet")
    assert dedup(tmp_path / "in.parquet", capsys)["removed"] == 20


@pytest.mark.parametrize("count", [0, 1])
def test_no_row_and_one_row_are_fine(count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(table().slice(0, count), tmp_path / "in.parquet")
    facts = dedup(tmp_path / "in.parquet", capsys)
    assert (facts["rows"], facts["kept"], facts["removed"]) == (count, count, 0)
    assert read(tmp_path / "out.parquet").schema == table().schema
    assert len(read(tmp_path / "out.removed.parquet")) == 0


def test_of_rows_that_are_all_equal_the_best_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(table(embedding=[[1.0, 2.0, 3.0]] * 60), tmp_path / "in.parquet")
    assert dedup(tmp_path / "in.parquet", capsys, threshold=1.0)["kept"] == 1
    kept = read(tmp_path / "out.parquet")
    assert kept["score"].to_pylist() == [max(table()["score"].to_pylist())]


def test_vectors_that_cannot_be_compared_are_counted_and_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = [*table()["embedding"].to_pylist()[:57], [0.0] * 16, [float("nan")] * 16, None]
    pq.write_table(table(embedding=pa.array(odd, pa.list_(pa.float32()))), tmp_path / "in.parquet")
    facts = dedup(tmp_path / "in.parquet", capsys)
    assert facts["not_compared"] == {"zero": 1, "not finite": 1, "missing": 1}
    assert {"r57", "r58", "r59"} <= set(read(tmp_path / "out.parquet")["id"].to_pylist())


def test_messages_are_compared_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def talk(*said: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, said, strict=False)]

    talks = [
        talk("Name a river in Egypt.", "The Nile.", "And in Brazil?", "The Amazon."),
        talk("Name a river in Egypt.", "The Nile.", "And in Brazil?", "The Amazon."),
        talk("Name a river in Egypt.", "The Nile.", "How does one bake bread?", "With flour, water, salt and yeast."),
    ]
    pq.write_table(pa.table({"talk": talks, "score": [1, 2, 3]}), tmp_path / "in.parquet")
    dedup(tmp_path / "in.parquet", capsys, embedding_column=None, messages_column="talk")
    assert read(tmp_path / "out.parquet")["score"].to_pylist() == [2, 3]


def test_texts_that_repeat_word_by_word_can_go_before_anything_is_embedded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["one two three four five six seven", "ONE two three, four five six seven!", "a quite different sentence"]
    pq.write_table(pa.table({"text": texts}), tmp_path / "in.parquet")
    facts = dedup(tmp_path / "in.parquet", capsys, embedding_column=None, score_column=None, text_column="text",
                  near_exact=0.9)  # fmt: skip
    assert facts["reasons"] == {"nearly the same text": 1}
    assert read(tmp_path / "out.removed.parquet").select(["row", "removed_by", "similarity", "cosine"]).to_pylist() == [
        {"row": 1, "removed_by": 0, "similarity": 1.0, "cosine": None}
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"embedding_column": "embeding"}, "did you mean 'embedding'"),
        ({"score_column": "reward"}, "no column 'reward'"),
        ({"id_column": "key"}, "no column 'key'"),
        ({"embedding_column": "note"}, "a column of vectors holds struct"),
        ({"embedding_column": "id", "id_column": "id"}, "two purposes"),
        ({"score_column": "note"}, "should hold numbers"),
        ({"threshold": 0.0}, "threshold must be above 0"),
        ({"threshold": 1.5}, "at most 1"),
        ({"threshold": float("nan")}, "threshold"),
        ({"against": "all"}, "'kept' or 'seen'"),
        ({"embedding_column": None}, "is needed, not 0"),
        ({"text_column": "id"}, "is needed, not 2"),
        ({"encoder": "some/encoder"}, "need texts"),
        (
            {"embedding_column": None, "text_column": "text", "score_column": None, "encoder": "./nowhere"},
            "there is no encoder",
        ),
        ({"removed": Path("nowhere/x.parquet")}, "its folder is missing"),
    ],
)
def test_what_is_wrong_is_said(options: dict[str, Any], said: str, source: Path) -> None:
    with pytest.raises(UserError) as wrong:
        dedup(source, **options)
    assert said in wrong.value.message
    assert not source.with_name("out.parquet").exists()


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"embedding": [[1.0, 2.0]] * 30 + [[1.0]] * 30}, "2 numbers in the first, 1 in row 30"),
        ({"id": ["same"] * 60}, "stand more than once"),
        ({"id": [None, *(str(i) for i in range(59))]}, "have no id"),
    ],
)
def test_files_that_contradict_themselves_are_refused(columns: dict[str, Any], said: str, tmp_path: Path) -> None:
    pq.write_table(table(**columns), tmp_path / "in.parquet")
    with pytest.raises(UserError, match=said):
        dedup(tmp_path / "in.parquet", id_column="id")


def test_a_file_that_is_missing_or_no_parquet_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "in.parquet").write_text("no parquet")
    for name, said in (("in.parquet", "cannot be read as Parquet"), ("nowhere.parquet", "there is no file")):
        done = flywheel("dedup", tmp_path / name, tmp_path / "out.parquet", "--embedding-column", "v")
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr
