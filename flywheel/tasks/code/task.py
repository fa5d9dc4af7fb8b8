"""The code task: programs written by the policy, judged by running them.

Problems are rows of public datasets (``formats.py``) or proposed by the policy from snippets of code. Beside the
independent attempts that every rollout makes, each further step of Llama 3's code recipe (section 4.3.1) is a knob:
execution feedback, model-written tests, translation, backtranslation, a judge. Every step is a completion of its own
kind, with what it was made from in ``data["parents"]``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import count, cycle
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flywheel.errors import FlywheelError
from flywheel.sandbox.languages import missing
from flywheel.sandbox.testfile import tests_at_fault
from flywheel.tasks.base import BaseTask, Policy
from flywheel.tasks.code.dataset import Dataset, require_problems
from flywheel.tasks.code.duplicates import NearDuplicates
from flywheel.tasks.code.extract import program_of
from flywheel.tasks.code.options import Options
from flywheel.tasks.code.pipeline import from_seed, from_tests
from flywheel.tasks.code.prompts import Prompts
from flywheel.tasks.code.proposals import Seeds
from flywheel.tasks.code.running import Runner
from flywheel.tasks.code.spec import Spec
from flywheel.tasks.code.steps import Work
from flywheel.tasks.code.unit_tests import STUBS
from flywheel.tasks.code.verdicts import verify_all
from flywheel.tasks.splits import require_split
from flywheel.types import Completion, Problem, Verdict
from flywheel.verify import load_rubric

SAMPLE = 200
"""Problems of each split whose tests ``findings`` looks at."""


class Code(BaseTask):
    """Programs that must pass their tests in a sandbox.

    Args:
        base: the folder that relative paths start from; a recipe's own.
        args: the fields of ``Options``; docs/code.md describes them.

    Raises:
        ValueError: an unknown or wrong argument; all of them at once.
        TaskError: nothing to solve, or nothing to evaluate on.
    """

    def __init__(self, base: Path | None = None, **args: Any) -> None:
        try:
            self.options = Options.model_validate(args)
        except ValidationError as error:
            raise ValueError("; ".join(_explained(dict(e)) for e in error.errors())) from error
        self._base = base
        self.runner = Runner(self.options)

    @cached_property
    def prompts(self) -> Prompts:
        return Prompts(self._path(self.options.prompts))

    @cached_property
    def dataset(self) -> Dataset:
        return Dataset(self.options, self.prompts, self._base)

    @cached_property
    def _seeds(self) -> Seeds | None:
        options = self.options.propose
        return None if options is None else Seeds(options, self.prompts, self._base, self.options.seed)

    @cached_property
    def _known(self) -> NearDuplicates:
        """What is asked already: given problems, held-out ones above all, and what this process has proposed."""
        known = NearDuplicates()
        for problem in (*self.dataset.split("train"), *self.dataset.split("heldout")):
            known.add(problem.id, problem.data["question"])
        return known

    @property
    def timeout(self) -> float:
        """CPU seconds of one run, unless the user says otherwise."""
        return self.runner.seconds

    def problems(self, split: str) -> Iterator[Problem]:
        """Problems of a split; "train" is without end where problems are proposed.

        Raises:
            TaskError: an unknown split, or no snippets.
            DataError: rows that are broken, by their numbers.
        """
        require_split("code", split)
        require_problems(self.options)
        given = self.dataset.split(split)
        return self._with_seeds(given) if split == "train" and self._seeds is not None else iter(given)

    def _with_seeds(self, given: Sequence[Problem]) -> Iterator[Problem]:
        """Given problems with seeds strewn in, evenly."""
        assert self._seeds is not None and self.options.propose is not None
        share = self.options.propose.share if given else 1.0
        seeds, again = iter(self._seeds), cycle(given)
        for place in count():
            yield next(seeds) if int((place + 1) * share) > int(place * share) else next(again)

    async def rollout(self, problem: Problem, policy: Policy) -> list[Completion]:
        """Independent attempts, and what the knobs ask to be made of them.

        When the policy is evaluated, the attempts alone.
        """
        if policy.evaluating:
            return await policy.chat(problem.prompt)
        if "seed" in problem.data:
            return await from_seed(self._work(problem, policy), problem, self._known)
        return await from_tests(self._work(problem, policy), problem)

    def verify(self, problem: Problem, completion: Completion) -> Verdict:
        """Right if the program passes its tests; ``detail["level"]`` says how they were run."""
        return self.verify_many([(problem, completion)])[0]

    def verify_many(self, asks: Sequence[tuple[Problem, Completion]], timeout: float | None = None) -> list[Verdict]:
        """All at once, in the sandbox's own workers."""
        return verify_all(self.runner, asks, self.options.train_on, timeout)

    def wrong_answers(self, problem: Problem) -> list[str]:
        """Functions that solve nothing; in other languages than Python the empty answer has to do."""
        spec = Spec.from_data(problem.data["spec"])
        if spec.language != "python" or spec.function is None:
            return []
        return [f"```python\ndef {spec.function}(*args, **kwargs):\n    {body}\n```" for body in STUBS[:2]]

    def read_problem(self, row: Mapping[str, Any], number: int) -> Problem:
        """A row of any of the known formats.

        Raises:
            ValueError: says what is wrong with the row.
        """
        return self.dataset.problem(row)

    def findings(self) -> list[str]:
        """What else is wrong: a sandbox that does not work here, languages it lacks, tests that cannot be used."""
        found: list[str] = []
        for look in (self._sandbox_findings, self._language_findings, self._knob_findings):
            try:
                found += look()
            except FlywheelError as error:
                found.append(error.message + (f" ({error.hint})" if error.hint else ""))
        return list(dict.fromkeys(found))

    def notes(self) -> list[str]:
        """What ``flywheel check`` should say of the sandbox, though nothing is wrong: above all what is weaker here."""
        can = self.runner.executor.capabilities()
        told = f"sandbox: {can.executor}, {can.level}, {can.parallel} programs at once; memory limited by {can.memory}"
        return [told, *(f"sandbox: {remark}" for remark in can.remarks)]

    def open(self) -> None:
        """Start the sandbox.

        Raises:
            UserError: programs cannot be run here, or no server answers; says what mends it.
        """
        self.runner.executor.capabilities()

    def close(self) -> None:
        """End the sandbox."""
        self.runner.close()

    def _sandbox_findings(self) -> list[str]:
        self.open()
        why = self.runner.executor.health()
        return [] if why is None else [f"the sandbox does not run programs: {why}"]

    def _language_findings(self) -> list[str]:
        train, heldout = self.dataset.split("train"), self.dataset.split("heldout")
        wanted = {problem.data["spec"].get("language", "python") for problem in (*train, *heldout)}
        if self.options.translate is not None:
            wanted |= set(self.options.translate.languages)
        can = set(self.runner.executor.capabilities().languages)
        lacking = sorted(wanted - can)
        found = missing(lacking) if self.options.sandbox.executor == "local" else []
        found = found or [f"the sandbox cannot run {name} programs" for name in lacking]
        return found + self._test_findings([*train[:SAMPLE], *heldout[:SAMPLE]])

    def _test_findings(self, problems: Iterable[Problem]) -> list[str]:
        """Python's tests were parsed when they were read; those of other languages are held after the gold program."""
        found = []
        for problem in problems:
            spec = Spec.from_data(problem.data["spec"])
            if spec.language == "python" or spec.level != "tests" or problem.gold is None:
                continue
            why = tests_at_fault(spec.language, program_of(problem.gold, spec), spec.tests)
            if why is not None:
                found.append(f"the tests of {problem.id} cannot be used: {why}")
        return found

    def _knob_findings(self) -> list[str]:
        options = self.options
        for section in (options.judge, options.backtranslate):
            if section is not None:
                load_rubric(section.rubric, self._base)
        if options.propose is not None:
            next(iter(self._seeds or ()))
        return []

    def _work(self, problem: Problem, policy: Policy) -> Work:
        data = problem.data
        spec = Spec.from_data(data["spec"]) if "spec" in data else Spec("tests")
        common = (self.options, self.prompts, self.runner, policy)
        return Work(*common, data.get("question", ""), spec, problem.prompt, base=self._base)

    def _path(self, given: str | None) -> Path | None:
        if given is None:
            return None
        return next((p for p in ((self._base or Path()) / given, Path(given)) if p.exists()), Path(given))


def _explained(error: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown argument; known: {', '.join(Options.model_fields)}"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}"
