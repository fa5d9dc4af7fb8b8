"""``flywheel new``: a commented task and recipe to start from."""

from __future__ import annotations

import keyword
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from flywheel.errors import UserError
from flywheel.files import write_atomic

TEMPLATES = {"task.py": "{name}.py", "recipe.yaml": "{name}.yaml"}


def command(
    name: Annotated[str, typer.Argument(help="The task's name, a Python identifier such as spelling_bee.")],
    dir: Annotated[Path, typer.Option(help="Folder for the two files.")] = Path(),
) -> None:
    """Write NAME.py and NAME.yaml: a small task that works as it is, with a comment at each step."""
    made = write_task(name, dir)
    print(f"made {' and '.join(map(str, made))}; next:")
    print(f"  flywheel check {made[-1]}\n  flywheel run {made[-1]}")


def write_task(name: str, folder: Path) -> list[Path]:
    """Write both files, or neither.

    Raises:
        UserError: the name is no identifier, or a file exists.
    """
    class_name = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    if not name.isidentifier() or keyword.iskeyword(name) or not class_name.isidentifier():
        raise UserError(
            f"{name!r} cannot name a task: it must be a Python identifier", hint="flywheel new spelling_bee"
        )
    made = {template: folder / pattern.format(name=name) for template, pattern in TEMPLATES.items()}
    if taken := [str(path) for path in made.values() if path.exists()]:
        raise UserError(f"{' and '.join(taken)} would be overwritten", hint="choose another name, or --dir")
    folder.mkdir(parents=True, exist_ok=True)
    for template, path in made.items():
        text = files("flywheel.cli").joinpath("templates", template).read_text(encoding="utf-8")
        text = text.replace("newtask", name).replace("NewTask", class_name).replace("NAME", name)
        write_atomic(path, text.encode())
    return list(made.values())
