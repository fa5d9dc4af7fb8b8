"""Right, wrong or undecided: a solution's final answer held against the gold one.

What is plainly the same or plainly different is decided here, in pure Python and exactly (``math_forms.py``). The rest
goes to sympy and math-verify in worker processes, each answer under a time and a memory limit that are enforced from
outside (``pool.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from flywheel.types import Verdict
from flywheel.verify.math_extract import Found, final_answer
from flywheel.verify.math_forms import is_number, is_plain, same
from flywheel.verify.pool import Outcome, Pool

TARGET = "flywheel.verify.math_symbolic:compare"
LONGEST = 2_000
"""Characters of an answer past which sympy is not asked."""
_REMEMBERED = 20_000
_SHOWN = 200

_is_number = lru_cache(maxsize=4096)(is_number)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A solution and what it should come to.

    Attributes:
        gold: the right final answer; None if it is not known.
        text: the solution.
        cut: it was cut off, so that only an answer that is marked as one counts.
    """

    gold: str | None
    text: str
    cut: bool = False


class MathVerifier:
    """Holds solutions against gold answers.

    Args:
        workers: processes for what needs sympy; None is one per CPU. They start with the first such answer.
        memory: bytes that one answer may take.
    """

    def __init__(self, workers: int | None = None, memory: int = 2**30) -> None:
        self._pool = Pool(TARGET, workers, memory, extra="math")
        self._known: dict[tuple[str, str], bool] = {}

    def verify_many(self, claims: Sequence[Claimed], limit: float) -> list[Verdict]:
        """A verdict for each solution, in order; may be called from any thread.

        Args:
            claims: solutions with their gold answers.
            limit: seconds for each answer that goes to sympy.

        Returns:
            Undecided where there is no gold answer or it cannot be read, where the solution gives no answer, and where
            the comparison takes too long or too much memory. ``detail`` has the ``answer`` and ``how`` it was found.

        Raises:
            UserError: math-verify is needed and not installed.
        """
        found = [_found(claim) for claim in claims]
        pairs = [None if f is None or c.gold is None else (c.gold, f.text) for c, f in zip(claims, found, strict=True)]
        decided = self._decide([pair for pair in pairs if pair is not None], limit)
        return [_verdict(claim, f, pair and decided[pair]) for claim, f, pair in zip(claims, found, pairs, strict=True)]

    def unreadable(self, golds: Sequence[str], limit: float) -> list[bool]:
        """For each gold answer, whether nothing can be held against it."""
        asked = [gold for gold in dict.fromkeys(golds) if not is_plain(gold)]
        outcomes = dict(zip(asked, self._pool.run([[gold] for gold in asked], limit), strict=True))
        return [gold in outcomes and not (outcomes[gold].value or {"same": False})["same"] for gold in golds]

    def close(self) -> None:
        """End the workers; the next call starts new ones."""
        self._pool.close()

    def _decide(self, pairs: Sequence[tuple[str, str]], limit: float) -> dict[tuple[str, str], bool | str]:
        """For each pair of gold and answer: the same, different, or why that is not known."""
        decided: dict[tuple[str, str], bool | str] = {}
        hard: list[tuple[str, str]] = []
        for pair in dict.fromkeys(pairs):
            easy = self._known[pair] if pair in self._known else _by_form(*pair)
            if easy is not None:
                decided[pair] = easy
            elif len(pair[1]) > LONGEST:
                decided[pair] = f"the answer is too long to check ({len(pair[1]):,} characters)"
            else:
                hard.append(pair)
        outcomes = self._pool.run([list(pair) for pair in hard], limit)
        for pair, outcome in zip(hard, outcomes, strict=True):
            decided[pair] = _decision(outcome, limit)
            if isinstance(decided[pair], bool):
                self._remember(pair, decided[pair] is True)
        return decided

    def _remember(self, pair: tuple[str, str], same: bool) -> None:
        """Samples of a problem give the same few answers, in this chunk and in later rounds."""
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[pair] = same


def _found(claim: Claimed) -> Found | None:
    if claim.gold is None:
        return None
    return final_answer(claim.text, numeric=_is_number(claim.gold), marked=claim.cut)


def _by_form(gold: str, answer: str) -> bool | None:
    """What the forms of two answers say; too many layers are a worker's business."""
    try:
        return same(gold, answer)
    except RecursionError:
        return None


def _decision(outcome: Outcome, limit: float) -> bool | str:
    """The same, different, or why nobody knows."""
    if outcome.failure == "timeout":
        return f"no verdict within {limit:g} s"
    if outcome.failure == "memory" or (outcome.grown and not outcome.value["same"]):
        return "the comparison takes too much memory"
    if outcome.failure == "crash":
        return "the comparison ends its process"
    if outcome.failure is not None:
        return f"the comparison failed: {outcome.failure}"
    decided: bool | None = outcome.value["same"]
    return outcome.value["why"] if decided is None else decided


def _verdict(claim: Claimed, found: Found | None, decided: bool | str | None) -> Verdict:
    if claim.gold is None:
        return Verdict.undecided("no gold answer")
    if found is None or decided is None:
        return Verdict.undecided("cut off before its answer" if claim.cut else "no answer found")
    detail = {"answer": found.text[:_SHOWN], "how": found.how}
    if isinstance(decided, str):
        return Verdict.undecided(decided, **detail)
    return Verdict.right(**detail) if decided else Verdict.wrong("wrong answer", **detail)
