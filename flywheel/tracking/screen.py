"""Progress for people: live bars on a terminal, sparse plain lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

log = logging.getLogger("flywheel")
QUIET_SECONDS = 15.0
"""Without a terminal, a long stage says where it is this often."""


class Bar:
    """One long thing. Safe to update from any number of workers: each reports its own part."""

    def __init__(self, screen: Screen, label: str, unit: str) -> None:
        self._screen, self._label, self._unit = screen, label, unit
        self._begun = self._spoken = time.monotonic()
        self._first: int | None = None
        self._task: TaskID | None = None

    def update(self, done: int, total: int, note: str = "") -> None:
        """Show ``done`` of ``total``; a resumed stage's rate counts from where it resumed."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._begun = done, now
        rate = (done - self._first) / max(now - self._begun, 1e-6)
        shown = f"{rate:,.1f} {self._unit}/s {note}".rstrip()
        progress = self._screen.progress
        if progress is not None:
            if self._task is None:
                self._task = progress.add_task(self._label, total=total, rate="")
            progress.update(self._task, completed=done, total=total, rate=shown)
        elif self._screen.speaks and now - self._spoken > QUIET_SECONDS:
            self._spoken = now
            left = (total - done) / rate if rate > 0 else float("inf")
            eta = f", {left:.0f} s left" if left != float("inf") else ""
            self._screen.say(f"  {self._label}: {done}/{total} {self._unit} ({shown}{eta})")

    def close(self) -> None:
        progress = self._screen.progress
        if progress is not None and self._task is not None:
            progress.remove_task(self._task)
            self._task = None


class Screen:
    """The console of one agent; only rank 0 speaks."""

    def __init__(self, speaks: bool = True, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.speaks = speaks
        self.progress: Progress | None = None

    def __enter__(self) -> Screen:
        if self.speaks and self.console.is_terminal:
            self.progress = Progress(
                TextColumn("  [bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def bar(self, label: str, unit: str) -> Bar:
        return Bar(self, label, unit)

    @contextmanager
    def bars(self, unit: str) -> Iterator[Callable[[str, int, int], None]]:
        """Several things, each with a bar from when it is first heard of: call with its name, done and total."""
        shown: dict[str, Bar] = {}

        def update(name: str, done: int, total: int) -> None:
            if name not in shown:
                shown[name] = self.bar(name, unit)
            shown[name].update(done, total)

        try:
            yield update
        finally:
            for bar in shown.values():
                bar.close()

    def say(self, text: str) -> None:
        """One line for the user, and for the agent's log."""
        log.info("%s", text)
        if self.speaks:
            self.console.print(text, markup=False)
