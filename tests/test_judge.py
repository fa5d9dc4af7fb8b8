"""What a user is promised of a judge: it gives a score on its rubric's scale, or says that it is undecided."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flywheel.engines import EnginePolicy
from flywheel.engines.scripted import ScriptedEngine
from flywheel.errors import NoAnswer, RecipeError
from flywheel.types import Completion, Message, Sampling
from flywheel.verify import Judgement, Rubric, judge, load_rubric, rubric_names

GIVEN = {"prompt": "What is 2 + 2?", "response": "4", "original": "f = 1", "recreated": "f = 1"}
YES_NO = Rubric("yes_no", "{{ response }}", (0, 1), 1)


def ask(rubric: Rubric, answers: list[str]) -> Judgement:
    engine = ScriptedEngine(answer=lambda messages, sampling: answers[: sampling.n])
    policy = EnginePolicy(engine, Sampling(stop=("\n",)), "key")
    return asyncio.run(judge(policy, rubric, len(answers), **GIVEN))


@pytest.mark.parametrize("name", rubric_names())
def test_shipped_rubrics_ask_for_what_they_parse(name: str) -> None:
    rubric = load_rubric(name)
    (message,) = rubric.messages(**GIVEN)
    assert all(GIVEN[field] in message["content"] for field in rubric.fields)
    assert message["content"].endswith("Score: N")
    assert rubric.parse(message["content"]) is None
    low, high = rubric.scale
    for score in (low, high):
        assert ask(rubric, [f"Because.\n\nScore: {score:g}"]).score == score
    assert ask(rubric, [f"Score: {high + 1:g}"]).score is None
    assert rubric.criteria


def test_the_published_scales_are_there() -> None:
    scales = {name: load_rubric(name).scale for name in rubric_names()}
    assert scales["general"] == (0, 3)
    assert scales["code"] == scales["code_correctness_style"] == (0, 2)
    assert scales["self_rewarding"] == (0, 5)
    assert scales["difficulty"] == (1, 3)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Score: 2", 2),
        ("**Score:** 2", 2),
        ("**Score: 2**", 2),
        ("score = 2/3", 2),
        ("Accuracy: 1\nScore: 1 then, on reflection,\nFinal score: 3.", 3),
        ("<think>Score: 0?</think>Score: 3", 3),
        ("Score: 2.5", 2.5),
        ("Score: 2/10", None),
        ("Score: 7", None),
        ("Score: -1", None),
        ("Score: N", None),
        ("I would say two", None),
        ("underscore: 2", None),
        ("<think>Score: 3</think>", None),
        ("", None),
    ],
)
def test_answers_are_read_only_if_they_are_clear(text: str, score: float | None) -> None:
    assert load_rubric("general").parse(text) == score


def test_votes_are_averaged() -> None:
    found = ask(load_rubric("self_rewarding"), ["Score: 3", "Score: 4", "what?"])
    assert (found.score, found.votes, found.passed) == (3.5, (3, 4, None), None)


def test_the_majority_passes_and_a_tie_is_undecided() -> None:
    assert ask(YES_NO, ["score: 1", "score: 1", "score: 0"]).passed is True
    assert ask(YES_NO, ["score: 1", "score: 0", "score: 0"]).passed is False
    tied = ask(YES_NO, ["score: 1", "score: 0"])
    assert (tied.score, tied.passed) == (None, None)
    assert "tied" in tied.reason


def test_rubbish_is_undecided_and_shown() -> None:
    found = ask(YES_NO, ["banana"])
    assert (found.score, found.votes) == (None, (None,))
    assert "banana" in found.reason


@given(st.lists(st.one_of(st.text(max_size=8), st.sampled_from(["score: 0", "score: 1"])), min_size=1, max_size=5))
def test_no_answer_breaks_it(answers: list[str]) -> None:
    found = ask(YES_NO, answers)
    assert (found.score is None) == (found.passed is None)
    assert found.score is None or 0 <= found.score <= 1
    assert len(found.votes) == len(answers)


def test_one_vote_is_greedy_and_a_rollout_s_own_settings_do_not_cut_it() -> None:
    seen: list[Sampling] = []

    def answer(messages: list[Message], sampling: Sampling) -> list[str]:
        seen.append(sampling)
        return ["score: 1"] * sampling.n

    policy = EnginePolicy(ScriptedEngine(answer=answer), Sampling(n=8, max_tokens=4, stop=("\n",), top_k=3), "key")
    asyncio.run(judge(policy, YES_NO, **GIVEN))
    asyncio.run(judge(policy, YES_NO, 3, **GIVEN))
    assert [(s.n, s.temperature, s.stop, s.max_tokens, s.top_k) for s in seen] == [
        (1, 0.0, (), 1024, 0),
        (3, 0.7, (), 1024, 0),
    ]


def test_an_engine_without_an_answer_is_undecided() -> None:
    class Silent:
        async def chat(self, messages: Iterable[Message], **overrides: Any) -> list[Completion]:
            raise NoAnswer("server said 500")

    found = asyncio.run(judge(Silent(), YES_NO, 2, **GIVEN))
    assert (found.score, found.votes) == (None, (None, None))
    assert "server said 500" in found.reason


def test_one_s_own_rubric_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.md").write_text("---\nscale: [0, 1]\nsystem: You judge.\n---\nIs {{ color }} a colour?\n")
    rubric = load_rubric("mine.md", tmp_path)
    assert rubric.messages(color="red")[0] == {"role": "system", "content": "You judge."}
    assert rubric.messages(color="{{ 1 }}")[1]["content"] == "Is {{ 1 }} a colour?"
    with pytest.raises(RecipeError, match="asks for color"):
        rubric.messages(colour="red")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no front matter", "front matter"),
        ("---\nscale: 3\n---\nx", "scale"),
        ("---\nscale: [3, 0]\n---\nx", "lowest < highest"),
        ("---\nscale: [0, 3]\nmark: 4\n---\nx", "mark"),
        ("---\nscale: [0, 3]\nvotes: 4\n---\nx", "unknown key votes"),
        ("---\nscale: [0, 3]\n---\n{{ x", "rubric"),
        ("---\nscale: [0, 3\n---\nx", "rubric"),
    ],
)
def test_a_wrong_rubric_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.md").write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_rubric(tmp_path / "mine.md")


def test_a_misspelt_rubric_is_named() -> None:
    with pytest.raises(RecipeError, match="did you mean 'general'"):
        load_rubric("generel")
