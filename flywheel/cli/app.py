"""The ``flywheel`` program: its commands, and how errors reach the user."""

from __future__ import annotations

import os
import sys

import typer
from rich.console import Console

from flywheel import __version__
from flywheel.cli import check, curate, dedup, evaluate, grade, new, run, serve_sandbox, show, status
from flywheel.errors import FlywheelError, UserError

app = typer.Typer(
    name="flywheel",
    help="A language model that improves itself in verified rounds.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("run")(run.command)
app.command("check")(check.command)
app.command("status")(status.command)
app.command("show")(show.command)
app.command("eval")(evaluate.command)
app.command("grade")(grade.command)
app.command("curate")(curate.command)
app.command("dedup")(dedup.command)
app.command("serve-sandbox")(serve_sandbox.command)
app.command("new")(new.command)


def _version(asked: bool) -> None:
    if asked:
        print(f"flywheel {__version__}")
        raise typer.Exit


@app.callback()
def _options(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True)) -> None:
    """A language model that improves itself in verified rounds."""


def main() -> None:
    """Run a command. Exit codes: 0 done, 1 the user's mistake, 2 usage, 3 a stage failed, 130 interrupted."""
    try:
        app()
    except FlywheelError as error:
        if os.environ.get("RANK", "0") == "0" or not isinstance(error, UserError):
            report(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `flywheel show … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def report(error: FlywheelError) -> None:
    """One message, and what mends it."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("[red]error[/red] ", end="")
    console.print(error.message, markup=False)
    if error.hint:
        console.print(f"  -> {error.hint}", markup=False)
