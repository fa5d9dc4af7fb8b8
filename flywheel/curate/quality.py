"""Quality: reward scores and judges (Llama 3 section 4.2.3)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flywheel.curate.chain import Aids, Drops
from flywheel.curate.judged import Judge, Judged, judge_rows
from flywheel.curate.rows import Rows
from flywheel.errors import DataError
from flywheel.verify import load_rubric


class Quality:
    """Keeps a row if its reward is in the top quantile, or if a judge gives it the top mark; Llama 3 takes the union.

    Leaves the row's quality to later filters: the place of its reward among all (0 to 1), the judge's score as a share
    of its scale, or the better (`any`) or worse (`all`) of both.

    Args:
        reward_quantile: rewards from this quantile on are good: 0.75 is the top quartile; null: no reward.
        reward: column of the rewards; null: `reward` if there is one, else the verdict's `score`.
        judge: `{rubric, votes, engine, min_score}`; null: no judge.
        combine: `any` or `all` of the two.
        per: column whose values get a quantile each, so that one easy topic cannot fill it: such as `problem.topic`, if
            the task's problems have a `topic` in their data; null: all rows together.
    """

    def __init__(
        self,
        reward_quantile: float | None = 0.75,
        reward: str | None = None,
        judge: dict[str, Any] | None = None,
        combine: str = "any",
        per: str | None = None,
    ) -> None:
        if reward_quantile is None and judge is None:
            raise ValueError("needs reward_quantile, judge, or both")
        if reward_quantile is not None and not 0 <= reward_quantile < 1:
            raise ValueError("reward_quantile must be in [0, 1)")
        if combine not in ("any", "all"):
            raise ValueError("combine must be 'any' or 'all'")
        self._quantile, self._reward, self._combine, self._per = reward_quantile, reward, combine, per
        self._judge = None if judge is None else Judge.of(judge)
        self.engines = [] if self._judge is None else [self._judge.engine]
        self.columns: tuple[str, ...] = tuple(
            name for name in (reward if reward_quantile is not None else None, per) if name
        )
        self.report: dict[str, Any] = {}

    def check(self, base: Path) -> None:
        """Raise what is wrong with the files that the options name."""
        if self._judge is not None:
            load_rubric(self._judge.rubric, base)

    def drops(self, rows: Rows, aids: Aids) -> Iterator[Drops]:
        good, place = self._by_reward(rows)
        by_judge = np.full(rows.count, np.nan)
        unsure = np.zeros(rows.count, bool)
        if self._judge is not None:
            rubric = load_rubric(self._judge.rubric, aids.base)
            low, high = rubric.scale
            # The judge is asked only where its word can change something.
            asked = rows.alive if self._quantile is None else rows.alive & (good ^ (self._combine == "any"))
            for said in judge_rows("quality", rows, self._judge, aids, asked):
                by_judge[said.ordinals] = (said.scores - low) / (high - low)
                unsure[said.ordinals] = said.passed < 0
                good[said.ordinals] = said.passed > 0
                yield Drops(said.ordinals[said.passed <= 0], **self._why(said))
            rows.note("judge", low + by_judge * (high - low))
        both = np.fmax(place, by_judge) if self._combine == "any" else np.fmin(place, by_judge)
        rows.note("quality", both)
        judged = ~np.isnan(by_judge) | unsure
        yield Drops(np.flatnonzero(rows.alive & ~good & ~judged), "reward below the quantile")
        self.report = {"judged": int(judged.sum()), "undecided": int(unsure.sum())} | self.report

    def _why(self, said: Judged) -> dict[str, Any]:
        below = "reward below the quantile, and " if self._quantile is not None and self._combine == "any" else ""
        out = np.flatnonzero(said.passed <= 0)
        words = ["judge undecided" if said.passed[i] < 0 else "not the judge's top mark" for i in out]
        scores = [None if np.isnan(said.scores[i]) else float(said.scores[i]) for i in out]
        return {
            "reason": [below + word for word in words],
            "detail": {"judge": scores, "said": [said.reasons[i] for i in out]},
        }

    def _by_reward(self, rows: Rows) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Which rows reach the quantile of their stratum, and each row's place in it."""
        good, place = np.zeros(rows.count, bool), np.full(rows.count, np.nan)
        if self._quantile is None:
            return good, place
        column = self._reward or next((name for name in ("reward", "score") if rows.has(name)), None)
        if column is None:
            raise DataError("quality needs a column of rewards", hint="name it: quality: {reward: COLUMN}")
        reward = rows.numbers(column)
        strata = np.zeros(rows.count, np.int64) if self._per is None else rows.codes(self._per)[0]
        known = np.flatnonzero(rows.alive & ~np.isnan(reward))
        order = known[np.lexsort((reward[known], strata[known]))]
        for stratum in np.split(order, np.flatnonzero(np.diff(strata[order])) + 1):
            if len(stratum):
                values = reward[stratum]
                good[stratum] = values >= np.quantile(values, self._quantile, method="higher")
                place[stratum] = np.searchsorted(values, values, side="right") / len(values)
        self.report = {"reward": column, "without_reward": int(np.count_nonzero(rows.alive) - len(known))}
        return good, place


class SelfFilter:
    """The policy, or any engine, judges rows by a rubric; what does not pass, or is undecided, is dropped.

    Shipped rubrics: `general` (3 points: accuracy, instruction following, tone), `code` (2: bug identification, user
    intention), `code_correctness_style`, `math`, `self_rewarding`; or a Markdown file beside the recipe.

    Args:
        rubric: name or file.
        votes: answers of the judge to average; with several, a tie is undecided.
        min_score: mean score that passes; null: most votes must reach the rubric's mark.
        engine: as `engine:` of a recipe, perhaps with a `model`; null: the policy that sampled the rows.
        undecided: `drop` or `keep` rows that the judge could not decide.
    """

    def __init__(
        self,
        rubric: str = "general",
        votes: int = 1,
        min_score: float | None = None,
        engine: dict[str, Any] | None = None,
        undecided: str = "drop",
    ) -> None:
        if undecided not in ("drop", "keep"):
            raise ValueError("undecided must be 'drop' or 'keep'")
        self._judge = Judge(rubric, votes, engine, min_score)
        self._undecided = undecided
        self.engines = [engine]
        self.columns: tuple[str, ...] = ()
        self.report: dict[str, Any] = {}

    def check(self, base: Path) -> None:
        """Raise what is wrong with the files that the options name."""
        load_rubric(self._judge.rubric, base)

    def drops(self, rows: Rows, aids: Aids) -> Iterator[Drops]:
        low, high = load_rubric(self._judge.rubric, aids.base).scale
        scores = np.full(rows.count, np.nan)
        counts = {"passed": 0, "failed": 0, "undecided": 0}
        for said in judge_rows("self_filter", rows, self._judge, aids, rows.alive):
            scores[said.ordinals] = said.scores
            for name, value in (("passed", 1), ("failed", 0), ("undecided", -1)):
                counts[name] += int(np.count_nonzero(said.passed == value))
            out = np.flatnonzero((said.passed == 0) | ((said.passed < 0) & (self._undecided == "drop")))
            reasons = ["judge undecided" if said.passed[i] < 0 else "judge: not good enough" for i in out]
            marks = [None if np.isnan(said.scores[i]) else float(said.scores[i]) for i in out]
            detail = {"judge": marks, "said": [said.reasons[i] for i in out]}
            yield Drops(said.ordinals[out], reasons, detail=detail)
        rows.note("judge", scores)
        if "quality" not in rows.notes:
            rows.note("quality", (scores - low) / (high - low))
        self.report = {"rubric": self._judge.rubric, "votes": self._judge.votes, **counts}
