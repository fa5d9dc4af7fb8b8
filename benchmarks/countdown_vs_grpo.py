"""flywheel against TRL's own ``GRPOTrainer``: the same warm-up checkpoint, machine and wall clock.

    python benchmarks/countdown_vs_grpo.py --seeds 0 1 2 --out runs/bench-grpo

For each seed flywheel runs the recipe. What its rounds took after the warm-up, evaluation, gates and
overheads included, is then GRPO's budget, which starts from the same warm-up checkpoint, draws the
same training problems in the same order, and is rewarded by the same verifier. Evaluating and saving
are free for GRPO, and so is its start. Every checkpoint of both is scored afterwards by one and the
same code (``score.py``) on held-out problems that flywheel's gate has not seen either.

Asked again, it repeats nothing that is finished under ``--out``. Run it on a machine with nothing else
to do: the two methods take their turns.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparison import plot, table, verdict
from rich.console import Console
from run_timeline import read_rounds

from flywheel.errors import FlywheelError
from flywheel.files import digest, read_json, sha256_file, write_json
from flywheel.recipe import Recipe
from flywheel.recipe_file import load_recipe
from flywheel.rundir import RunDir

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
console = Console(highlight=False, width=max(110, Console().width))


@dataclass(frozen=True)
class Bench:
    """What was asked for, with everything that the figures depend on."""

    recipe: Path
    overrides: list[str]
    out: Path
    grpo: dict[str, Any]
    marks: int
    skip: int | None
    problems: int
    completions: int

    def settings(self) -> dict[str, Any]:
        """As recorded in ``bench.json``: results of other settings must not be mixed with these."""
        recipe = self.resolved(seed=0).model_dump(mode="json")
        scoring = {"skip": self.skip, "problems": self.problems, "completions": self.completions}
        return {"recipe": recipe, "grpo": self.grpo, "marks": self.marks, "scoring": scoring}

    def resolved(self, seed: int) -> Recipe:
        return load_recipe(self.recipe, [*self.overrides, f"seed={seed}"])


# -- the two methods ------------------------------------------------------------------------------------


def run_flywheel(bench: Bench, seed: int) -> Path:
    """A finished flywheel run of this seed. One that was cut short starts anew, as its time is part of the result."""
    folder = bench.out / f"flywheel-{seed}"
    run = RunDir(folder)
    if (folder / "run.json").exists():
        if run.state() == "finished":
            return folder
        if run.state() == "running":
            raise SystemExit(f"{folder} is being written by another process")
        shutil.rmtree(folder)
    command = [sys.executable, "-m", "flywheel", "run", str(bench.recipe), *bench.overrides, f"seed={seed}"]
    console.print(f"seed {seed}: flywheel")
    ended = subprocess.run([*command, "--run-dir", str(folder)], check=False).returncode
    if ended != 0:
        raise SystemExit(f"flywheel exited with {ended}")
    return folder


def flywheel_points(folder: Path) -> list[dict[str, Any]]:
    """flywheel's best checkpoint after each round, and the seconds since the end of the warm-up's evaluation."""
    points, elapsed = [], 0.0
    for measured in read_rounds(folder):
        elapsed += measured.seconds if measured.number > 0 else 0.0
        out = read_json(folder / "rounds" / f"{measured.number:03d}" / "round.json")["policy_out"]
        points.append({"seconds": elapsed, "round": measured.number, "model": str(folder / out)})
    return points


def run_grpo(bench: Bench, seed: int, warmup: str, budget: float) -> dict[str, Any]:
    """The finished GRPO run of this seed, in a process of its own."""
    folder = bench.out / f"grpo-{seed}"
    recipe = bench.resolved(seed)
    spec = {
        **bench.grpo,
        "model": warmup,
        "out": str(folder),
        "task": {**recipe.task.model_dump(mode="json"), "base": str(bench.recipe.parent)},
        "seed": seed,
        "budget": budget,
        "marks": [budget * i / bench.marks for i in range(1, bench.marks)],
        "max_tokens": recipe.sample.max_tokens,
        "temperature": recipe.sample.temperature,
    }
    file, done = folder / "spec.json", folder / "result.json"
    if done.exists() and read_json(file) == spec:
        return dict(read_json(done))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_json(file, spec)
    console.print(f"seed {seed}: GRPO for {budget / 60:.1f} minutes; log: tail -F {folder / 'log'}")
    with (folder / "log").open("w") as log:
        command = [sys.executable, str(HERE / "grpo_run.py"), str(file)]
        ended = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    if ended != 0:
        raise SystemExit(f"GRPO exited with {ended}; see {folder / 'log'}")
    return dict(read_json(done))


# -- scoring --------------------------------------------------------------------------------------------


def score_all(bench: Bench, models: list[str]) -> dict[str, dict[str, float]]:
    """Metrics of each checkpoint; ``scores/`` remembers them by its weights."""
    remembered = {model: bench.out / "scores" / f"{_weights(model)}.json" for model in models}
    todo = {file: model for model, file in remembered.items() if not file.exists()}
    if todo:
        from score import held_out, score  # imports torch

        from flywheel.tasks import load_task

        (bench.out / "scores").mkdir(exist_ok=True)
        recipe = bench.resolved(seed=0)
        task = load_task(recipe.task.use, recipe.task.args, bench.recipe.parent)
        skip = recipe.evaluate.problems if bench.skip is None else bench.skip
        problems = held_out(task, skip, bench.problems)
        for i, (file, model) in enumerate(todo.items(), 1):
            metrics = score(model, task, problems, recipe, bench.completions)
            write_json(file, {"model": model, "metrics": metrics})
            console.print(f"  scored {i}/{len(todo)}: {Path(model).relative_to(bench.out)} {metrics['accuracy']:.3f}")
    return {model: read_json(file)["metrics"] for model, file in remembered.items()}


def _weights(model: str) -> str:
    return digest([sha256_file(file) for file in sorted(Path(model).glob("*.safetensors"))])[:16]


def run_seed(bench: Bench, seed: int) -> dict[str, Any]:
    """Both methods and all scores of one seed.

    Returns:
        ``seed``, ``budget`` (seconds), ``flywheel`` and ``grpo`` (points with ``seconds``, ``model`` and
        ``metrics``, the first being the warm-up's), and GRPO's throughput.
    """
    folder = run_flywheel(bench, seed)
    ours = flywheel_points(folder)
    budget = ours[-1]["seconds"]
    start = {"seconds": 0.0, "model": str(folder / "rounds" / "000" / "warmup" / "model")}
    result = run_grpo(bench, seed, start["model"], budget)
    theirs = [start, *result["checkpoints"]]
    scores = score_all(bench, list(dict.fromkeys(point["model"] for point in [*ours, *theirs])))
    return {
        "seed": seed,
        "budget": budget,
        "flywheel": [{**point, "metrics": scores[point["model"]]} for point in ours],
        "grpo": [{**point, "metrics": scores[point["model"]]} for point in theirs],
        "grpo_throughput": {key: result[key] for key in ("seconds", "cpu_seconds", "steps", "prompts_per_second")},
    }


# -- the command ----------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--out", type=Path, default=ROOT / "runs" / "bench-grpo")
    add("--recipe", type=Path, default=ROOT / "recipes" / "countdown.yaml")
    add("--overrides", nargs="*", default=[], metavar="KEY=VALUE", help="of the recipe, for a quick try")
    add("--plot", type=Path, default=ROOT / "docs" / "countdown_vs_grpo.png")
    add("--problems", type=int, default=1024, help="held-out problems to score on (default: %(default)s)")
    add("--skip", type=int, help="held-out problems to skip first; those of the recipe's gate if not given")
    grpo = parser.add_argument_group("GRPO")
    grpo.add_argument("--grpo-lr", type=float, default=1e-4, help="learning rate (default: %(default)s)")
    grpo.add_argument("--grpo-schedule", choices=("constant", "linear"), default="constant", help="over the budget")
    grpo.add_argument("--grpo-prompts", type=int, default=64, help="prompts per step (default: %(default)s)")
    grpo.add_argument("--grpo-generations", type=int, default=8, help="completions per prompt (default: %(default)s)")
    grpo.add_argument("--grpo-updates", type=int, default=1, help="optimizer steps per sampled batch")
    grpo.add_argument("--grpo-threads", type=int, default=None, help="CPU threads; torch's default if not given")
    grpo.add_argument("--grpo-marks", type=int, default=8, help="checkpoints to score (default: %(default)s)")
    return parser.parse_args()


def make_bench(args: argparse.Namespace) -> Bench:
    """The benchmark as asked for; refuses a folder with results of other settings."""
    grpo = {
        "learning_rate": args.grpo_lr,
        "schedule": args.grpo_schedule,
        "prompts": args.grpo_prompts,
        "generations": args.grpo_generations,
        "updates": args.grpo_updates,
        "threads": args.grpo_threads,
        "problems": 100_000,
    }
    out, recipe = args.out.resolve(), args.recipe.resolve()
    bench = Bench(recipe, args.overrides, out, grpo, args.grpo_marks, args.skip, args.problems, completions=8)
    settings, file = bench.settings(), out / "bench.json"
    if file.exists() and read_json(file) != settings:
        raise SystemExit(f"{out} holds results of other settings ({file.name}): choose another --out, or delete it")
    out.mkdir(parents=True, exist_ok=True)
    write_json(file, settings)
    return bench


def main() -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # for scoring and GRPO as for flywheel's own workers
    args = arguments()
    try:
        bench = make_bench(args)
    except FlywheelError as error:
        raise SystemExit(str(error)) from error
    results = []
    for seed in args.seeds:
        results.append(run_seed(bench, seed))
        write_json(bench.out / "results.json", {"settings": bench.settings(), "seeds": results})
        plot(results, args.plot)
    console.print(table(results))
    console.print(verdict(results))
    rates = ", ".join(f"{r['grpo_throughput']['prompts_per_second']:.1f}" for r in results)
    console.print(f"GRPO's prompts per second: {rates}")
    console.print(f"all points: {bench.out / 'results.json'}   plot: {args.plot}")


if __name__ == "__main__":
    main()
