"""What every executor has from its pool: a place per thread, several tries, an end that leaves nothing."""

from __future__ import annotations

import threading

import pytest

from flywheel.sandbox.job import Job, Outcome
from flywheel.sandbox.pool import Pool, SandboxFailed

JOB = Job("python", {"main.py": b""})


class Counting(Pool[int]):
    """Says which threads did what."""

    def __init__(self, count: int, broken: int | None = None, fails: int = 0) -> None:
        self.broken, self.fails = broken, fails
        self.at: dict[int, set[int]] = {}
        self.ended: list[str] = []
        super().__init__(count, "remote")

    def open(self, number: int) -> int:
        if number == self.broken:
            raise ValueError(f"no place {number}")
        self.at[number] = {threading.get_ident()}
        return number

    def attempt(self, job: Job, case: int, place: int) -> Outcome:
        self.at[place].add(threading.get_ident())
        if self.fails:
            self.fails -= 1
            raise SandboxFailed("it fell over")
        return Outcome("exited", 0)

    def leave(self, place: int) -> None:
        self.at[place].add(threading.get_ident())
        self.ended.append(f"place {place}")

    def release(self) -> None:
        self.ended.append("all")


def test_a_place_belongs_to_one_thread_from_its_making_to_its_end() -> None:
    """A zygote dies with the thread that started it."""
    with Counting(3) as pool:
        assert len(pool.run_all([JOB] * 50)) == 50
    assert [len(threads) for threads in pool.at.values()] == [1, 1, 1]
    assert len(set.union(*pool.at.values())) == 3
    assert threading.get_ident() not in set.union(*pool.at.values())
    pool.close()
    assert sorted(pool.ended[:-1]) == ["place 0", "place 1", "place 2"]
    assert pool.ended[-1] == "all"


@pytest.mark.parametrize("broken", [0, 2])
def test_a_place_that_cannot_be_made_is_the_constructors_error(broken: int) -> None:
    pool = Counting.__new__(Counting)
    with pytest.raises(ValueError, match=f"no place {broken}"):
        pool.__init__(4, broken)  # type: ignore[misc]
    assert sorted(pool.ended) == ["all", *(f"place {n}" for n in range(broken))]


def test_a_job_is_tried_again_and_then_nothing_is_known_of_it() -> None:
    with Counting(1, fails=2) as pool:
        assert pool.run_all([JOB])[0][0].ok
        assert pool.health() is None
        pool.fails = 3
        ((outcome,),) = pool.run_all([JOB])
        assert (outcome.status, outcome.detail, outcome.level) == ("infra_error", "it fell over", "remote")
        assert pool.health() == "it fell over"
        assert pool.run_all([JOB])[0][0].ok
        assert pool.health() is None
