"""How a math problem is attempted, and what is made of the attempts before the model is put away.

Independent attempts come first, and are all that an evaluation sees. What follows is verified like them, and carries
where it came from in ``kind``, ``prompt`` and ``data``:

===============  ==================================================================================================
kind             what
===============  ==================================================================================================
answer           an independent attempt; ``data`` may have its step scores, belief and vote
rationalized     found with the answer as a hint; the prompt that is trained on has no hint (STaR)
corrected        the correction of a wrong chain, which stands in its prompt
rewritten        an answer to a question that was made from this one; its prompt is that question
continuation     a prefix of an attempt, continued once more: material for pairs that differ from one step on
===============  ==================================================================================================
"""

from __future__ import annotations

from flywheel.tasks.base import Policy
from flywheel.tasks.math.attempt import Attempt, Solver
from flywheel.tasks.math.believe import believe
from flywheel.tasks.math.code import solve
from flywheel.tasks.math.correct import correct
from flywheel.tasks.math.rationalize import rationalize
from flywheel.tasks.math.rewrite import rewrite
from flywheel.tasks.math.steps import score_steps
from flywheel.tasks.math.vote import vote
from flywheel.types import Completion, Problem


async def rollout(task: Solver, problem: Problem, policy: Policy) -> list[Completion]:
    """Attempts at a problem, and what the recipe's ``rollouts`` want made of them.

    The parts follow each other, each with all its requests at once, so that a problem's n-th request, to which a seed
    belongs, is the same whatever else is running. (Not so where derived parts run code: their turns take their time.)

    Returns:
        The attempts (kind "answer"), in the order they were sampled, then what was derived.
    """
    options = task.kit.options
    at = Attempt(task, problem, policy)
    answers = await solve(at, problem.prompt)
    if policy.evaluating:
        return answers
    if options.vote is not None and at.answer is None:
        answers = await vote(at, answers, options.vote)
    derived: list[Completion] = []
    if options.rationalize is not None:
        derived += await rationalize(at, answers, options.rationalize)
    if options.correct is not None:
        derived += await correct(at, answers, options.correct)
    if options.steps is not None:
        answers, continuations = await score_steps(at, answers, options.steps)
        derived += continuations
    if options.rewrite is not None:
        derived += await rewrite(at, options.rewrite)
    everything = [*answers, *derived]
    if options.self_verify is not None:
        everything = await believe(at, everything, options.self_verify)
    return everything
