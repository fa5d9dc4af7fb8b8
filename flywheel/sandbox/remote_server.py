"""What a client knows of a sandbox server: how much it takes, and whether it rests; and how a request can fail."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal

from flywheel.sandbox.job import Capabilities
from flywheel.sandbox.pool import SandboxFailed

Protocol = Literal["flywheel", "sandbox_fusion"]

LONGEST_REST = 20.0
"""Seconds."""


class Full(Exception):
    """A server has no place now, and may have one in so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Down(SandboxFailed):
    """A server cannot be reached.

    Args:
        proxy: it is a proxy before it that says so, and it may have been reached by then.
    """

    def __init__(self, problem: str, proxy: bool = False) -> None:
        super().__init__(problem)
        self.proxy = proxy


class Gone(SandboxFailed):
    """A server went away under a request, which may have been the cause, or been unlucky."""


class Refused(SandboxFailed):
    """A server does not take this job: too large, or not to be run there."""


class Broken(SandboxFailed):
    """A server answers that its sandbox failed, perhaps in this language only."""


@dataclass
class Rest:
    """After each failure in a row it is longer. Times are monotonic seconds."""

    failures: int = 0
    began: float = -math.inf
    until: float = -math.inf

    def fail(self) -> None:
        now = time.monotonic()
        if now - self.began < 0.5:
            return  # of requests that fail together the first counts
        self.failures += 1
        self.began, self.until = now, now + min(LONGEST_REST, 0.5 * 2.0 ** min(self.failures, 10))


@dataclass
class Server:
    """One server, as it was last seen; guarded by the executor's condition. Times are monotonic seconds.

    Attributes:
        places: how many programs at once it took of ours before it was full; grows again while it takes them.
        full_until: it is full, and may have a place then.
        rest: of all programs, after it did not answer as it should.
        lame: rests of single languages, after its sandbox failed.
        down_since: when it could not be reached for the first time since it was; None while it can.
        answered: when it last answered.
        problem: why it last brought no outcome.
    """

    url: str
    protocol: Protocol = "flywheel"
    capabilities: Capabilities | None = None
    running: int = 0
    places: float = math.inf
    full_until: float = 0.0
    rest: Rest = field(default_factory=Rest)
    lame: defaultdict[str, Rest] = field(default_factory=lambda: defaultdict(Rest))
    down_since: float | None = None
    answered: float = 0.0
    problem: str | None = None

    @property
    def parallel(self) -> int:
        """Programs that it should have at once: somewhat more than it runs, so that it need not wait for the next."""
        runs = self.capabilities.parallel if self.capabilities else 1
        return runs + (runs + 1) // 2

    @property
    def has_place(self) -> bool:
        return self.running + 1 <= min(self.parallel, self.places) and self.full_until <= time.monotonic()

    def runs(self, name: str) -> bool:
        return self.capabilities is None or name in self.capabilities.languages

    def rests(self, name: str) -> bool:
        return max(self.rest.until, self.lame[name].until) > time.monotonic()

    def seconds_to_wait(self, name: str) -> float:
        """Until it may be asked again, as far as that is known; one second if that is for others to say."""
        left = max(self.rest.until, self.lame[name].until, self.full_until) - time.monotonic()
        return min(left, 1.0) if left > 0 else 1.0

    def give_up(self) -> None:
        """Wait no longer for a server that cannot be reached; asked again it is all the same."""
        self.down_since = -math.inf

    def lost(self, patience: float) -> bool:
        return self.down_since is not None and time.monotonic() - self.down_since >= patience

    def take(self) -> None:
        """A place, which is given back by one of the notes below."""
        self.running += 1
        if self.down_since is not None:  # one program finds out whether it is back
            self.rest.until = time.monotonic() + LONGEST_REST

    # What a request came to that was sent at some time.

    def note_answer(self, sent: float) -> None:
        self.answered = time.monotonic()
        if self.down_since is None or sent > self.down_since:  # a server that stops still answers what it has
            self.down_since = self.problem = None
            self.rest = Rest()

    def note_outcome(self, name: str, sent: float) -> None:
        self.note_answer(sent)
        self.places += 0.2 / self.places
        self.lame.pop(name, None)

    def note_full(self, seconds: float, sent: float) -> None:
        self.note_answer(sent)
        if self.running:  # what of ours runs there will make a place
            self.places = min(self.places, self.running)
        else:
            self.places = 1
            self.full_until = time.monotonic() + seconds

    def note_broken(self, name: str, problem: str, sent: float) -> None:
        self.note_answer(sent)
        self.problem = problem
        self.lame[name].fail()

    def note_failure(self, problem: str) -> None:
        self.problem = problem
        self.rest.fail()

    def note_down(self, problem: str, patience: float) -> None:
        now = time.monotonic()
        # Time in which nobody asked is no silence.
        if self.down_since is None or now - self.rest.until > patience:
            self.down_since = now
        self.note_failure(problem)
