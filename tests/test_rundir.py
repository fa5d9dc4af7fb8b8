"""The run folder: what is there under its name is whole, and what is not whole is noticed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flywheel.errors import CorruptStage, RecipeChanged, RunDirError, RunLocked
from flywheel.files import read_rows, write_atomic, write_json
from flywheel.ledger import Ledger
from flywheel.recipe_file import parse_recipe
from flywheel.rundir import RunDir, fork, ledger_entry
from flywheel.stagedir import StageDir
from flywheel.stages.context import Context

RECIPE: dict[str, Any] = {"name": "r", "model": "m", "task": {"use": "countdown"}, "rounds": 2}


def prepare(path: Path, **changes: Any) -> RunDir:
    run = RunDir(path)
    run.acquire()
    try:
        run.prepare(parse_recipe({**RECIPE, **changes}), "name: r\n", path.parent)
    finally:
        run.release()
    return run


def make(run: RunDir, number: int, name: str, text: str = "result", **recipe: Any) -> StageDir:
    """Commit a stage with one file."""
    stage = run.stage(number, name)
    inputs = {"recipe": recipe, "parents": {}}
    (stage.begin(inputs) / "file.txt").write_text(text)
    stage.commit(inputs, {"rows": 1}, seconds=0.5)
    run.record(stage)
    return stage


# -- files ----------------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"old": 1})

    def fail(*_: object) -> None:
        raise OSError("the disk went away")

    monkeypatch.setattr("flywheel.files.os.replace", fail)
    with pytest.raises(OSError, match="went away"):
        write_atomic(file, b"new")
    assert json.loads(file.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_rows_are_read_from_a_folder_that_looks_like_a_partition(tmp_path: Path) -> None:
    import pyarrow as pa

    from flywheel.files import write_rows

    folder = tmp_path / "lr=1"
    folder.mkdir()
    schema = pa.schema([("x", pa.int64())])
    write_rows(folder / "part-00001.parquet", [{"x": 2}], schema)
    write_rows(folder / "part-00000.parquet", [{"x": 1}], schema)
    write_rows(folder / "part-00002.parquet", [], schema)
    assert read_rows(folder) == [{"x": 1}, {"x": 2}]


# -- ledger ---------------------------------------------------------------------------------------------

ENTRIES = [{"round": 0, "stage": "warmup", "seconds": 1.5}, {"round": 0, "stage": "evaluate", "seconds": 0.1}]


def ledger(tmp_path: Path, entries: list[dict[str, Any]] = ENTRIES) -> Ledger:
    made = Ledger(tmp_path / "ledger.jsonl")
    for entry in entries:
        made.append(entry)
    return made


def test_a_ledger_gives_back_what_was_appended(tmp_path: Path) -> None:
    assert ledger(tmp_path).entries() == ENTRIES
    assert Ledger(tmp_path / "none.jsonl").entries() == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-20],  # a torn last line
        lambda text: text[:-1],  # whole, but for its line break: the next line would be glued to it
        lambda text: text.replace("1.5", "2.5"),  # a changed value
        lambda text: text.splitlines(keepends=True)[1],  # a lost first line
        lambda text: text + text.splitlines(keepends=True)[0],  # a line twice
        lambda text: text + "[]\n",
        lambda text: text.replace("warmup", "w\x00rmup"),
        lambda text: "",
    ],
    ids=["torn", "no line break", "changed", "lost", "twice", "not an entry", "binary", "empty"],
)
def test_a_damaged_ledger_is_rebuilt_from_the_stages(tmp_path: Path, damage: Any) -> None:
    made = ledger(tmp_path)
    made.path.write_text(damage(made.path.read_text()))
    made.reconcile(ENTRIES)
    assert made.entries() == ENTRIES
    made.append({"round": 1, "stage": "problems"})
    assert len(made.entries()) == len(made.path.read_text().splitlines()) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["ledger.jsonl"]


def test_an_intact_ledger_is_only_appended_to(tmp_path: Path) -> None:
    made = ledger(tmp_path, ENTRIES[:1])
    inode = made.path.stat().st_ino
    made.reconcile(ENTRIES)
    assert made.entries() == ENTRIES
    assert made.path.stat().st_ino == inode


# -- stages ---------------------------------------------------------------------------------------------


def test_a_stage_has_its_name_only_when_it_is_finished(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "001", "sft")
    inputs = {"recipe": {"seed": 1}, "parents": {}}
    work = stage.begin(inputs)
    (work / "model").mkdir()
    (work / "model" / "weights").write_text("w")
    (work / ".claims").mkdir()
    (work / "model" / ".claims").mkdir()
    (work / "model" / ".claims" / "x").touch()
    assert not stage.committed and not stage.path.exists()
    stage.commit(inputs, {"rows": 3}, seconds=1.0)
    assert stage.committed and not stage.work.exists()
    assert set(stage.manifest()["files"]) == {"model/weights"}
    assert stage.info() == {"rows": 3}
    assert not [*stage.path.rglob(".*")], "scratch outlived the commit"
    stage.check()


def test_work_is_resumed_from_the_same_inputs_and_swept_for_others(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "001", "samples")
    work = stage.begin({"seed": 1})
    (work / "part-0.parquet").write_text("x")
    (work / ".part-1.parquet.77.tmp").write_text("torn")
    (work / "deeper").mkdir()
    (work / "deeper" / ".part-2.parquet.77.tmp").write_text("torn")
    stage.begin({"seed": 1})
    assert {p.name for p in work.rglob("*")} == {".inputs.json", "part-0.parquet", "deeper"}
    stage.begin({"seed": 2})
    assert {p.name for p in work.rglob("*")} == {".inputs.json"}
    (work / "part-0.parquet").write_text("x")
    (work / ".inputs.json").unlink()  # as a crash right after mkdir, or an unreadable marker
    stage.begin({"seed": 2})
    assert {p.name for p in work.rglob("*")} == {".inputs.json"}


def test_a_commit_that_was_cut_short_is_done_again(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "001", "sft")
    work = stage.begin({"recipe": {}, "parents": {}})
    (work / "a").write_text("a")
    (work / "manifest.json").write_text('{"files": {')
    stage.begin({"recipe": {}, "parents": {}})
    stage.commit({"recipe": {}, "parents": {}}, {}, 0.0)
    assert set(stage.manifest()["files"]) == {"a"}
    stage.check()


def test_the_identity_follows_content_and_inputs(tmp_path: Path) -> None:
    run = prepare(tmp_path / "run")
    one = make(run, 0, "warmup", "a", seed=1).identity()
    assert make(run, 1, "sft", "a", seed=1).identity() == one
    assert make(run, 1, "dpo", "b", seed=1).identity() != one
    assert make(run, 1, "evaluate", "a", seed=2).identity() != one


def flip(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 0x01
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("file.txt", lambda f: flip(f, 2), "sha256"),
        ("file.txt", lambda f: os.truncate(f, 3), "3 bytes instead of 6"),
        ("file.txt", lambda f: f.write_text("result and more"), "15 bytes instead of 6"),
        ("file.txt", lambda f: f.unlink(), "is missing"),
        ("manifest.json", lambda f: os.truncate(f, 100), "unreadable"),
        ("manifest.json", lambda f: os.truncate(f, 0), "unreadable"),
        ("manifest.json", lambda f: f.unlink(), "unreadable"),
        ("manifest.json", lambda f: f.write_text(f.read_text().replace('"rows": 1', '"rows": 3')), "checksum"),
    ],
)
def test_damage_is_found_and_named_and_can_be_set_aside(tmp_path: Path, name: str, damage: Any, said: str) -> None:
    run = prepare(tmp_path / "run")
    make(run, 0, "warmup")
    damaged = make(run, 1, "samples")
    make(run, 1, "sft")
    write_json(run.round_dir(1) / "round.json", {})
    run.check()
    damage(damaged.path / name)
    with pytest.raises(CorruptStage, match=said) as caught:
        run.check()
    assert str(damaged.path / name) in caught.value.message
    assert "--repair" in (caught.value.hint or "")
    assert len(run.repair()) == 2
    run.check()
    assert [s.label for s in run.committed()] == ["round 0 warmup"]
    assert not (run.round_dir(1) / "round.json").exists()
    assert len([*(run.path / "quarantine").iterdir()]) == 2
    prepare(run.path)
    assert [e["stage"] for e in run.ledger.entries()] == ["warmup"]
    assert run.repair() == []


def test_any_flipped_bit_of_a_manifest_is_found(tmp_path: Path) -> None:
    stage = make(prepare(tmp_path / "run"), 0, "warmup")
    file = stage.path / "manifest.json"
    whole = file.read_bytes()
    blank = {i for i, byte in enumerate(whole) if byte in b" \n"}  # a blank more or less changes nothing
    for position in range(len(whole)):
        flip(file, position)
        try:
            stage.check()
        except CorruptStage:
            pass
        else:
            assert position in blank or json.loads(file.read_bytes()) == json.loads(whole)
        file.write_bytes(whole)


# -- the folder -----------------------------------------------------------------------------------------


def test_stages_come_in_the_order_in_which_they_were_made(tmp_path: Path) -> None:
    run = prepare(tmp_path / "run")
    for number, name in ((1, "sft"), (0, "warmup"), (1, "verdicts"), (1, "samples"), (0, "evaluate"), (1, "problems")):
        make(run, number, name)
    (run.round_dir(1) / ".dpo.work").mkdir()
    assert [stage.label for stage in run.committed()] == [
        "round 0 warmup", "round 0 evaluate", "round 1 problems", "round 1 samples", "round 1 verdicts", "round 1 sft",
    ]  # fmt: skip


def test_starting_again_sweeps_what_a_crash_left(tmp_path: Path) -> None:
    run = prepare(tmp_path / "run")
    stage = make(run, 0, "warmup")
    run.ledger.path.write_text(run.ledger.path.read_text()[:10])  # killed in the middle of the ledger's line
    for leftover in (".state.json.9.tmp", "rounds/000/.round.json.9.tmp", "logs/.latest.tmp"):
        (run.path / leftover).touch()
    (stage.path / ".trainer.1").mkdir()  # killed between the rename and the sweep
    (stage.path / ".trainer.1" / "x").touch()
    prepare(run.path)
    assert not [*run.path.rglob(".*")]
    assert run.ledger.entries() == [ledger_entry(stage)]


def test_a_first_start_that_was_killed_can_be_repeated(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").touch()
    (tmp_path / "run" / ".run.json.123.tmp").write_text("{")
    prepare(tmp_path / "run")
    assert not [*(tmp_path / "run").rglob(".*")]


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all my work")
    with pytest.raises(RunDirError, match=r"not a run folder \(it has thesis.tex\)"):
        prepare(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"thesis.tex", "lock"}


def test_a_folder_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    run = prepare(tmp_path / "run")
    write_json(run.path / "run.json", {**run.header(), "format": 99})
    for use in (lambda: prepare(run.path), lambda: RunDir.existing(run.path)):
        with pytest.raises(RunDirError, match="newer flywheel") as caught:
            use()
        assert "pip install --upgrade flywheel" in (caught.value.hint or "")


def test_an_unreadable_header_is_named(tmp_path: Path) -> None:
    run = prepare(tmp_path / "run")
    (run.path / "run.json").write_text("{")
    with pytest.raises(RunDirError, match=r"run\.json is unreadable"):
        prepare(run.path)


def test_an_edit_of_a_finished_stage_is_refused_by_name(tmp_path: Path) -> None:
    run = prepare(tmp_path / "run", sft={"learning_rate": 1e-4})
    section = parse_recipe({**RECIPE, "sft": {"learning_rate": 1e-4}}).model_dump(mode="json")["sft"]
    make(run, 2, "sft", sft=section)
    with pytest.raises(RecipeChanged, match=r"differs in sft\.learning_rate, but round 2 sft is finished") as caught:
        prepare(run.path, sft={"learning_rate": 2e-4})
    assert "--fork-from 1" in (caught.value.hint or "")
    prepare(run.path, sft={"learning_rate": 1e-4}, rounds=9)
    prepare(run.path, sft={"learning_rate": 1e-4}, dpo=None)  # nothing of it is finished yet


# -- one writer -----------------------------------------------------------------------------------------


def test_only_one_process_writes_and_the_other_is_told_which(tmp_path: Path) -> None:
    run = prepare(tmp_path / "run")
    hold = f"""
import sys
from pathlib import Path
from flywheel.rundir import RunDir
run = RunDir(Path({str(run.path)!r}))
run.acquire()
print("held", flush=True)
sys.stdin.read()
"""
    holder = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(RunLocked, match=rf"being written by pid {holder.pid} on "):
        run.acquire()
    assert run.is_locked()
    holder.kill()  # a lock dies with its holder, however that dies
    holder.communicate()
    assert not run.is_locked()
    run.acquire()
    run.release()


def test_asking_for_the_state_does_not_block_a_start(tmp_path: Path) -> None:
    import fcntl
    import threading

    run = prepare(tmp_path / "run")
    with (run.path / "lock").open() as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        threading.Timer(0.1, reader.close).start()
        run.acquire()
    assert run.is_locked()
    run.release()


def test_the_state_is_the_truth(tmp_path: Path) -> None:
    run = prepare(tmp_path / "run")
    assert run.state() == "interrupted"
    run.acquire()
    run.set_state("running")
    assert RunDir(run.path).state() == "running"
    run.release()
    assert run.state() == "interrupted", "it says running, but nobody writes it: it was killed"
    for state in ("finished", "failed", "interrupted"):
        run.set_state(state)
        assert run.state() == state


def test_attempts_are_numbered_and_the_latest_is_linked(tmp_path: Path) -> None:
    run = prepare(tmp_path / "run")
    assert [run.new_attempt().name for _ in range(3)] == ["attempt_001", "attempt_002", "attempt_003"]
    assert os.readlink(run.path / "logs" / "latest") == "attempt_003"


def test_best_is_a_relative_link(tmp_path: Path) -> None:
    run = prepare(tmp_path / "run")
    for name in ("sft", "dpo"):
        run.point_best(run.stage(1, name).path / "model")
        assert os.readlink(run.path / "best") == f"rounds/001/{name}/model"


# -- forks ----------------------------------------------------------------------------------------------


def test_a_fork_shares_finished_rounds_and_goes_its_own_way(tmp_path: Path) -> None:
    run = prepare(tmp_path / "run", seed=1)
    for number in range(3):
        stage = make(run, number, "sft", seed=1)
        (stage.path / "model").mkdir()  # not in the manifest; only `best` is asked for here
        policy = "rounds/001/sft/model" if number else "rounds/000/sft/model"
        write_json(run.round_dir(number) / "round.json", {"policy_out": policy, "promoted": True})
    (run.round_dir(1) / ".dpo.work").mkdir()
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}

    forked = fork(run, tmp_path / "fork", last_round=1)
    assert forked.rounds() == [0, 1]
    assert forked.header()["forked_from"] == {"run": str(run.path), "id": run.header()["id"], "round": 1}
    assert forked.header()["id"] != run.header()["id"]
    assert os.readlink(forked.path / "best") == "rounds/001/sft/model"
    assert not (forked.round_dir(1) / ".dpo.work").exists()
    shared = "rounds/000/sft/file.txt"
    assert (forked.path / shared).samefile(run.path / shared), "weights are not copied"

    prepare(forked.path, seed=2)  # the edit is of shared rounds' recipe, and allowed
    assert [e["round"] for e in forked.ledger.entries()] == [0, 1]
    make(forked, 2, "sft", seed=2)
    with pytest.raises(RecipeChanged, match="seed"):
        prepare(forked.path, seed=3)
    (forked.round_dir(1) / "round.json").unlink()
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before


def test_a_fork_needs_a_finished_round_and_a_free_name(tmp_path: Path) -> None:
    run = prepare(tmp_path / "run")
    with pytest.raises(RunDirError, match=r"round 3 of .* is not finished"):
        fork(run, tmp_path / "fork", last_round=3)
    with pytest.raises(RunDirError, match="exists already"):
        fork(run, tmp_path, last_round=0)


def test_a_stage_made_from_other_parents_is_not_reused(tmp_path: Path) -> None:
    stage = StageDir(prepare(tmp_path / "run").round_dir(2), "sft")
    made_from = {"recipe": {}, "parents": {"start": "a", "round 2 curated": "b"}}
    context = object.__new__(Context)
    assert not context.reuse(stage, made_from)
    stage.begin(made_from)
    stage.commit(made_from, {}, seconds=1.0)
    assert context.reuse(stage, made_from)
    with pytest.raises(RecipeChanged, match="made from another start than") as refused:
        context.reuse(stage, {"recipe": {}, "parents": {"start": "c", "round 2 curated": "b"}})
    assert "--fork-from 1" in (refused.value.hint or "")


def test_a_rank_that_came_first_does_not_make_the_folder_a_strangers(tmp_path: Path) -> None:
    (tmp_path / "run" / "session").mkdir(parents=True)
    assert prepare(tmp_path / "run").header()["name"] == "r"
