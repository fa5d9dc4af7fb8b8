"""What rollouts use and a task keeps for them: options, prompts, the rubric of checks, and where code is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flywheel.tasks.math.notebook import Notebook
from flywheel.tasks.math.options import Code, read_options
from flywheel.tasks.math.prompting import load_prompts
from flywheel.verify.judge import load_rubric


class Kit:
    """Everything that a recipe's ``rollouts`` names, read once.

    Args:
        rollouts: ``task.args.rollouts``.
        base: the folder that relative paths start from.

    Raises:
        ValueError: wrong keys or values, all at once.
        RecipeError: a prompt or rubric that is missing or broken.
    """

    def __init__(self, rollouts: Mapping[str, Any] | None = None, base: Path | None = None) -> None:
        self.options = read_options(rollouts)
        self.prompts = load_prompts(self.options.prompts, base)
        check = self.options.self_verify
        self.rubric = load_rubric(check.rubric, base) if check is not None else None
        self._notebook: Notebook | None = None

    def notebook(self, options: Code) -> Notebook:
        """Where blocks of code are run; started by the first one."""
        if self._notebook is None:
            self._notebook = Notebook(options.timeout, options.max_output, options.sandbox)
        return self._notebook

    def findings(self, unlabelled: bool = False) -> list[str]:
        """What would keep the rollouts from working here, for ``flywheel check``.

        Args:
            unlabelled: there are problems without an answer.
        """
        found = [] if self.options.code is None else self.notebook(self.options.code).findings()
        if unlabelled and self.options.vote is None:
            found.append("unlabelled problems stay undecided without a vote: add task.args.rollouts.vote, such as {}")
        if self.rubric is not None and (unknown := sorted(set(self.rubric.fields) - {"prompt", "response"})):
            found.append(
                f"rollouts.self_verify.rubric: {self.rubric.name} asks for {', '.join(unknown)}; "
                "a check has prompt and response"
            )
        return found

    def close(self) -> None:
        """End what was started."""
        if self._notebook is not None:
            self._notebook.close()
            self._notebook = None
