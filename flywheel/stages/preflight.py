"""Everything that can be known before any device time: the recipe against its task, model and TRL."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

from flywheel.curate import make_filters
from flywheel.engines import findings as engine_findings
from flywheel.errors import UserError
from flywheel.recipe import EngineUse, Recipe
from flywheel.stages.judging import engine_use
from flywheel.tasks import Task, close_task, load_task
from flywheel.tasks.check import check_task
from flywheel.workers import Report


def work(payload: dict[str, Any], report: Report) -> dict[str, list[str]]:
    """Worker: look at everything, stop at nothing.

    Payload: ``recipe`` (resolved), ``base``, ``model``, ``chat_template``, ``world``, ``sharding``.

    Returns:
        ``findings`` (each makes the recipe unusable) and ``notes``.
    """
    from flywheel.training.preflight import check_model, check_training

    recipe = Recipe.model_validate(payload["recipe"])
    findings: list[str] = []
    notes: list[str] = []
    try:
        filters = make_filters(recipe.curate, Path(payload["base"]))
        for name, filter in filters:
            findings += [f"curate, {name}: {line}" for line in _filter_findings(filter, payload)]
    except UserError as error:
        findings += error.message.splitlines()
    for where, section in (("engine", recipe.engine), ("sample.engine", recipe.sample.engine)):
        if section is not None:
            findings += [f"{where}: {line}" for line in engine_findings(section.use, payload["model"], section.extra)]
    try:
        task = load_task(recipe.task.use, recipe.task.args, Path(payload["base"]))
    except UserError as error:
        findings.append(error.message + (f" ({error.hint})" if error.hint else ""))
    else:
        found = check_task(task, needs_demonstrations=recipe.warmup is not None)
        findings += [f"task {recipe.task.use}: {finding}" for finding in found]
        notes += getattr(task, "notes", list)() if not found else []
        notes += _short_split(task, recipe) if not found else []
        close_task(task)
    findings += check_training(recipe, payload["world"])
    launch = (payload["world"], payload["sharding"])
    model_findings, model_notes = check_model(recipe, payload["model"], payload["chat_template"], *launch)
    return {"findings": findings + model_findings, "notes": notes + model_notes}


def _filter_findings(filter: Any, payload: dict[str, Any]) -> list[str]:
    """What is wrong with the files and engines that a filter names."""
    found: list[str] = []
    try:
        getattr(filter, "check", lambda base: None)(Path(payload["base"]))
        for option in getattr(filter, "engines", ()):
            if option is not None:
                use = engine_use(option, EngineUse())
                found += engine_findings(use.use, option.get("model", payload["model"]), use.extra)
    except UserError as error:
        found.append(error.message + (f" ({error.hint})" if error.hint else ""))
    return found


def _short_split(task: Task, recipe: Recipe) -> list[str]:
    asked = recipe.evaluate.problems
    there = sum(1 for _ in islice(task.problems("heldout"), asked))
    return [f"evaluate.problems is {asked}, but the held-out split has only {there}"] if 0 < there < asked else []
