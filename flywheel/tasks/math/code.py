"""Reasoning interleaved with code (ToRA; Llama 3 section 4.3.3): write a block, see its output, go on.

A block is run by the sandbox. Its output comes back as the other side's turn, so that nobody learns to make outputs up.
Variables live on: earlier blocks are run again before a new one, silently.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from flywheel.tasks.math.attempt import Attempt, mark
from flywheel.tasks.math.claims import refuse
from flywheel.tasks.math.notebook import Shown
from flywheel.tasks.math.options import Code
from flywheel.types import Completion, Message

STOP = "```output"
_BLOCK = re.compile(r"^[ \t]*```[ \t]*(?:python|py|python3)[ \t]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)


async def solve(at: Attempt, messages: Sequence[Message], n: int | None = None) -> list[Completion]:
    """Attempts as the recipe has them: one answer each, or with code where ``rollouts.code`` is on.

    Raises:
        NoAnswer: the engine had no answer to the first request.
    """
    options = at.task.kit.options.code
    n = at.policy.sampling.n if n is None else n
    if options is None:
        return await at.policy.chat(messages, n=n)
    # The output is ours to write: a model that begins to make it up is stopped there.
    stop = (*at.policy.sampling.stop, STOP)
    chains = await at.policy.chat(messages, n=n, stop=stop)
    ran: list[list[str]] = [[] for _ in chains]
    for _ in range(options.turns):
        live = [i for i, chain in enumerate(chains) if _wants_to_run(chain)]
        if not live:
            break
        fresh = {i: "\n".join(blocks(chains[i].text)) for i in live}
        shown = dict(zip(live, await _run(at, [[*ran[i], fresh[i]] for i in live], options), strict=True))
        for i in live:
            if shown[i].failure is not None:  # the sandbox's fault, not the chain's
                chains[i] = refuse(chains[i], f"the sandbox failed: {shown[i].failure}")
            elif shown[i].kept:
                ran[i].append(fresh[i])
        live = [i for i in live if shown[i].failure is None]
        replies = [at.task.kit.prompts.text("output", output=shown[i].text) for i in live]
        answers = await asyncio.gather(
            *(
                at.chat([*messages, *chains[i].messages, {"role": "user", "content": reply}], n=1, stop=stop)
                for i, reply in zip(live, replies, strict=True)
            )
        )
        for i, reply, [answer] in zip(live, replies, answers, strict=True):
            chains[i] = mark(chains[i].then(reply, answer), blocks=1 + int(chains[i].data.get("blocks", 0)))
    return chains


def _wants_to_run(chain: Completion) -> bool:
    return chain.finish == "stop" and "refused" not in chain.data and bool(blocks(chain.text))


def blocks(text: str) -> list[str]:
    """The complete blocks of Python in a message."""
    return _BLOCK.findall(text)


async def _run(at: Attempt, notebooks: list[list[str]], options: Code) -> list[Shown]:
    """What the last block of each list prints, after those before it."""
    runner = at.task.kit.notebook(options)
    if at.policy.continuous:
        return await asyncio.gather(*(runner.run(cells) for cells in notebooks))
    # Others wait, so that what is asked next belongs to the same batch whatever the clock says (Policy.continuous).
    return runner.run_all(notebooks)
