"""The house stands: each floor imports only floors below it, there are no cycles, and imports stay light."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "flywheel"
FLOORS: dict[str, int] = {
    "": 0,  # flywheel/__init__.py: the version
    **dict.fromkeys(("errors", "types"), 0),
    **dict.fromkeys(("recipe", "recipe_file", "recipe_keys", "rundir", "ledger", "files", "stagedir"), 1),
    **dict.fromkeys(
        ("engines", "sandbox", "verify", "curate", "tracking", "session", "workers", "devices", "sources"), 2
    ),
    **dict.fromkeys(("tasks", "training"), 3),
    "stages": 4,
    **dict.fromkeys(("loop", "agent"), 5),
    **dict.fromkeys(("cli", "__main__"), 6),
}
HEAVY = {"torch", "trl", "transformers", "peft", "vllm", "accelerate", "deepspeed", "datasets", "tokenizers"}
MAY_BE_HEAVY = {"training", "engines", "sources"}

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports(module: str, *, at_import_time: bool = False) -> Iterator[str]:
    """Dotted names that a module imports: anywhere in it, or only those that run when it is imported."""
    for node in _nodes(ast.parse(MODULES[module].read_text()), at_import_time):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: import by full names"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else str(node.module)


def _nodes(tree: ast.AST, at_import_time: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(tree):
        if at_import_time and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if at_import_time and isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _nodes(child, at_import_time)


def room(module: str) -> str:
    """The first name below ``flywheel``."""
    return [*module.split("."), ""][1]


def test_every_module_has_a_floor() -> None:
    assert {room(module) for module in MODULES} <= FLOORS.keys()
    assert len(MODULES) > 40


@pytest.mark.parametrize("module", MODULES)
def test_a_floor_imports_only_floors_below_it(module: str) -> None:
    mine = room(module)
    for name in imports(module):
        if name.split(".")[0] != "flywheel" or room(name) == mine:
            continue
        # On one floor the rooms stand side by side: they may see each other as long as no cycle forms.
        assert FLOORS[room(name)] <= FLOORS[mine], f"{module} (floor {FLOORS[mine]}) imports {name} from above"


def test_there_are_no_cycles() -> None:
    graph = {m: {n for n in imports(m, at_import_time=True) if n in MODULES and n != m} for m in MODULES}
    # A package's __init__ gathers its own modules, which is what it is for; they must not import it back.
    done: set[str] = set()
    path: list[str] = []

    def visit(module: str) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        path.append(module)
        for name in sorted(graph[module]):
            visit(name)
        path.pop()
        done.add(module)

    for module in MODULES:
        visit(module)


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) not in MAY_BE_HEAVY])
def test_only_training_and_engines_import_heavy_libraries(module: str) -> None:
    heavy = {name for name in imports(module) if name.split(".")[0] in HEAVY}
    assert not heavy, f"{module} imports {heavy}"


def test_the_loop_fits_a_screen_or_two() -> None:
    assert len((PACKAGE / "loop.py").read_text().splitlines()) <= 150
