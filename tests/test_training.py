"""Training: our fast tokenization is TRL's, adapters are merged, knobs reach TRL."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import TINY, Quiet
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

from flywheel.devices import launch_findings, sharding
from flywheel.engines import EngineSpec, make_engine
from flywheel.engines.checkpoint import adapter_of, chars_tokenizer, load_weights, make_model
from flywheel.errors import RecipeError, StageFailed, UserError
from flywheel.files import read_json, write_rows
from flywheel.recipe import Dpo, ScratchModel, Sft
from flywheel.stages.schemas import PAIRS, SFT
from flywheel.training import train
from flywheel.training.config import dpo_config, sft_config
from flywheel.training.data import dpo_dataset, sft_dataset
from flywheel.training.preflight import training_bytes
from flywheel.training.save import check_weights
from flywheel.training.speed import PaddingCollator, activation_bytes, forget_padding, recomputes
from flywheel.types import Sampling


def message(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "sft.parquet"
    data = [
        {"row_id": str(i), "prompt": message("user", f"{i}+{i}"), "completion": message("assistant", str(2 * i))}
        for i in range(40)
    ]
    write_rows(file, [{**dict.fromkeys(SFT.names), **row} for row in data], SFT)
    return file


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.parquet"
    data = [
        {
            "pair_id": str(i),
            "prompt": message("user", f"{i}+{i}"),
            "chosen": message("assistant", str(2 * i)),
            "rejected": message("assistant", str(3 * i + 1)),
        }
        for i in range(24)
    ]
    write_rows(file, [{**dict.fromkeys(PAIRS.names), **row} for row in data], PAIRS)
    return file


def payload(work: Path, section: Sft | Dpo, data: Path, **more: Any) -> dict[str, Any]:
    work.mkdir(parents=True)
    common = {"section": section.model_dump(mode="json"), "data": str(data), "work": str(work)}
    return {**common, "model": TINY, "chat_template": None, "seed": 3, "rank": 0, "world": 1, "reference": None, **more}


def test_tokenization_equals_trl(rows: Path, tmp_path: Path) -> None:
    model, tokenizer = make_model(ScratchModel.model_validate(TINY))
    ours = sft_dataset(rows, tokenizer, max_length=64)
    config = SFTConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True, report_to="none", max_length=64)
    columns = Dataset.from_parquet(str(rows)).select_columns(["prompt", "completion"])
    theirs = SFTTrainer(model=model, args=config, train_dataset=columns, processing_class=tokenizer).train_dataset
    assert ours["input_ids"][:] == theirs["input_ids"][:]
    assert ours["labels"][:] == theirs["labels"][:]


def test_of_a_conversation_only_what_the_assistant_says_is_learned(tmp_path: Path) -> None:
    _, tokenizer = make_model(ScratchModel.model_validate(TINY))
    turns = [*message("assistant", "first"), *message("user", "wrong"), *message("assistant", "second")]
    row = {"row_id": "r", "prompt": message("user", "ask"), "completion": turns}
    write_rows(tmp_path / "sft.parquet", [{**dict.fromkeys(SFT.names), **row}], SFT)
    [example] = list(sft_dataset(tmp_path / "sft.parquet", tokenizer, max_length=None))
    learned = tokenizer.decode(
        [i for i, label in zip(example["input_ids"], example["labels"], strict=True) if label >= 0]
    )
    assert "first" in learned and "second" in learned
    assert "wrong" not in learned and "ask" not in learned
    assert learned.count(tokenizer.eos_token) == 2  # it learns to end each of its turns


def test_pair_tokenization_equals_trl(pairs: Path, tmp_path: Path) -> None:
    model, tokenizer = make_model(ScratchModel.model_validate(TINY))
    model.save_pretrained(tmp_path / "model")
    config = DPOConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True, report_to="none", max_length=64)
    columns = Dataset.from_parquet(str(pairs)).select_columns(["prompt", "chosen", "rejected"])
    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    trainer = DPOTrainer(
        model=model, ref_model=reference, args=config, train_dataset=columns, processing_class=tokenizer
    )
    ours = dpo_dataset(pairs, tokenizer, max_length=64)
    for column in ("prompt_ids", "chosen_ids", "rejected_ids"):
        assert ours[column][:] == trainer.train_dataset[column][:]


def test_rows_without_room_for_a_completion_are_an_error_with_a_remedy(rows: Path, tmp_path: Path) -> None:
    assert len(sft_dataset(rows, chars_tokenizer(), max_length=3)) == 0
    with pytest.raises(UserError, match="max_length 3 tokens"):
        train.sft(payload(tmp_path / "w", Sft(max_length=3), rows), Quiet())  # type: ignore[arg-type]


def test_sft_then_dpo_leave_plain_model_folders(rows: Path, pairs: Path, tmp_path: Path) -> None:
    sft = train.sft(payload(tmp_path / "sft", Sft(batch_size=8, learning_rate=1e-3), rows), Quiet())  # type: ignore[arg-type]
    assert sft["steps"] == 5 and sft["rows"] == 40
    model = str(tmp_path / "sft" / "model")
    section = Dpo(batch_size=8, learning_rate=1e-3, mask_special_tokens=True)
    more = {"model": model, "reference": model}
    dpo = train.dpo(payload(tmp_path / "dpo", section, pairs, **more), Quiet())  # type: ignore[arg-type]
    assert dpo["steps"] == 3 and "rewards/accuracies" in dpo["last"]
    before = AutoModelForCausalLM.from_pretrained(model).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "dpo" / "model").state_dict()
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert read_json(tmp_path / "dpo" / "log.json")[-1]["step"] == 3


def test_the_last_step_leaves_no_checkpoint_beside_the_result(rows: Path, tmp_path: Path) -> None:
    train.sft(payload(tmp_path / "sft", Sft(batch_size=8, save_steps=2), rows), Quiet())  # type: ignore[arg-type]
    left = sorted(folder.name for folder in (tmp_path / "sft" / ".trainer.1").glob("checkpoint-*"))
    assert left == ["checkpoint-2", "checkpoint-4"]  # of 5 steps


def test_a_scratch_model_that_cannot_be_made_is_explained() -> None:
    spec = {"architecture": "llama", "config": {"hidden_size": 64, "num_attention_heads": 6}}
    with pytest.raises(RecipeError, match=r"model\.config: llama cannot be made so: .*attention heads \(6\)"):
        make_model(ScratchModel.model_validate(spec))


def test_batches_are_trl_s(rows: Path) -> None:
    data = sft_dataset(rows, chars_tokenizer(), max_length=64)
    theirs = DataCollatorForLanguageModeling(pad_token_id=0)
    ours = PaddingCollator.instead_of(theirs)
    assert isinstance(ours, PaddingCollator)
    examples = [data[i] for i in (3, 17, 39)]
    batch, same = theirs(examples), ours(examples)
    assert batch.keys() == same.keys()
    assert all(torch.equal(batch[name], same[name]) and batch[name].dtype == same[name].dtype for name in batch)
    packing = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    assert PaddingCollator.instead_of(packing) is packing


def test_forgotten_padding_changes_no_token(tmp_path: Path) -> None:
    for architecture in ("llama", "qwen3", "mistral"):  # the last with a window, which must stay
        spec = {"architecture": architecture, "config": {**TINY["config"], "num_key_value_heads": 1}}
        if architecture == "mistral":
            spec["config"]["sliding_window"] = 4
        torch.manual_seed(0)
        model, _ = make_model(ScratchModel.model_validate(spec))
        ids, mask = torch.randint(7, 90, (3, 12)), torch.ones(3, 12, dtype=torch.long)
        for row, length in enumerate((12, 7, 3)):
            ids[row, length:], mask[row, length:] = 0, 0
        real = mask.bool()
        model.eval()
        with torch.no_grad():
            before = model(input_ids=ids, attention_mask=mask).logits[real]
            forget_padding(model)
            after = model(input_ids=ids, attention_mask=mask).logits[real]
        assert model.config._attn_implementation == "sdpa_right_padded"
        assert (before - after).abs().max() < 1e-5
        model.save_pretrained(tmp_path / architecture)
        assert "right_padded" not in (tmp_path / architecture / "config.json").read_text()
        AutoModelForCausalLM.from_pretrained(tmp_path / architecture)


def test_activations_are_recomputed_where_a_gpu_might_not_hold_them(
    rows: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = make_model(ScratchModel.model_validate(TINY))
    data, both = sft_dataset(rows, tokenizer, 64), dpo_dataset(pairs, tokenizer, 64)
    assert not recomputes(Sft(), model, data, 8, 1)  # there is no GPU
    memory = {"total": 2**34}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=memory["total"]))
    assert not recomputes(Sft(), model, data, 8, 1) and not recomputes(Dpo(), model, both, 8, 1)
    assert recomputes(Sft(gradient_checkpointing=True), model, data, 8, 1)
    memory["total"] = 2**20
    assert recomputes(Sft(), model, data, 8, 1) and recomputes(Dpo(), model, both, 8, 1)
    assert not recomputes(Sft(gradient_checkpointing=False), model, data, 8, 1)
    experts = SimpleNamespace(num_local_experts=8, get_text_config=lambda: experts)
    assert activation_bytes(experts) is None


def test_an_adapter_that_is_not_merged_goes_on_in_the_next_stage_and_answers(
    rows: Path, pairs: Path, tmp_path: Path
) -> None:
    train.sft(payload(tmp_path / "base", Sft(batch_size=8), rows), Quiet())  # type: ignore[arg-type]
    base = str(tmp_path / "base" / "model")
    lora = {"r": 4, "alpha": 8, "merge": False}
    tuned = payload(tmp_path / "sft", Sft(batch_size=8, learning_rate=1e-2, lora=lora), rows, model=base)
    train.sft(tuned, Quiet())  # type: ignore[arg-type]
    first = str(tmp_path / "sft" / "model")
    section = Dpo(batch_size=8, learning_rate=1e-2, lora=lora, extra={"logging_steps": 1})
    preferred = payload(tmp_path / "dpo", section, pairs, model=first)
    train.dpo({**preferred, "reference": first}, Quiet())  # type: ignore[arg-type]
    second = str(tmp_path / "dpo" / "model")
    assert adapter_of(first) == adapter_of(second) == (base, 4)
    assert not (tmp_path / "dpo" / "model" / "model.safetensors").exists()
    before, after = (load_file(f"{folder}/adapter_model.safetensors") for folder in (first, second))
    assert before.keys() == after.keys() and any(not torch.equal(before[k], after[k]) for k in before)
    start, *later = [entry["rewards/chosen"] for entry in read_json(tmp_path / "dpo" / "log.json") if "loss" in entry]
    assert start == pytest.approx(0, abs=1e-5) and later[-1] != 0  # it begins at its reference, and leaves it
    merged = load_weights(second).state_dict()
    plain = AutoModelForCausalLM.from_pretrained(base).state_dict()
    assert merged.keys() == plain.keys() and any(not torch.equal(merged[k], plain[k]) for k in merged)
    engine = make_engine(EngineSpec("transformers", second))
    [answer] = asyncio.run(engine.chat(message("user", "1+1"), Sampling(max_tokens=4)))
    assert answer.tokens > 0


def test_lora_is_merged_into_a_plain_checkpoint(rows: Path, pairs: Path, tmp_path: Path) -> None:
    train.sft(payload(tmp_path / "base", Sft(batch_size=40), rows), Quiet())  # type: ignore[arg-type]
    base = str(tmp_path / "base" / "model")
    lora = {"r": 4, "alpha": 8}
    tuned = payload(tmp_path / "lora", Sft(batch_size=8, learning_rate=1e-2, lora=lora), rows, model=base)
    train.sft(tuned, Quiet())  # type: ignore[arg-type]
    preferred = payload(tmp_path / "dpo", Dpo(batch_size=8, learning_rate=1e-2, lora=lora), pairs)
    train.dpo({**preferred, "model": str(tmp_path / "lora" / "model"), "reference": base}, Quiet())  # type: ignore[arg-type]
    for stage in ("lora", "dpo"):
        assert not (tmp_path / stage / "model" / "adapter_config.json").exists()
    first = AutoModelForCausalLM.from_pretrained(base).state_dict()
    second = AutoModelForCausalLM.from_pretrained(tmp_path / "lora" / "model").state_dict()
    third = AutoModelForCausalLM.from_pretrained(tmp_path / "dpo" / "model").state_dict()
    assert first.keys() == second.keys() == third.keys()
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(first[name], second[name]) and not torch.equal(second[name], third[name])


def test_special_tokens_are_masked_out_of_the_preference_loss() -> None:
    tokenizer = chars_tokenizer()
    collator = train.MaskedPreferenceCollator(tokenizer.pad_token_id, 64, frozenset(tokenizer.all_special_ids))
    end = tokenizer.eos_token_id
    batch = collator([{"prompt_ids": [10, 11], "chosen_ids": [12, 13, end], "rejected_ids": [14, end]}])
    assert batch["completion_mask"].tolist() == [[0, 0, 1, 1, 0], [0, 0, 1, 0, 0]]


def test_the_recipe_reaches_trl(tmp_path: Path) -> None:
    dpo = dpo_config(Dpo(beta=0.3, sft_weight=0.2, batch_size=32, micro_batch=4), tmp_path, seed=1, world=2)
    assert (dpo.loss_type, dpo.loss_weights, dpo.beta) == (["sigmoid", "sft"], [1.0, 0.2], 0.3)
    assert (dpo.per_device_train_batch_size, dpo.gradient_accumulation_steps) == (4, 4)
    assert dpo_config(Dpo(sft_weight=0), tmp_path, seed=1, world=1).loss_type == ["sigmoid"]
    assert sft_config(Sft(extra={"neftune_noise_alpha": 5.0}), tmp_path, 1, 1).neftune_noise_alpha == 5.0


@pytest.mark.parametrize(
    ("section", "world", "said"),
    [
        (Sft(extra={"learning_rat": 1}), 1, "did you mean 'learning_rate'"),
        (Sft(extra={"learning_rate": 1}), 1, "recipe's own `sft` keys"),
        (Sft(batch_size=10), 4, "not a multiple of the 4"),
        (Sft(batch_size=10, micro_batch=4), 1, "does not divide"),
        (Sft(scheduler="cosin"), 1, "cosin"),
    ],
)
def test_wrong_options_are_explained(section: Sft, world: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=said):
        sft_config(section, tmp_path, 1, world)


def test_a_checkpoint_with_missing_or_empty_weights_is_refused(tmp_path: Path) -> None:
    model, _ = make_model(ScratchModel.model_validate(TINY))
    model.save_pretrained(tmp_path)
    check_weights(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    name = next(key for key in weights if "down_proj" in key)
    save_file({**weights, name: torch.empty(0)}, file, metadata={"format": "pt"})
    with pytest.raises(StageFailed, match=rf"incomplete: {name} has shape \[0\], not \[64, 128\]"):
        check_weights(tmp_path)
    save_file({key: value for key, value in weights.items() if key != name}, file, metadata={"format": "pt"})
    with pytest.raises(StageFailed, match=f"incomplete: {name} is missing"):
        check_weights(tmp_path)
    file.unlink()
    with pytest.raises(StageFailed, match="no weights"):
        check_weights(tmp_path)


def test_an_accelerate_config_that_could_not_save_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (sharding(), launch_findings()) == ("", [])
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    assert sharding() == "zero3" and "zero3_save_16bit_model" in launch_findings()[0]
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "cpu")
    assert sharding() == "zero3-offload" and launch_findings() == []
    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert sharding() == "fsdp" and "FULL_STATE_DICT`, not SHARDED_STATE_DICT" in launch_findings()[0]


def test_the_memory_estimate_knows_of_shards() -> None:
    def need(section: Sft | Dpo, world: int, how: str) -> float:
        return training_bytes(1000, section, world, how) / 1000

    assert (need(Sft(), 1, ""), need(Sft(), 4, "")) == (16, 16)
    assert (need(Sft(), 4, "zero2"), need(Sft(), 4, "zero3"), need(Sft(), 4, "fsdp")) == (7, 4, 4)
    assert (need(Dpo(), 4, "zero3"), need(Dpo(), 4, "zero3-offload")) == (5, 0)
    assert need(Sft.model_validate({"lora": {}}), 1, "") == 2
