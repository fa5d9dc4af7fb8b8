"""A checkpoint on held-out problems: one measure for whatever made it.

Sampling, verifying and the metrics are flywheel's own engine, task and functions, without the stages
around them, so that GRPO's checkpoints and flywheel's are measured by the same code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import transformers

from flywheel.engines import Engine, EnginePolicy, EngineSpec, make_engine
from flywheel.recipe import Recipe
from flywheel.stages.metrics import per_problem, summarise
from flywheel.stages.verifier import judge
from flywheel.tasks import Task
from flywheel.types import Problem, Sampling

CHUNK = 128
TIMEOUT = 10.0
transformers.utils.logging.disable_progress_bar()


def held_out(task: Task, skip: int, count: int) -> list[Problem]:
    """``count`` held-out problems after the first ``skip``, which flywheel's gate looks at every round.

    Raises:
        ValueError: the task has not that many.
    """
    found = list(islice(task.problems("heldout"), skip, skip + count))
    if len(found) < count:
        raise ValueError(f"the task has only {len(found)} held-out problems after the first {skip}, not {count}")
    return found


def score(model: str, task: Task, problems: Sequence[Problem], recipe: Recipe, completions: int) -> dict[str, float]:
    """Sample ``completions`` answers at temperature 1 and one greedily for each problem.

    Returns:
        The metrics of ``flywheel.stages.metrics.summarise``.
    """
    section = recipe.engine
    engine = make_engine(EngineSpec("transformers", model, dtype=section.dtype, batch_size=section.batch_size))
    sampled = Sampling(n=completions, max_tokens=recipe.sample.max_tokens, stop=tuple(recipe.sample.stop))
    modes = {"sampled": sampled, "greedy": replace(sampled, n=1, temperature=0.0)}
    rows: list[dict[str, Any]] = []
    try:
        for mode, sampling in modes.items():
            for i in range(0, len(problems), CHUNK):
                rows += asyncio.run(_graded(task, engine, problems[i : i + CHUNK], mode, sampling))
    finally:
        engine.close()
    return summarise(per_problem(rows), completions)


async def _graded(
    task: Task, engine: Engine, problems: Sequence[Problem], mode: str, sampling: Sampling
) -> list[dict[str, Any]]:
    """Rows as ``per_problem`` takes them; the same problem gets the same seed for every checkpoint."""
    policies = [EnginePolicy(engine, sampling, f"benchmark:{mode}:{problem.id}", True) for problem in problems]
    answers = await asyncio.gather(*(task.rollout(p, policy) for p, policy in zip(problems, policies, strict=True)))
    return [
        {
            "problem_id": problem.id,
            "kind": completion.kind,
            "mode": mode,
            "passed": judge(task, problem, completion, TIMEOUT).passed,
            "text": completion.text,
            "tokens": completion.tokens,
        }
        for problem, completions in zip(problems, answers, strict=True)
        for completion in completions
    ]
