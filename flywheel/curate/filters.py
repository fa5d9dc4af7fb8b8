"""The filters by name, as a recipe's ``curate:`` lists them."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from flywheel.curate.basic import CapPerProblem, ExactDuplicates, Finished, PassRate, Verified
from flywheel.curate.chain import Filter, RowWise
from flywheel.curate.decontaminate import Decontaminate
from flywheel.curate.dedup import Dedup, NearExact
from flywheel.curate.difficulty import Difficulty
from flywheel.curate.fields import DataField
from flywheel.curate.language import Language
from flywheel.curate.mix import Mix
from flywheel.curate.overused import OverusedPhrases
from flywheel.curate.quality import Quality, SelfFilter
from flywheel.curate.shape import Format, Length, Repetition
from flywheel.errors import RecipeError

FILTERS: dict[str, Any] = {
    "exact_duplicates": ExactDuplicates,
    "near_exact": NearExact,
    "dedup": Dedup,
    "cap_per_problem": CapPerProblem,
    "pass_rate": PassRate,
    "finished": Finished,
    "decontaminate": Decontaminate,
    "length": Length,
    "format": Format,
    "language": Language,
    "repetition": Repetition,
    "overused_phrases": OverusedPhrases,
    "quality": Quality,
    "self_filter": SelfFilter,
    "difficulty": Difficulty,
    "mix": Mix,
    "data": DataField,
}


def make_filters(
    entries: list[dict[str, dict[str, Any]]], base: Path | None = None, verified: bool = True, heldout: bool = False
) -> list[tuple[str, Filter]]:
    """The filters of a recipe's ``curate:``, in order, after the implicit ``verified``.

    Args:
        entries: each ``{name: {option: value}}``; a name is one of ``FILTERS``, or ``./file.py:Class``.
        base: the folder that such files lie in, the recipe's.
        verified: put ``verified`` first; False for rows that no verifier has seen.
        heldout: decontaminate against the held-out problems next, unless the entries say how themselves.

    Raises:
        RecipeError: naming every unknown filter or option.
    """
    filters: list[tuple[str, Filter]] = [("verified", Verified())] if verified else []
    if heldout and not any("decontaminate" in entry for entry in entries):
        filters.append(("decontaminate", Decontaminate()))
    problems = []
    for position, entry in enumerate(entries):
        for name, options in entry.items():
            where = f"curate.{position}.{name}"
            # Listed twice, a filter needs two names: a dropped row says which of them it fell to.
            again = sum(known == name or known.startswith(f"{name} (") for known, _ in filters)
            try:
                filters.append((f"{name} ({again + 1})" if again else name, _make(name, options, base or Path())))
            except (TypeError, ValueError) as error:
                problems.append(f"{where}: {error}")
            except RecipeError as error:
                problems.append(f"{where}: {error.message}")
    if problems:
        raise RecipeError("\n".join(problems), hint=f"the filters are {', '.join(FILTERS)}")
    return filters


def _make(name: str, options: dict[str, Any], base: Path) -> Filter:
    if ":" in name:
        cls = _own_class(name, base)
    elif name in FILTERS:
        cls = FILTERS[name]
    else:
        near = get_close_matches(name, FILTERS, n=1, cutoff=0.5)
        raise ValueError("no such filter" + (f"; did you mean {near[0]!r}?" if near else ""))
    known = inspect.signature(cls).parameters
    if unknown := [key for key in options if key not in known]:
        raise ValueError(f"no option {', '.join(unknown)}; known: {', '.join(known) or 'none'}")
    made = cls(**options)
    if hasattr(made, "drops"):
        return made  # type: ignore[no-any-return]
    if hasattr(made, "decide"):
        return RowWise(made)
    raise ValueError(f"{cls.__name__} has neither drops(rows, aids) nor decide(rows)")


def _own_class(name: str, base: Path) -> Any:
    """A user's filter, ``./file.py:Class`` beside the recipe or ``package.module:Class``."""
    where, _, wanted = name.rpartition(":")
    if not where.endswith(".py"):
        module = importlib.import_module(where)
    elif not (base / where).is_file():
        raise ValueError(f"there is no file {base / where}")
    else:
        path = (base / where).resolve()
        # Named by its path, so that two recipes' files of one name do not shadow each other.
        spec = importlib.util.spec_from_file_location(
            f"flywheel_user_filter_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}", path
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # a user's file may raise anything
            raise ValueError(f"{path} does not import: {type(error).__name__}: {error}") from error
    if not hasattr(module, wanted):
        raise ValueError(f"{where} has no class {wanted!r}")
    return getattr(module, wanted)
