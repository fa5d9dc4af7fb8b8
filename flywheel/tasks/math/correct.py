"""Error correction: a wrong chain, the remark that it is wrong, and the policy's own correction.

The wrong chain is part of the prompt, so training learns to mend it and not to write it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from flywheel.tasks.math.attempt import Attempt, answered, distinct, mark
from flywheel.tasks.math.claims import inherited
from flywheel.tasks.math.code import solve
from flywheel.tasks.math.options import Correct
from flywheel.types import Completion, Message


async def correct(at: Attempt, answers: Sequence[Completion], options: Correct) -> list[Completion]:
    """Corrections of wrong chains, right and wrong ones; each answers the dialogue up to it.

    A dialogue ends with the first turn that has a right correction; before the last turn, the first correction that is
    wrong is sent back again.
    """
    verdicts = await at.verify(answers)
    wrong = distinct(c for c, v in zip(answers, verdicts, strict=True) if v.passed is False and c.text.strip())
    remark: Message = {"role": "user", "content": at.task.kit.prompts.text("correct")}
    open_dialogues: list[tuple[int, list[Message]]] = [
        (answers.index(chain), [*(chain.prompt or at.problem.prompt), *chain.messages, remark])
        for chain in wrong[: options.chains]
    ]
    found: list[Completion] = []
    for turn in range(1, options.turns + 1):
        asked = await asyncio.gather(
            *(answered(solve(at, dialogue, options.tries), options.tries) for _, dialogue in open_dialogues)
        )
        still_open = []
        for (parent, dialogue), tries in zip(open_dialogues, asked, strict=True):
            data = {**inherited(answers[parent]), "parent": parent, "turn": turn}
            fixes = [replace(mark(c, **data), kind="corrected", prompt=dialogue) for c in tries]
            found += fixes
            passed = [verdict.passed for verdict in await at.verify(fixes)]
            if True not in passed and False in passed:
                still_open.append((parent, [*dialogue, *fixes[passed.index(False)].messages, remark]))
        open_dialogues = still_open
    return found
