"""A task of your own. The toy here, reversing a word, works as it is: replace it step by step.

flywheel check NAME.yaml     is the task sound? (no training)
flywheel run NAME.yaml       improve the model
flywheel show NAME --failed  what does it still get wrong?
"""

import hashlib
import random
from collections.abc import Iterator

from flywheel.tasks import BaseTask
from flywheel.types import Completion, Problem, Verdict


class NewTask(BaseTask):
    # 1. The arguments: what `task: {args: {…}}` in the recipe may set.
    def __init__(self, letters: str = "abcdefgh", shortest: int = 3, longest: int = 5) -> None:
        self.letters, self.shortest, self.longest = letters, shortest, longest

    # 2. The problems of a split, always in the same order. They may be endless, as here, or come from a file.
    #    "train" is drawn from in each round, "heldout" measures, "demonstrations" (only for a warm-up) show gold.
    def problems(self, split: str) -> Iterator[Problem]:
        draw = random.Random(split)
        seen: set[str] = set()
        for _ in range(100_000):
            word = "".join(draw.choices(self.letters, k=draw.randint(self.shortest, self.longest)))
            # The word alone decides on which side it is, so that no held-out problem is ever trained on.
            if word in seen or _is_held_out(word) != (split == "heldout"):
                continue
            seen.add(word)
            # id: unique and stable. question: what the model reads. gold: a right answer, where one is known.
            # Anything else, such as word=…, is kept in `problem.data` for the verifier.
            yield Problem.ask(f"newtask-{word}", question=word, gold=word[::-1], word=word)

    # 3. The verdict on one completion: right, wrong with a reason, or undecided if you cannot know.
    #    Run code, compare an answer, play a game out: whatever says the truth. Reasons show up in `flywheel show`.
    def verify(self, problem: Problem, completion: Completion) -> Verdict:
        answer = completion.text.strip()
        if answer == problem.data["word"][::-1]:
            return Verdict.right()
        return Verdict.wrong("wrong length" if len(answer) != len(problem.data["word"]) else "wrong letters")

    # 4. Answers that must be rejected: `flywheel check` tries them, before any training.
    def wrong_answers(self, problem: Problem) -> list[str]:
        return [problem.data["word"] + "a", problem.data["word"][:0:-1]]


def _is_held_out(word: str) -> bool:
    """One word in eight."""
    return hashlib.sha256(word.encode()).digest()[0] % 8 == 0
