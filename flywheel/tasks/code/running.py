"""The sandbox, as the code task uses it: opened when first needed, closed with the task."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal, cast

from flywheel.sandbox.grading import Grade, Policy, grade, grade_many
from flywheel.sandbox.job import MIB, Executor, Job, Limits, Outcome
from flywheel.tasks.code.options import Options
from flywheel.tasks.code.spec import Spec

Ask = tuple[str, Spec]
"""A program's source and its tests."""


class Runner:
    """Grades programs in the sandbox that a recipe names.

    Args:
        options: of the task.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._executor: Executor | None = None

    @property
    def seconds(self) -> float:
        """CPU seconds of one run."""
        return self._options.sandbox.seconds

    @property
    def executor(self) -> Executor:
        """The sandbox; started at the first use, in the process that uses it, whose log says what is weaker here.

        Raises:
            UserError: programs cannot be run here; says what mends it.
        """
        if self._executor is None:
            from flywheel.sandbox.open import open_executor

            self._executor = open_executor(self._options.sandbox.executor, **self._options.sandbox.extra)
            if self._options.sandbox.executor == "local":  # who asks servers does not wait for them
                for remark in self._executor.capabilities().remarks:
                    print(f"sandbox: {remark}", file=sys.stderr, flush=True)
        return self._executor

    async def grade(self, source: str, spec: Spec, *, poison: bool | None = None) -> Grade:
        """Grade one program; concurrent calls share the sandbox."""
        return await grade(self.executor, spec.program(source), spec.checks(source), self._policy(spec, None, poison))

    def grade_all(self, asks: Sequence[Ask], timeout: float | None = None) -> list[Grade]:
        """A grade per program; equal programs of the same ``Spec`` are run once.

        Args:
            asks: programs with their tests.
            timeout: seconds per run, instead of the recipe's.
        """
        keys = [(source, id(spec)) for source, spec in asks]
        unique = dict(zip(keys, asks, strict=True))
        grades: dict[tuple[str, int], Grade] = {}
        for sequences in ("strict", "loose"):
            chosen = {key: ask for key, ask in unique.items() if ask[1].sequences == sequences}
            if chosen:
                asked = [(spec.program(source), spec.checks(source)) for source, spec in chosen.values()]
                policy = self._policy(next(iter(chosen.values()))[1], timeout)
                grades |= zip(chosen, grade_many(self.executor, asked, policy), strict=True)
        return [grades[key] for key in keys]

    async def run(self, job: Job) -> Outcome:
        """Run one program once, without judging it."""
        return (await self.executor.run(job))[0]

    def limits(self, timeout: float | None = None) -> Limits:
        """Of one run."""
        sandbox = self._options.sandbox
        seconds = sandbox.seconds if timeout is None else timeout
        # The clock is only for what waits: programs share cores, and so need more of it than of the processor.
        return Limits(cpu=seconds, wall=2 * seconds + 5, memory=sandbox.memory_mb * MIB)

    def close(self) -> None:
        """End the sandbox."""
        if self._executor is not None:
            self._executor.close()
            self._executor = None

    def _policy(self, spec: Spec, timeout: float | None, poison: bool | None = None) -> Policy:
        options = self._options
        return Policy(
            text=options.compare,
            tolerance=options.tolerance,
            sequences=cast(Literal["strict", "loose"], spec.sequences),
            flaky=options.flaky,
            poison=options.poisoned if poison is None else poison,
            limits=self.limits(timeout),
        )
