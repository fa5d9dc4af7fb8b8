"""Programs that a model wrote, run where they can do no harm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flywheel.sandbox.job import Executor


def make_executor(spec: Mapping[str, Any] | str = "local") -> Executor:
    """The executor that a recipe describes: a name, or ``{use: local | container | remote, …options of its class}``.

    Raises:
        UserError: no such executor or option, or it cannot run programs here.
    """
    from flywheel.sandbox.open import open_executor

    options = {"use": spec} if isinstance(spec, str) else dict(spec)
    return open_executor(options.pop("use", "local"), **options)
