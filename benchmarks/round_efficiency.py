"""What flywheel adds to its engines and trainers: a round against its bare parts.

    python benchmarks/round_efficiency.py runs/countdown [--round N] [--repeats 2] [--json]

Runs round N of a finished run again, in a folder that shares the rounds before it, and does the round's work once more
with nothing around it: engines that answer the same problems, TRL's own trainers on the same rows. The two sides take
turns, in processes of their own; of several repeats the best of each side counts, because whatever else the machine
does only adds to a time. The run that is named is only read.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from apart import apart, start_together
from rich import box
from rich.console import Console
from rich.table import Table
from run_timeline import RoundTime, length, read_rounds

from flywheel.devices import cpu_threads, replicas
from flywheel.engines import EnginePolicy, EngineSpec, make_engine
from flywheel.errors import FlywheelError
from flywheel.files import read_json, read_rows, write_json
from flywheel.recipe import Recipe
from flywheel.rundir import RunDir, fork
from flywheel.session import Rank
from flywheel.tasks import load_task
from flywheel.types import Completion, Problem, Sampling

ROUND_TARGET = 1.10
"""Most that a round may take, in units of its bare parts."""


# -- a round --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Round:
    """A round that flywheel has finished: where its inputs lie, and what made them."""

    run: RunDir
    number: int

    @property
    def log(self) -> Path:
        return self.run.path.with_suffix(".log")

    @property
    def recipe(self) -> Recipe:
        return Recipe.model_validate(self.run.resolved()["recipe"])

    @property
    def base(self) -> Path:
        return Path(self.run.resolved()["base"])

    def stage(self, name: str) -> Path:
        return self.run.stage(self.number, name).path

    def checkpoint(self, name: str) -> str:
        """Folder (or hub id) of a checkpoint: "initial", "previous", "sft" or "candidate"."""
        made = read_json(self.run.round_dir(self.number) / "round.json")
        first = read_json(self.run.round_dir(0) / "round.json")
        named = {"initial": first["policy_out"], "previous": made["policy_in"], "candidate": made["candidate"]}
        if name == "sft":
            return str(self.stage("sft") / "model")
        inside = self.run.path / named[name]
        return str(inside) if inside.is_dir() else named[name]


def turn(source: RunDir, number: int, folder: Path) -> dict[str, float]:
    """Make a round again, in a new folder that shares the rounds before it.

    Returns:
        Seconds of the round as a whole (``round``) and of its stages. The imports that its launch begins with
        are left out (``launch``): they come once in a run, before its first round.
    """
    fork(source, folder, number - 1)
    recipe = folder.with_suffix(".json")
    write_json(recipe, {**source.resolved()["recipe"], "rounds": number})
    log = folder.with_suffix(".log")
    with log.open("w") as file:
        command = [sys.executable, "-m", "flywheel", "run", str(recipe), "--run-dir", str(folder)]
        ended = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if ended != 0:
        raise SystemExit(f"flywheel exited with {ended}:\n{log.read_text()[-2000:]}")
    [measured] = [measured for measured in read_rounds(folder) if measured.number == number]
    return _seconds(measured)


def _seconds(measured: RoundTime) -> dict[str, float]:
    starts = [span.end - span.start for span in measured.spans if span.phase == "spawn"]  # in order of time
    launch = starts[0] - median(starts)
    stages = {stage.stage: [stage.interval] for stage in measured.stages}
    generation = stages.pop("samples", []) + stages.pop("verdicts", [])
    seconds = {name: length(intervals) for name, intervals in {"samples": generation, **stages}.items()}
    return {**seconds, "launch": launch, "round": measured.seconds - launch}


# -- its bare parts -------------------------------------------------------------------------------------


def bare(done: Round) -> dict[str, dict[str, float]]:
    """A round's work with nothing around it, part by part; a part that the round skipped is not there.

    Returns:
        For ``samples`` and ``evaluate``: ``seconds`` in generation, ``tokens``. For ``sft`` and ``dpo``: ``seconds``
        in ``train()``, ``whole`` from loading the model and the rows on, ``steps``.
    """
    recipe = done.recipe
    section, held = recipe.sample, recipe.evaluate
    asked = {key: getattr(section, key) for key in ("top_p", "top_k", "max_tokens")}
    sampled = Sampling(n=section.completions, temperature=section.temperature, stop=tuple(section.stop), **asked)
    modes = {"sampled": replace(sampled, n=held.completions, temperature=held.temperature, top_p=1.0, top_k=0)}
    if held.greedy:
        modes["greedy"] = replace(sampled, n=1, temperature=0.0)
    parts = {"samples": _generation(done, "problems", "previous", {"sampled": sampled})}
    for name in ("sft", "dpo"):
        if (done.stage(name) / "model").is_dir():
            [parts[name]] = apart(train, [{"kind": name, **_training(done, name)}], done.log)
    parts["evaluate"] = _generation(done, "evaluate", "candidate", modes)
    return parts


def _generation(done: Round, stage: str, policy: str, modes: dict[str, Sampling]) -> dict[str, float]:
    """As many engines as the round had, each with its share of the problems, all of them at once."""
    recipe = done.recipe
    groups = replicas(Rank(), recipe.engine.tensor_parallel, recipe.engine.cpu_replicas)
    spec = EngineSpec(
        **recipe.engine.model_dump(mode="json", exclude={"cpu_replicas"}),
        model=done.checkpoint(policy),
        threads=None if groups[0] else cpu_threads(Rank(), len(groups)),
    )
    common = {"task": {**recipe.task.model_dump(), "base": done.base}, "modes": modes, "every": len(groups)}
    common |= {"problems": done.stage(stage) / "problems.parquet", "key": f"{recipe.seed}:{done.number}"}
    jobs = [{**common, "spec": replace(spec, seed=i), "gpus": gpus, "first": i} for i, gpus in enumerate(groups)]
    shares = apart(generate, jobs, done.log)
    wall = max(end for _, end, _ in shares) - min(start for start, _, _ in shares)
    return {"seconds": wall, "tokens": sum(tokens for *_, tokens in shares)}


def generate(job: dict[str, Any]) -> tuple[float, float, int]:
    """One engine, loaded before the clock starts; returns start, end and the tokens that it made."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(job["gpus"])
    task = load_task(job["task"]["use"], job["task"]["args"], job["task"]["base"])
    engine = make_engine(job["spec"])
    problems = [Problem.from_row(row) for row in read_rows(job["problems"])][job["first"] :: job["every"]]

    async def answer_all() -> list[list[Completion]]:
        asked = [(problem, mode) for mode in job["modes"] for problem in problems]
        policies = (EnginePolicy(engine, job["modes"][mode], f"{job['key']}:{mode}:{p.id}") for p, mode in asked)
        return await asyncio.gather(*(task.rollout(p, policy) for (p, _), policy in zip(asked, policies, strict=True)))

    start_together()
    start = time.time()
    answers = asyncio.run(answer_all())
    end = time.time()
    engine.close()
    return start, end, sum(completion.tokens for group in answers for completion in group)


def _training(done: Round, name: str) -> dict[str, Any]:
    recipe = done.recipe
    if name == "sft":
        start = "initial" if recipe.train_from == "base" else "previous"
        own: dict[str, Any] = {"section": recipe.sft, "data": done.stage("curated") / "sft.parquet"}
    else:
        assert recipe.dpo is not None
        start = "sft" if recipe.sft is not None else "previous"
        own = {"section": recipe.dpo, "data": done.stage("curated") / "pairs.parquet"}
        own["reference"] = done.checkpoint(recipe.dpo.reference)
    steps = done.run.stage(done.number, name).info()["steps"]
    return {**own, "model": done.checkpoint(start), "seed": recipe.seed, "steps": steps}


def train(job: dict[str, Any]) -> dict[str, float]:
    """TRL's trainer as its users write it, without checkpoints: the round's rows, settings and threads.

    Raises:
        RuntimeError: it took another number of steps than the round did, so it was not the same work.
    """
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    from trl import DPOTrainer, SFTTrainer

    from flywheel.training.config import dpo_config, lora_config, sft_config

    section = job["section"]
    set_seed(job["seed"])
    if section.threads is not None:
        torch.set_num_threads(section.threads)
    with tempfile.TemporaryDirectory(prefix="flywheel-bare-") as scratch:
        sft = job["kind"] == "sft"
        arguments: Any = (sft_config if sft else dpo_config)(section, Path(scratch), job["seed"], 1)
        arguments.max_length = section.max_length  # flywheel has cut the rows; TRL does it when it prepares them
        arguments.save_strategy = "no"
        begun = time.perf_counter()
        tokenizer = AutoTokenizer.from_pretrained(job["model"])
        model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
        columns = ["prompt", "completion"] if sft else ["prompt", "chosen", "rejected"]
        rows = Dataset.from_parquet(str(job["data"]), columns=columns, cache_dir=scratch)
        common = {"args": arguments, "train_dataset": rows, "processing_class": tokenizer}
        common["peft_config"] = lora_config(section.lora)
        if sft:
            trainer: Any = SFTTrainer(model, **common)
        else:
            reference = AutoModelForCausalLM.from_pretrained(job["reference"], dtype=torch.float32)
            trainer = DPOTrainer(model, reference, **common)
        ready = time.perf_counter()
        trainer.train()
        ended = time.perf_counter()
        steps = trainer.state.global_step
    if steps != job["steps"]:
        raise RuntimeError(f"TRL's {job['kind']} took {steps} steps, the round {job['steps']}: not the same work")
    return {"seconds": ended - ready, "whole": ended - begun, "steps": steps}


# -- the two against each other -------------------------------------------------------------------------


def measure_round(source: RunDir, number: int, repeats: int) -> dict[str, Any]:
    """Both sides ``repeats`` times, in turns.

    Returns:
        ``flywheel`` and ``bare``: the repeat with the least seconds; ``ratio``; all ``repeats``.
    """
    ours: list[dict[str, float]] = []
    theirs: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory(prefix="flywheel-efficiency-") as scratch:
        folders = [Path(scratch) / f"repeat-{i}" for i in range(repeats)]
        for i, folder in enumerate(folders):
            # A b, b a: a machine that gets slower or faster meanwhile favours neither. The first round is the input
            # of all bare parts; on a CPU they all are the same, bit for bit.
            sides = [lambda at=folder: ours.append(turn(source, number, at))]
            sides.insert(1 - i % 2, lambda: theirs.append(bare(Round(RunDir(folders[0]), number))))
            for side in sides:
                side()
    best = min(ours, key=lambda seconds: seconds["round"])
    least = min(theirs, key=_sum)
    return {
        "run": str(source.path),
        "round": number,
        "flywheel": best,
        "bare": least,
        "ratio": best["round"] / _sum(least),
        "target": ROUND_TARGET,
        "repeats": [{"flywheel": a, "bare": b} for a, b in zip(ours, theirs, strict=True)],
    }


def _sum(parts: dict[str, dict[str, float]]) -> float:
    return sum(part["seconds"] for part in parts.values())


def show_round(result: dict[str, Any], console: Console) -> None:
    ours, theirs = result["flywheel"], result["bare"]
    table = Table(title=f"{result['run']}, round {result['round']}: seconds", title_justify="left", box=box.SIMPLE)
    for column in ("", "flywheel", "bare", "ratio"):
        table.add_column(column, justify="right" if column else "left")
    names = {"samples": "sampling, verifying", "sft": "SFT", "dpo": "DPO", "evaluate": "evaluation"}
    for key, name in names.items():
        if key in theirs:
            table.add_row(name, *_figures(ours[key], theirs[key]["seconds"]))
    rest = ours["round"] - sum(ours[key] for key in names if key in theirs)
    table.add_row("drawing, curating, gate, rest", f"{rest:.1f}", "", "", end_section=True)
    table.add_row("the round", *_figures(ours["round"], _sum(theirs)))
    console.print(table)
    verdict = "meets" if result["ratio"] <= ROUND_TARGET else "misses"
    console.print(f"ratio {result['ratio']:.3f}: {verdict} the target of at most {ROUND_TARGET:.2f}")
    trained = [part for part in theirs.values() if "whole" in part]
    added = sum(part["whole"] - part["seconds"] for part in trained)
    whole = ours["round"] / (_sum(theirs) + added)
    console.print(f"with TRL's own loading and preparation, {added:.1f} s more on the bare side: {whole:.3f}")
    every = ", ".join(f"{r['flywheel']['round']:.1f} / {_sum(r['bare']):.1f}" for r in result["repeats"])
    console.print(f"all repeats: {every}")


def _figures(ours: float, theirs: float) -> tuple[str, str, str]:
    return f"{ours:.1f}", f"{theirs:.1f}", f"{ours / theirs:.2f}"


# -- the command ----------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN_DIR", help="a finished run of a recipe that names no file beside it")
    add("--round", type=int, default=1, help="the round to make again (default: %(default)s)")
    add("--repeats", type=int, default=2, help="of each side (default: %(default)s)")
    add("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    if args.round < 1 or args.repeats < 1:
        parser.error("--round and --repeats start at 1: round 0 is the warm-up")
    return args


def main() -> int:
    args = arguments()
    # The same for both sides as for flywheel's own workers (workers.start_forkserver).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    try:
        result = measure_round(RunDir.existing(args.run.resolve()), args.round, args.repeats)
    except FlywheelError as error:
        print(error, file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        show_round(result, Console(highlight=False, width=max(110, Console().width)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
