"""``flywheel eval``: a checkpoint on held-out problems, exactly as a run evaluates its own.

It *is* a run: one without warm-up and without rounds, whose round 0 evaluates the model. So an
evaluation is checked, sharded, resumed and readable (``flywheel show``) like any other.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from flywheel.agent import Order, run
from flywheel.cli.options import Args, task_args
from flywheel.cli.tables import find_run
from flywheel.errors import ModelError, RunDirError, StageFailed, TaskError
from flywheel.files import read_json
from flywheel.recipe_file import parse_recipe
from flywheel.rundir import RunDir
from flywheel.session import Rank
from flywheel.tracking import Screen

DEFAULTS = {
    "problems": 512,
    "completions": 8,
    "max_tokens": 512,
    "temperature": 1.0,
    "engine": "transformers",
    "cpu_replicas": 1,
    "seed": 0,
}
FROM_RUN = "or the run's, if MODEL is one]"


def command(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, a hub id, or a run (then its best).")],
    task: Annotated[str | None, typer.Option(help="A task's name, or ./file.py:Class.  [default: the run's]")] = None,
    arg: Args = None,
    problems: Annotated[int | None, typer.Option(help=f"Held-out problems.  [default: 512, {FROM_RUN}")] = None,
    completions: Annotated[int | None, typer.Option(help=f"Samples per problem.  [default: 8, {FROM_RUN}")] = None,
    max_tokens: Annotated[int | None, typer.Option(help=f"Most new tokens.  [default: 512, {FROM_RUN}")] = None,
    temperature: Annotated[float | None, typer.Option(help=f"Of the samples.  [default: 1.0, {FROM_RUN}")] = None,
    chat_template: Annotated[Path | None, typer.Option(help="A Jinja file, for a model without chat template.")] = None,
    engine: Annotated[str | None, typer.Option(help=f"Or vllm.  [default: transformers, {FROM_RUN}")] = None,
    cpu_replicas: Annotated[
        int | None, typer.Option(help=f"Engines side by side without a GPU.  [default: 1, {FROM_RUN}")
    ] = None,
    seed: Annotated[int | None, typer.Option(help=f"Of the sampling.  [default: 0, {FROM_RUN}")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
    out: Annotated[Path | None, typer.Option(help="Keep samples and verdicts here, as a run folder.")] = None,
) -> None:
    """Evaluate a checkpoint on a task's held-out problems."""
    asked = {
        "problems": problems,
        "completions": completions,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "engine": engine,
        "cpu_replicas": cpu_replicas,
        "seed": seed,
    }
    source = _as_run(model)
    wheel = source.resolved() if source is not None else None
    settings = {
        **DEFAULTS,
        **(_settings_of(wheel) if wheel else {}),
        **{k: v for k, v in asked.items() if v is not None},
    }
    recipe = {
        "name": "eval",
        "model": str(_best(source)) if source is not None else _model(model),
        "task": _task(task, arg, wheel),
        "chat_template": _template(chat_template, wheel),
        **_sections(settings, wheel),
    }
    parse_recipe(recipe, "this evaluation")
    if out is None and Rank.from_env().world > 1:
        raise RunDirError("several ranks need a folder that all of them see", hint="give one: --out DIR")
    facts = evaluate(recipe, out)
    if as_json:
        print(json.dumps(facts))
    elif Rank.from_env().leads:
        _show(facts, out)


def evaluate(recipe: dict[str, Any], out: Path | None) -> dict[str, Any]:
    """Run an evaluation. Progress goes to standard error.

    Args:
        recipe: with absolute paths, no rounds and no warm-up.
        out: the run folder to keep; None is a temporary one, which stays only if a worker failed.

    Returns:
        The JSON of ``eval --json`` (a contract).
    """
    scratch = Path(tempfile.mkdtemp(prefix="flywheel-eval-"))
    keep = False
    try:
        file = scratch / "eval.yaml"
        file.write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
        folder = out if out is not None else scratch / "run"
        _refuse_other_model(folder, recipe["model"])
        done = run(Order(file, [], folder), Screen(Rank.from_env().leads, Console(stderr=True, soft_wrap=True)))
        stage = done.stage(0, "evaluate").path
        return {
            "model": recipe["model"],
            "task": recipe["task"]["use"],
            "problems": read_json(stage / "drawn.json")["problems"],
            "metrics": read_json(stage / "metrics.json"),
        }
    except StageFailed:
        keep = True  # the error points at its logs
        raise
    finally:
        if not keep:
            shutil.rmtree(scratch, ignore_errors=True)


def _as_run(model: str) -> RunDir | None:
    """The run that MODEL names, unless it names a checkpoint."""
    folder = Path(model)
    if (folder / "run.json").is_file():
        return find_run(folder)
    known = not folder.exists() and (Path("runs") / folder / "run.json").is_file()
    return find_run(folder) if known else None


def _best(source: RunDir) -> Path:
    best = source.path / "best"
    if not best.is_dir():
        raise RunDirError(f"{source.path} has no checkpoint yet", hint=f"flywheel status {source.path}")
    return best.resolve()


def _model(model: str) -> str:
    """A folder made absolute, or a hub id as it is."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return str(folder.resolve())
    if folder.exists():
        raise ModelError(f"{model} is a file, not a checkpoint folder")
    return model


def _task(use: str | None, args: list[str] | None, wheel: dict[str, Any] | None) -> dict[str, Any]:
    """The task asked for; else the run's own, with ``--arg`` on top of its arguments."""
    if use is not None:
        return {"use": _absolute(use, Path.cwd()), "args": task_args(args)}
    if wheel is None:
        raise TaskError("no --task is given", hint="for example: flywheel eval MODEL --task countdown --arg numbers=3")
    task = wheel["recipe"]["task"]
    return {"use": _absolute(task["use"], Path(wheel["base"])), "args": {**task["args"], **task_args(args)}}


def _absolute(use: str, base: Path) -> str:
    """``./file.py:Class`` with its full path: the recipe made here lies in another folder."""
    where, colon, name = use.rpartition(":")
    return f"{(base / where).resolve()}:{name}" if colon and where.endswith(".py") else use


def _template(given: Path | None, wheel: dict[str, Any] | None) -> str | None:
    if given is not None:
        return str(given.resolve())
    own = wheel["recipe"]["chat_template"] if wheel else None
    return str(Path(wheel["base"], own).resolve()) if wheel and own else None


def _settings_of(wheel: dict[str, Any]) -> dict[str, Any]:
    """A run's own settings, so that its best checkpoint is measured as its rounds were."""
    recipe = wheel["recipe"]
    evaluation = {key: recipe["evaluate"][key] for key in ("problems", "completions", "temperature")}
    rest = {"max_tokens": recipe["sample"]["max_tokens"], "cpu_replicas": recipe["engine"]["cpu_replicas"]}
    rest["engine"] = recipe["engine"]["use"]
    return {**evaluation, **rest, "seed": recipe["seed"]}


def _sections(settings: dict[str, Any], wheel: dict[str, Any] | None) -> dict[str, Any]:
    own: dict[str, Any] = wheel["recipe"] if wheel else {"sample": {}, "evaluate": {}, "engine": {}, "verify": {}}
    drawn = {key: settings[key] for key in ("problems", "completions", "temperature")}
    return {
        "seed": settings["seed"],
        "rounds": 0,
        "engine": {**own["engine"], "use": settings["engine"], "cpu_replicas": settings["cpu_replicas"]},
        "sample": {**own["sample"], "max_tokens": settings["max_tokens"]},
        "verify": own["verify"],
        "sft": None,
        "dpo": None,
        "evaluate": {**own["evaluate"], **drawn},
    }


def _refuse_other_model(folder: Path, model: str) -> None:
    """An --out of an earlier evaluation is resumed, or read; of another model it is not."""
    resolved = folder / "recipe.resolved.json"
    if resolved.is_file() and (before := read_json(resolved)["recipe"]["model"]) != model:
        raise RunDirError(f"{folder} holds an evaluation of {before}", hint="choose another --out")


def _show(facts: dict[str, Any], out: Path | None) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{facts['model']} on {facts['problems']} held-out problems of {facts['task']}", markup=False)
    for name, value in facts["metrics"].items():
        console.print(f"  {name:<16} {value:8.4f}", markup=False)
    if out is not None:
        console.print(f"every sample: flywheel show {out}", markup=False)
