"""Datasets are read wherever they lie, and whatever is wrong with a row is named with its number."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flywheel.errors import DataError
from flywheel.sources import map_fields, read_source, whole

ROWS = [{"question": f"{i}+1?", "answer": str(i + 1)} for i in range(7)]


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def values(source: Path, **options: Any) -> list[dict[str, Any]]:
    return [dict(row.values) for row in whole(read_source(str(source), **options))]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "a.parquet"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(ROWS), file)
    else:
        data = json.dumps(ROWS).encode() if ".json" in name and ".jsonl" not in name else lines(ROWS)
        file.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert values(file) == ROWS
    assert [row.number for row in read_source(str(file))] == [1, 2, 3, 4, 5, 6, 7]
    assert values(Path(name), base=tmp_path) == ROWS


def test_a_folder_is_read_by_split_and_configuration(tmp_path: Path) -> None:
    for name in ("main/train-00000-of-00002", "main/train-00001-of-00002", "main/test-00000-of-00001", "other/train"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist([{"n": name}]), tmp_path / f"{name}.parquet")
    (tmp_path / "README.md").write_text("not data")
    found = values(tmp_path, split="train", config="main")
    assert [row["n"] for row in found] == ["main/train-00000-of-00002", "main/train-00001-of-00002"]
    assert len(values(tmp_path)) == 4
    with pytest.raises(DataError, match=r"no files of the split 'dev'.*main/test-00000"):
        read_source(str(tmp_path), split="dev")


def test_a_folder_of_one_object_per_file(tmp_path: Path) -> None:
    """As the MATH archive has them: ``train/algebra/1.json``."""
    for part in ("train/algebra/1", "train/geometry/2", "test/algebra/1"):
        file = tmp_path / f"{part}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"problem": part}))
    assert values(tmp_path, split="train") == [{"problem": "train/algebra/1"}, {"problem": "train/geometry/2"}]


def test_broken_rows_are_named_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"a": 1}\n\n{"a": \n[1]\n\xff\xfe\n' + b"nonsense\n" * 9)
    with pytest.raises(DataError) as caught:
        whole(read_source(str(file)))
    told = caught.value.message.splitlines()
    assert told[0].startswith(f"{file}, row 3: not JSON")
    assert told[1] == f"{file}, row 4: not a JSON object but list"
    assert told[2] == f"{file}, row 5: not UTF-8"
    assert told[-1] == "… and 7 more like it"


def test_fields_are_mapped_also_nested_ones(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(lines([{"p": "1+1?", "info": {"gold": "2"}, "x": 1}, {"p": "?", "info": {}}, {"p": None}]))
    rows = list(map_fields(read_source(str(file)), {"question": "p", "answer": "info.gold"}))
    assert dict(rows[0].values) == {"question": "1+1?", "answer": "2"}
    assert rows[1].fault == "no `info.gold`"
    assert rows[2].fault == "no `p` and no `info.gold`"


def test_a_map_that_names_no_field_is_one_error(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(lines(ROWS))
    with pytest.raises(DataError, match="no field 'anwser'; did you mean 'answer'") as caught:
        list(map_fields(read_source(str(file)), {"question": "question", "answer": "anwser"}, optional=["answer"]))
    assert len(caught.value.message.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("absent.jsonl", None, "there is no file or folder"),
        ("a.txt", b"x", "files of this kind are not read"),
        ("a.parquet", b"not parquet", "is not Parquet"),
        ("a.jsonl.gz", b"not gzip", "cannot be read"),
        ("a.json", b"{", "is not JSON"),
    ],
)
def test_what_is_no_dataset_is_an_error_that_says_so(tmp_path: Path, name: str, data: bytes | None, told: str) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=told):
        list(read_source(name, base=tmp_path))


def test_an_empty_folder_has_no_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no data in"):
        read_source(str(tmp_path))


def test_a_hub_id_without_a_network_is_one_message(tmp_path: Path) -> None:
    """In a process of its own: what decides whether the Hub is asked is read when the library is imported."""
    code = (
        "from flywheel.sources import read_source\nfrom flywheel.errors import DataError\n"
        "try: read_source('flywheel-tests/nothing-by-this-name', split='train')\n"
        "except DataError as error: print(error.message, '//', error.hint)\n"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    told = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert "the dataset flywheel-tests/nothing-by-this-name cannot be loaded" in told
    assert "download it and name the file or folder" in told


def test_the_hub_library_reads_a_folder_in_its_cache_like_any_other(tmp_path: Path) -> None:
    """What ``datasets.load_dataset`` returns becomes rows: here through its own reader of a local repository."""
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "train.jsonl").write_bytes(lines(ROWS))
    code = (
        "import datasets, os\nfrom flywheel import sources\n"
        "load = datasets.load_dataset\n"
        "datasets.load_dataset = lambda name, config, split, revision: load(os.environ['REPO'], config, split=split)\n"
        "rows = list(sources.read_source('some/repo', split='train'))\n"
        "print(rows[6].where, rows[6].values['answer'], len(rows))\n"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "REPO": str(tmp_path / "repo")}
    told = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert told.strip() == "some/repo [train], row 7 7 7"
