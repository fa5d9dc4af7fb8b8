"""The prompts of the math rollouts: Jinja files in ``prompts/``, each replaceable by one of the same name."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flywheel.errors import RecipeError
from flywheel.types import Message

if TYPE_CHECKING:
    from jinja2 import Environment, Template

SHIPPED = Path(__file__).parent / "prompts"
FIELDS = {
    "rationalize": ("question", "answer"),
    "correct": (),
    "code": ("question",),
    "output": ("output",),
    "rephrase": ("question",),
    "backward": ("question", "answer", "unknown"),
    "condition": ("question", "answer"),
}
"""Each prompt with the names that its file may use."""


@dataclass(frozen=True)
class Prompts:
    """Templates by name."""

    templates: dict[str, Template]

    def text(self, name: str, **fields: Any) -> str:
        return str(self.templates[name].render(**fields)).strip()

    def ask(self, name: str, **fields: Any) -> list[Message]:
        """A conversation of one user message."""
        return [{"role": "user", "content": self.text(name, **fields)}]


def load_prompts(folder: str | None = None, base: Path | None = None) -> Prompts:
    """The shipped prompts, some of them replaced.

    Args:
        folder: with files ``NAME.md`` for some of ``FIELDS``.
        base: where a relative folder starts from.

    Raises:
        RecipeError: no such folder, a file of another name, or a template that is broken or uses an unknown name.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, autoescape=False)
    files = {name: SHIPPED / f"{name}.md" for name in FIELDS} | _own_files(folder, base)
    return Prompts({name: _template(environment, name, file) for name, file in files.items()})


def _own_files(folder: str | None, base: Path | None) -> dict[str, Path]:
    if folder is None:
        return {}
    path = (base or Path()) / folder
    if not path.is_dir():
        raise RecipeError(f"rollouts.prompts: there is no folder {path}", hint=f"the shipped prompts are in {SHIPPED}")
    own = {file.stem: file for file in sorted(path.glob("*.md"))}
    for name in own:
        if name not in FIELDS:
            near = get_close_matches(name, FIELDS, n=1, cutoff=0.5)
            raise RecipeError(
                f"rollouts.prompts: no rollout uses {own[name]}" + (f"; did you mean {near[0]}.md?" if near else ""),
                hint=f"the prompts are {', '.join(FIELDS)}",
            )
    return own


def _template(environment: Environment, name: str, file: Path) -> Template:
    from jinja2 import TemplateSyntaxError, meta

    try:
        source = file.read_text()
        used = meta.find_undeclared_variables(environment.parse(source))
    except (OSError, UnicodeDecodeError, TemplateSyntaxError) as error:
        hint = f"compare it with {SHIPPED / file.name}"
        raise RecipeError(f"rollouts.prompts: {file}: {error}", hint=hint) from error
    if unknown := used - set(FIELDS[name]):
        raise RecipeError(
            f"rollouts.prompts: {file} uses {', '.join(sorted(unknown))}, which is not there",
            hint=f"it may use {', '.join(FIELDS[name]) or 'no field'}",
        )
    return environment.from_string(source)
