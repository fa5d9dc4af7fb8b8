"""A task for measuring speed: texts of a fixed length, of which three in eight count as right, whatever the model."""

from __future__ import annotations

import random
import string
import zlib
from collections.abc import Iterator

from flywheel.tasks import BaseTask
from flywheel.types import Completion, Problem, Verdict


class Letters(BaseTask):
    """Random letters ask for random letters; a checksum says which answers are right.

    Args:
        prompt: letters of a prompt.
        answer: letters of a demonstrated answer.
    """

    def __init__(self, prompt: int = 256, answer: int = 256) -> None:
        self._prompt, self._answer = prompt, answer

    def problems(self, split: str) -> Iterator[Problem]:
        draw = random.Random(split)
        number = 0
        while True:
            asked = "".join(draw.choices(string.ascii_letters, k=self._prompt))
            answer = "".join(draw.choices(string.ascii_letters, k=self._answer))
            gold = next(text for end in string.ascii_letters if _right(asked, text := answer[:-1] + end))
            yield Problem.ask(f"{split}-{number}", asked, gold=gold)
            number += 1

    def verify(self, problem: Problem, completion: Completion) -> Verdict:
        return Verdict.right() if _right(problem.prompt[0]["content"], completion.text) else Verdict.wrong("checksum")

    def wrong_answers(self, problem: Problem) -> list[str]:
        asked = problem.prompt[0]["content"]
        return [text for end in "uvwxyz" if not _right(asked, text := (problem.gold or "") + end)]


def _right(asked: str, text: str) -> bool:
    return bool(text) and zlib.crc32(f"{asked} {text}".encode()) % 8 < 3
