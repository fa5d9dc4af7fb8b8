"""The task's prompts: Markdown files with Jinja's braces, which a user can read and replace one by one."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flywheel.errors import TaskError
from flywheel.types import Message

if TYPE_CHECKING:
    from jinja2 import Environment

SHIPPED = Path(__file__).parent / "prompts"

FIELDS: dict[str, tuple[str, ...]] = {
    "rules": ("language",),
    "complete": ("language", "code", "rules"),
    "solve": ("language", "question", "starter", "entry_point", "tests", "rules"),
    "solve_stdio": ("language", "question", "rules"),
    "propose": ("snippet", "topic"),
    "tests": ("question", "entry_point", "count"),
    "more_tests": ("question", "entry_point", "count", "tests", "program", "missed"),
    "revise": ("language", "findings", "outcome", "failed", "returncode", "stdout", "stderr", "review"),
    "translate": ("language", "question", "program", "tests", "idiom"),
    "translate_stdio": ("language", "program"),
    "explain": ("language", "program"),
    "document": ("language", "program"),
    "debug": ("language", "question", "program", "failed"),
    "recreate": ("language", "description"),
}
"""Each prompt and the names that it may use."""


class Prompts:
    """The shipped prompts, with those of a folder in their place.

    Args:
        folder: with files such as ``solve.md``; None uses the shipped ones.

    Raises:
        TaskError: the folder is missing, or one of its files is no prompt, does not parse or uses an unknown name.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._environment = _environment()
        self._templates: dict[str, Any] = {}
        own = _own(folder) if folder is not None else {}
        for name in FIELDS:
            file = own.get(name, SHIPPED / f"{name}.md")
            self._templates[name] = self._load(name, file)

    def text(self, name: str, **fields: Any) -> str:
        """A prompt, filled in."""
        given = {field: fields.get(field) for field in FIELDS[name]}
        return str(self._templates[name].render(**given)).strip()

    def ask(self, name: str, **fields: Any) -> list[Message]:
        """A prompt as a conversation of one user message."""
        return [{"role": "user", "content": self.text(name, **fields)}]

    def _load(self, name: str, file: Path) -> Any:
        from jinja2 import TemplateSyntaxError, meta

        try:
            source = file.read_text()
            used = meta.find_undeclared_variables(self._environment.parse(source))
        except (OSError, UnicodeDecodeError, TemplateSyntaxError) as error:
            raise TaskError(f"prompt {file}: {error}", hint=f"compare it with {SHIPPED / name}.md") from error
        if unknown := sorted(used - set(FIELDS[name])):
            raise TaskError(
                f"prompt {file}: it uses {', '.join(unknown)}, which this prompt is not given",
                hint=f"known: {', '.join(FIELDS[name])}",
            )
        return self._environment.from_string(source)


def _own(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise TaskError(f"task.args.prompts: there is no folder {folder}")
    own: dict[str, Path] = {}
    for file in sorted(folder.glob("*.md")):
        if file.stem not in FIELDS:
            near = get_close_matches(file.stem, FIELDS, n=1)
            raise TaskError(
                f"prompt {file}: no prompt has this name" + (f"; did you mean {near[0]}.md?" if near else ""),
                hint=f"the prompts are {', '.join(FIELDS)}",
            )
        own[file.stem] = file
    return own


def _environment() -> Environment:
    from jinja2.sandbox import SandboxedEnvironment

    # Not escaped: the text goes to a model, and code must stay as it is.
    return SandboxedEnvironment(autoescape=False, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False)
