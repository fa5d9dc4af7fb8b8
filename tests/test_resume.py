"""Nothing is lost: runs that are killed, damaged, edited, started twice or out of disk, and bad input.

The heavy tests train `recipes/smoke.yaml` for real and compare weights bit for bit.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from killing import (
    OVERRIDES,
    SMOKE,
    History,
    Tree,
    assert_whole,
    boundaries,
    command,
    decisions,
    flywheel_run,
    haunt,
    newest_attempt,
    parts,
    scattered,
    state_of,
    weights,
)

from flywheel.cli.app import main
from flywheel.files import read_json, write_json
from flywheel.rundir import RunDir

HUNTS: dict[str, Callable[[], Any]] = {
    "boundaries": lambda: boundaries(rounds=2),
    "scattered": lambda: scattered(seed=1),
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed: read-only."""
    folder = tmp_path_factory.mktemp("reference") / "smoke"
    done = flywheel_run(folder)
    assert done.returncode == 0, done.stderr
    assert "leaked" not in done.stderr
    assert_whole(folder)
    return folder


@pytest.fixture
def copy(reference: Path, tmp_path: Path) -> Path:
    """The finished run, to be damaged."""
    return Path(shutil.copytree(reference, tmp_path / "smoke", symlinks=True))


# -- killed ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hunts(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[History]]]:
    """Runs that are killed again and again until they finish; side by side, for most of it is starting up."""
    folder = tmp_path_factory.mktemp("hunts")
    with ThreadPoolExecutor(len(HUNTS)) as pool:
        yield {name: pool.submit(haunt, folder / name, moments()) for name, moments in HUNTS.items()}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", HUNTS)
def test_a_run_that_is_killed_again_and_again_ends_bit_for_bit_the_same(
    hunts: dict[str, Future[History]], reference: Path, name: str
) -> None:
    history = hunts[name].result()
    planned = HUNTS[name]()
    assert not history.complaints, "\n".join(history.complaints)
    assert history.kills == [moment.name for moment in planned]
    assert_whole(history.run_dir)
    assert weights(history.run_dir) == weights(reference)
    assert decisions(history.run_dir) == decisions(reference)
    if name == "boundaries":
        assert len(history.kills) == history.hits.count("committed") == 2 + 2 * 7
    else:
        assert len(history.kills) >= 20
        # A moment that lasts milliseconds may be missed now and then, but not every time.
        assert {"chunk", "checkpoint", "torn", "commit"} <= set(history.hits)


@pytest.mark.slow
def test_nothing_outlives_the_agent_and_signals_end_it_in_order(reference: Path, tmp_path: Path) -> None:
    run = tmp_path / "smoke"
    sampling, training = parts(1, "samples", 1), tmp_path / "smoke/rounds/000/.warmup.work/.trainer.1"

    tree = Tree(run)
    assert tree.wait_for(lambda: (run / "logs/latest/preflight.log").exists())  # checking the recipe
    tree.signal(signal.SIGTERM)
    assert tree.end() == 130
    assert state_of(run) == "interrupted"

    tree = Tree(run)
    assert tree.wait_for(lambda: any(training.glob("checkpoint-*/complete.0")))
    tree.signal(signal.SIGINT)
    assert tree.end() == 130
    assert "interrupted by SIGINT; nothing is lost" in tree.output()
    assert "the same command resumes" in tree.output()
    assert "Traceback" not in tree.output()
    assert state_of(run) == "interrupted"
    assert len(tree.members) >= 3, "the agent, its forkserver and a worker were there to be ended"

    tree = Tree(run)
    assert tree.wait_for(lambda: sampling.reached(run) or sampling.missed(run))
    tree.signal(signal.SIGKILL)  # the agent alone: the kernel must see to the rest
    assert tree.end() == -signal.SIGKILL
    assert state_of(run) == "interrupted"

    tree = Tree(run)
    assert tree.wait_for(lambda: (run / "rounds/001/.evaluate.work").exists())
    os.killpg(tree.agent.pid, signal.SIGTERM)  # as `timeout` and Slurm do: to agent and forkserver at once
    tree.signal(signal.SIGTERM)
    while tree.agent.poll() is None:  # and again, by the impatient, to the very end
        os.kill(tree.agent.pid, signal.SIGTERM)
        time.sleep(0.002)
    assert tree.end() == 130
    assert "Traceback" not in tree.output()

    assert flywheel_run(run).returncode == 0
    assert weights(run) == weights(reference)
    assert_whole(run)


@pytest.mark.slow
def test_sigterm_is_obeyed_at_once_whenever_it_comes(tmp_path: Path) -> None:
    run = tmp_path / "smoke"
    for seconds in (1.0, 2.5):
        before = newest_attempt(run)
        tree = Tree(run)
        assert tree.wait_for(
            lambda old=before: newest_attempt(run) != old and any(newest_attempt(run).glob("rank0.0*.log"))  # type: ignore[misc]
        )
        time.sleep(seconds)
        tree.signal(signal.SIGTERM)
        begun = time.monotonic()
        assert tree.end() == 130, tree.output()
        assert time.monotonic() - begun < 20


# -- damaged --------------------------------------------------------------------------------------------


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    file.write_bytes(data)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


DAMAGED = (
    "rounds/001/samples/part-00000.parquet",
    "rounds/001/verdicts/part-00003.parquet",
    "rounds/001/curated/sft.parquet",
    "rounds/000/warmup/model/model.safetensors",
    "rounds/002/evaluate/results.json",
    "rounds/002/problems/manifest.json",
)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [truncate, flip])
@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_named_and_not_used(copy: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(copy / name)
    before = sorted(copy.glob("rounds/*/*"))
    done = flywheel_run(copy)
    assert done.returncode == 1
    assert str(copy / name) in done.stderr
    assert done.stderr.count("error ") == 1 and "--repair" in done.stderr
    assert sorted(copy.glob("rounds/*/*")) == before and not [*copy.glob("rounds/*/.*.work")]


@pytest.mark.slow
@pytest.mark.parametrize("name", [DAMAGED[0], DAMAGED[5]])
def test_repair_sets_the_damaged_stage_aside_and_makes_it_again(copy: Path, reference: Path, name: str) -> None:
    truncate(copy / name)
    done = flywheel_run(copy, "--repair")
    assert done.returncode == 0, done.stderr
    _, number, stage, _ = name.split("/")
    assert any(folder.name.endswith(f"{number}-{stage}") for folder in (copy / "quarantine").iterdir())
    assert weights(copy) == weights(reference)
    assert decisions(copy) == decisions(reference)
    assert_whole(copy)


# -- edited ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_edit_is_refused_and_a_fork_shares_what_it_does_not_change(copy: Path, reference: Path) -> None:
    edit = "evaluate.completions=4"
    done = flywheel_run(copy, edit)
    assert done.returncode == 1
    assert "evaluate.completions" in done.stderr and "--fork-from" in done.stderr
    forked = copy.with_name("smoke-fork1")
    done = flywheel_run(copy, edit, "rounds=1", "--fork-from", "1")  # everything that it needs is shared
    assert done.returncode == 0, done.stderr
    assert weights(forked) == {k: v for k, v in weights(reference).items() if not k.startswith("rounds/002")} | {
        "best": weights(forked)["best"]
    }
    shared = "rounds/001/samples/part-00000.parquet"
    assert (forked / shared).samefile(copy / shared)
    assert_whole(forked)
    # The same command resumes the fork, and one more round is no edit of a finished one.
    done = flywheel_run(copy, edit, "rounds=2", "--fork-from", "1")
    assert done.returncode == 0, done.stderr
    assert len(decisions(forked)) == 3
    assert weights(copy) == weights(reference)
    assert_whole(copy)
    assert RunDir.existing(copy).resolved()["recipe"]["evaluate"]["completions"] != 4


@pytest.mark.slow
def test_more_rounds_continue_a_finished_run(copy: Path, reference: Path) -> None:
    before = decisions(reference)
    done = flywheel_run(copy, f"rounds={len(before)}")
    assert done.returncode == 0, done.stderr
    assert decisions(copy)[:-1] == before
    assert_whole(copy)


# -- no space -------------------------------------------------------------------------------------------


def mount(*arguments: str) -> bool:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    return done.returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or not mount("-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)):
        pytest.skip("needs root and mount(8), to make a disk of a few kilobytes")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_said_and_survived(small_disk: Path, reference: Path) -> None:
    run = small_disk / "smoke"
    # Full when the folder is made; in the first checkpoint of the warm-up; somewhere in the first round.
    for size in ("16k", "1m", "3500k"):
        assert mount("-o", f"remount,size={size}", str(small_disk))
        done = flywheel_run(run)
        assert done.returncode in (1, 3), (size, done.stdout)
        assert "no space left on the disk" in done.stderr, (size, done.stderr)
        assert "the same command resumes" in done.stderr
        assert done.stderr.count("error ") == 1
    assert mount("-o", "remount,size=200m", str(small_disk))
    done = flywheel_run(run)
    assert done.returncode == 0, done.stderr
    assert weights(run) == weights(reference)
    assert_whole(run)


# -- no success -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_round_without_one_right_completion_is_a_recorded_decision(tmp_path: Path) -> None:
    run = tmp_path / "smoke"
    more = ['engine.extra={answers: {"*": ["nonsense"]}}', "engine.use=scripted", "warmup.max_steps=3", "rounds=1"]
    done = flywheel_run(run, *more)
    assert done.returncode == 0, done.stderr
    for stage in ("sft", "dpo"):
        info = read_json(run / f"rounds/001/{stage}/manifest.json")["info"]
        assert set(info) == {"skipped"} and info["skipped"] in done.stdout
    told = read_json(run / "rounds/001/round.json")
    assert not told["promoted"] and told["why"] == "this round trained nothing"
    assert told["counts"]["right"] == 0 and "no completion" in told["counts"]["sft_skipped"]
    assert os.readlink(run / "best") == "rounds/000/warmup/model"
    assert told["metrics"]["accuracy"] == 0.0
    assert_whole(run)


# -- refused, in a moment -------------------------------------------------------------------------------


class Refusal:
    """What `flywheel run` says when it refuses; in this process, so that tests share one forkserver."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def of(self, *arguments: str | Path) -> str:
        self._monkeypatch.setattr(sys, "argv", ["flywheel", "run", *map(str, arguments)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = self._capsys.readouterr()
        assert ended.value.code == 1, said.out + said.err
        assert said.err.startswith("error ") and said.err.count("error ") == 1
        assert "\n  -> " in said.err, f"no hint: {said.err}"
        assert "Traceback" not in said.out + said.err
        return " ".join(said.err.split())


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refusal:
    return Refusal(monkeypatch, capsys)


def test_the_second_of_two_starts_is_refused(tmp_path: Path) -> None:
    first = Tree(tmp_path / "smoke")
    try:
        assert first.wait_for(lambda: (tmp_path / "smoke" / "state.json").exists())
        second = subprocess.run(command(tmp_path / "smoke"), capture_output=True, text=True, check=False, timeout=60)
    finally:
        first.signal(signal.SIGKILL, whole=True)
        first.end()
    assert second.returncode == 1
    assert f"is being written by pid {first.agent.pid} on" in second.stderr
    assert len(second.stderr.strip().splitlines()) == 2, second.stderr


def test_a_folder_of_a_newer_version_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"format": 99, "name": "smoke", "id": "x", "created": "tomorrow"})
    said = refusal.of(SMOKE, "--run-dir", tmp_path)
    assert "was made by a newer flywheel (folder format 99" in said and "pip install --upgrade" in said
    said = refusal.of(SMOKE, "--run-dir", tmp_path, "--repair")
    assert "was made by a newer flywheel (folder format 99" in said


def test_a_folder_of_somebody_else_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all my work")
    assert "not a run folder (it has thesis.tex)" in refusal.of(SMOKE, "--run-dir", tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "all my work"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good tiny checkpoint, and ways in which one can be bad."""
    from flywheel.engines.checkpoint import make_model
    from flywheel.recipe import ScratchModel

    folder = tmp_path_factory.mktemp("models")
    config = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model, tokenizer = make_model(ScratchModel(architecture="llama", config=config))
    model.save_pretrained(folder / "good")
    tokenizer.save_pretrained(folder / "good")
    for name in ("garbage", "truncated", "weightless", "mute"):
        shutil.copytree(folder / "good", folder / name)
    (folder / "garbage" / "model.safetensors").write_bytes(b"garbage" * 1000)
    truncate(folder / "truncated" / "model.safetensors")
    (folder / "weightless" / "model.safetensors").unlink()
    tokenizer.chat_template = None
    (folder / "mute" / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder / "mute")
    (folder / "empty").mkdir()
    return folder


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("garbage", "unreadable"),
        ("truncated", "unreadable"),
        ("weightless", "has no weights"),
        ("mute", "has no chat template (set `chat_template:"),
        ("empty", "cannot be loaded"),
        ("missing", "there is no model folder"),
    ],
)
def test_a_bad_model_is_refused_before_anything_is_trained(
    refusal: Refusal, models: Path, tmp_path: Path, model: str, said: str
) -> None:
    told = refusal.of(SMOKE, "--run-dir", tmp_path / "run", f"model={models / model}")
    assert said in told and str(models / model) in told
    assert not [*(tmp_path / "run" / "rounds").iterdir()]


TASK = """
from flywheel.tasks import BaseTask
from flywheel.types import Message, Problem, Verdict


class Task(BaseTask):
    def problems(self, split):
        for i in range({count}):
            prompt = ({{"role": "user", "content": f"{{split}} {{i}}?"}},)
            yield Problem(id=f"{{split}}-{{i}}", prompt=prompt, gold=str(i), data={{"answer": str(i)}})

    def verify(self, problem, completion):
        return Verdict({right}, "said so")


raise_on_import = {trouble}
"""


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"count": 0}, "split 'train' has no problems"),
        ({"right": "0.0"}, "the verifier does not accept the gold answer of"),
        ({"right": "1.0"}, "the verifier accepts the wrong answer"),
        ({"trouble": "1 / 0"}, "does not import"),
    ],
    ids=["no problems", "rejects gold", "accepts all", "broken file"],
)
def test_a_bad_task_is_refused_before_anything_is_trained(
    refusal: Refusal, tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    right = "1.0 if completion.text == problem.data['answer'] else 0.0"
    (tmp_path / "task.py").write_text(TASK.format(**{"count": 20, "right": right, "trouble": "None", **fields}))
    raw = yaml.safe_load(SMOKE.read_text()) | {"task": {"use": "./task.py:Task"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(raw))
    assert said in refusal.of(tmp_path / "recipe.yaml", "--run-dir", tmp_path / "run", *OVERRIDES)
    assert not [*(tmp_path / "run" / "rounds").iterdir()]
