"""Engines: the same seeds give the same completions, and batching changes nothing that a user sees."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import torch
from conftest import TINY

from flywheel.engines import EnginePolicy, EngineSpec, make_engine
from flywheel.engines.checkpoint import chars_tokenizer, make_model, render_chat
from flywheel.engines.scripted import ScriptedEngine
from flywheel.engines.transformers import TransformersEngine
from flywheel.errors import DataError, ModelError, RecipeError
from flywheel.recipe import ScratchModel
from flywheel.tasks import BaseTask
from flywheel.types import Completion, Problem, Sampling, Verdict


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    model, tokenizer = make_model(ScratchModel.model_validate(TINY))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def ask(engine: TransformersEngine, questions: list[str], **sampling: object) -> list[list[Completion]]:
    async def go() -> list[list[Completion]]:
        policies = [EnginePolicy(engine, Sampling(**sampling), key=q) for q in questions]  # type: ignore[arg-type]
        return await asyncio.gather(
            *(p.chat([{"role": "user", "content": q}]) for p, q in zip(policies, questions, strict=True))
        )

    return asyncio.run(go())


QUESTIONS = ["1 2 3=6", "12 14 15=41", "7", "a much longer question than the others"]


def test_same_requests_give_the_same_completions(checkpoint: Path) -> None:
    first = ask(TransformersEngine(str(checkpoint)), QUESTIONS, n=3, max_tokens=8)
    second = ask(TransformersEngine(str(checkpoint)), QUESTIONS, n=3, max_tokens=8)
    assert first == second
    assert all(len(group) == 3 for group in first)
    assert len({c.text for group in first for c in group}) > 3


def test_another_key_gives_other_completions(checkpoint: Path) -> None:
    engine = TransformersEngine(str(checkpoint))

    def once(key: str) -> list[str]:
        policy = EnginePolicy(engine, Sampling(n=4, max_tokens=8), key)
        return [c.text for c in asyncio.run(policy.chat([{"role": "user", "content": "x"}]))]

    assert once("seed 0") != once("seed 1")


def test_greedy_answers_do_not_depend_on_the_batch_or_the_shared_prefill(checkpoint: Path) -> None:
    together = ask(TransformersEngine(str(checkpoint)), QUESTIONS, temperature=0.0, max_tokens=12)
    alone = ask(TransformersEngine(str(checkpoint), batch_size=1), QUESTIONS, temperature=0.0, max_tokens=12)
    # Nearly greedy, but through the sampling path and the prefill that n completions share.
    shared = ask(TransformersEngine(str(checkpoint)), QUESTIONS, n=2, temperature=1e-4, max_tokens=12)
    assert [g[0].text for g in together] == [g[0].text for g in alone] == [g[0].text for g in shared]


def test_finish_reason_and_tokens(checkpoint: Path) -> None:
    for completion in ask(TransformersEngine(str(checkpoint)), ["1+1"], n=16, max_tokens=5)[0]:
        assert 0 < completion.tokens <= 5
        assert completion.finish == "length" or completion.tokens == len(completion.text) + 1


def test_a_conversation_that_ends_with_the_assistant_is_continued(checkpoint: Path) -> None:
    question = {"role": "user", "content": "1 2 3=6"}

    def greedy(*messages: dict[str, str], length: int) -> str:
        policy = EnginePolicy(TransformersEngine(str(checkpoint)), Sampling(temperature=0, max_tokens=length), "k")
        return asyncio.run(policy.chat(messages))[0].text

    whole = greedy(question, length=12)
    for cut in (1, 5, 11):
        begun = {"role": "assistant", "content": whole[:cut]}
        assert greedy(question, begun, length=12 - cut) == whole[cut:]


def test_a_template_that_changes_answers_cannot_continue_them() -> None:
    tokenizer = chars_tokenizer()
    messages = [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "so 1"}]
    assert render_chat(tokenizer, messages) == "<|user|>1+1<|assistant|>so 1"
    tokenizer.chat_template = tokenizer.chat_template.replace("m['content']", "m['content'][-2:]")  # type: ignore[union-attr]
    with pytest.raises(ModelError, match="cannot be continued"):
        render_chat(tokenizer, messages)


def test_stop_strings_end_a_completion(checkpoint: Path) -> None:
    free = ask(TransformersEngine(str(checkpoint)), ["1+1"], temperature=0.0, max_tokens=12)[0][0]
    stop = free.text[3]
    cut = ask(TransformersEngine(str(checkpoint)), ["1+1"], temperature=0.0, max_tokens=12, stop=(stop,))[0][0]
    assert cut.text == free.text[: free.text.index(stop)] and cut.finish == "stop"


def test_a_many_turn_rollout_is_plain_async_python() -> None:
    class Retry(BaseTask):
        async def rollout(self, problem, policy):  # type: ignore[no-untyped-def]
            (first,) = await policy.chat(problem.prompt, n=1)
            if self.verify(problem, first).passed:
                return [first]
            reply = "wrong, try again"
            conversation = [*problem.prompt, *first.messages, {"role": "user", "content": reply}]
            (second,) = await policy.chat(conversation, n=1)
            return [first.then(reply, second)]

        def verify(self, problem: Problem, completion: Completion) -> Verdict:
            return Verdict.right() if completion.text == problem.gold else Verdict.wrong("no")

    engine = ScriptedEngine(answers={"1+1": ["3"], "wrong, try again": ["2"]})
    policy = EnginePolicy(engine, Sampling(), "k")
    problem = Problem.ask("p", "1+1", gold="2")
    (completion,) = asyncio.run(Retry().rollout(problem, policy))
    assert [m["content"] for m in completion.messages] == ["3", "wrong, try again", "2"]
    assert Retry().verify(problem, completion).passed and completion.tokens == 2


def test_a_failing_batch_reaches_everyone_who_waits(checkpoint: Path) -> None:
    engine = TransformersEngine(str(checkpoint))
    engine._model = None
    with pytest.raises(AttributeError):
        ask(engine, QUESTIONS)


def test_scripted_engine_reads_a_file(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"hello": ["a", "b"], "*": ["?"]}))
    engine = ScriptedEngine(script=str(script))
    texts = [c.text for c in asyncio.run(engine.chat([{"role": "user", "content": "hello"}], Sampling(n=20)))]
    assert set(texts) == {"a", "b"}
    with pytest.raises(DataError, match=r"missing\.json"):
        ScriptedEngine(script="missing.json")


def test_bad_engines_and_models_are_named(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(RecipeError, match="no engine 'vlm'"):
        make_engine(EngineSpec("vlm", "x"))
    with pytest.raises(RecipeError, match="colour"):
        make_engine(EngineSpec("transformers", str(checkpoint), extra={"colour": 1}))
    with pytest.raises(ModelError, match="no model folder"):
        make_engine(EngineSpec("transformers", str(tmp_path / "none")))
    with pytest.raises(RecipeError, match="no 'lama'"):
        make_model(ScratchModel(architecture="lama"))
    with pytest.raises(RecipeError, match="hidden_sise"):
        make_model(ScratchModel(architecture="llama", config={"hidden_sise": 3}))


def test_chars_tokenizer_round_trips() -> None:
    tokenizer = chars_tokenizer()
    text = "3*(5+7) = 36\n~!@#"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}], tokenize=False
    )
    assert rendered == "<|user|>1<|assistant|>2<|end|>"
    assert tokenizer("é")["input_ids"] == [tokenizer.unk_token_id]
