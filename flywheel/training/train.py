"""The training worker: one stage, one process per rank, one TRL trainer.

``sft(payload, report)`` and ``dpo(payload, report)`` leave a plain Hugging Face folder in
``WORK/model`` and return the stage's numbers. Killed, they continue from the Trainer's last complete
checkpoint; on a CPU the result is bit for bit that of an uninterrupted run.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import DistributedType, PartialState
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, Trainer, set_seed
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from flywheel.devices import sharding
from flywheel.engines.checkpoint import adapter_of, load_tokenizer, load_weights, loading_errors, make_model
from flywheel.errors import UserError
from flywheel.files import write_json
from flywheel.recipe import Dpo, ScratchModel, Sft, Training, Warmup
from flywheel.training.callbacks import CompleteCheckpoints, Progress, newest_checkpoint, peak_memory
from flywheel.training.config import dpo_config, lora_config, sft_config
from flywheel.training.data import dpo_dataset, sft_dataset
from flywheel.training.save import save_checkpoint
from flywheel.training.speed import PaddingCollator, forget_padding, recomputes
from flywheel.workers import Report


def sft(payload: dict[str, Any], report: Report) -> dict[str, Any]:
    """Supervised fine-tuning.

    Payload: ``section`` (recipe), ``model`` (folder, hub id or scratch spec), ``chat_template``,
    ``data`` (Parquet file), ``work`` (folder), ``seed``, ``rank``, ``world``.
    """
    section = (Warmup if "problems" in payload["section"] else Sft).model_validate(payload["section"])
    with report.span("load"):
        # Before the model: under ZeRO-3, TRL's arguments are what makes it load in shards.
        arguments = sft_config(section, _scratch(payload), payload["seed"], payload["world"])
        shard_on_cpus_too()
        model, tokenizer = _load(payload, section)
    with report.span("tokenize"):
        data = sft_dataset(Path(payload["data"]), tokenizer, section.max_length)
        _refuse_empty(data, section)
    with report.span("load"):
        _hasten(arguments, section, model, data, payload["world"])
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=None if isinstance(model, PeftModel) else lora_config(section.lora),
        )
        trainer.data_collator = PaddingCollator.instead_of(trainer.data_collator)
    return _train(trainer, payload, section, tokenizer, report)


def dpo(payload: dict[str, Any], report: Report) -> dict[str, Any]:
    """Direct preference optimization; the payload as for ``sft``, plus ``reference`` (a checkpoint)."""
    section = Dpo.model_validate(payload["section"])
    with report.span("load"):
        arguments = dpo_config(section, _scratch(payload), payload["seed"], payload["world"])  # before the model, too
        shard_on_cpus_too()
        model, tokenizer = _load(payload, section)
        reference = _reference(payload["reference"], model.dtype)
        if torch.cuda.is_available():
            forget_padding(reference)
    with report.span("tokenize"):
        data = dpo_dataset(Path(payload["data"]), tokenizer, section.max_length)
        _refuse_empty(data, section)
    with report.span("load"):
        _hasten(arguments, section, model, data, payload["world"])
        collator = None
        if section.mask_special_tokens:
            collator = MaskedPreferenceCollator(
                pad_token_id=tokenizer.pad_token_id,
                max_length=section.max_length,
                special=frozenset(tokenizer.all_special_ids),
            )
        trainer = TokenizedDPOTrainer(
            model=model,
            ref_model=reference,
            args=arguments,
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=None if isinstance(model, PeftModel) else lora_config(section.lora),
            data_collator=collator,
        )
    return _train(trainer, payload, section, tokenizer, report)


class TokenizedDPOTrainer(DPOTrainer):
    """TRL's trainer on pairs that ``dpo_dataset`` has tokenized; its SFT trainer takes such rows as they are."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset


class MaskedPreferenceCollator(DataCollatorForPreference):
    """Leaves template and end tokens out of the loss of both responses (Llama 3 §4.1.4).

    With them in, the shared tokens of chosen and rejected pull against each other, which shows as
    repeated tails or abrupt stops.
    """

    def __init__(self, pad_token_id: int, max_length: int | None, special: frozenset[int]) -> None:
        super().__init__(pad_token_id=pad_token_id, max_length=max_length)
        self._special = torch.tensor(sorted(special))

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().torch_call(examples)
        batch["completion_mask"] = batch["completion_mask"] * ~torch.isin(batch["input_ids"], self._special)
        return batch


def _load(payload: dict[str, Any], section: Training) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """The model to train: an adapter folder's adapter goes on as it is, unless all weights are to be trained."""
    set_seed(payload["seed"])
    if section.threads is not None:
        torch.set_num_threads(section.threads)
    source = payload["model"]
    if isinstance(source, dict):
        return make_model(ScratchModel.model_validate(source))
    tokenizer = load_tokenizer(source, payload["chat_template"])
    # Full fine-tuning keeps its master weights in float32; a frozen base under adapters need not.
    dtype = torch.bfloat16 if section.lora is not None and torch.cuda.is_available() else torch.float32
    base, rank = adapter_of(source)
    if not rank or section.lora is None:
        return load_weights(source, dtype=dtype), tokenizer
    model = load_weights(base, dtype=dtype)
    with loading_errors(source):
        return PeftModel.from_pretrained(model, source, is_trainable=True), tokenizer


def _reference(source: str, dtype: torch.dtype) -> PreTrainedModel:
    """DPO's reference. An adapter stays unmerged: under ZeRO-3 no rank has the weights to merge it with."""
    with loading_errors(source):
        reference: PreTrainedModel = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    return reference


def _hasten(
    arguments: SFTConfig | DPOConfig, section: Training, model: PreTrainedModel | PeftModel, data: Dataset, world: int
) -> None:
    """What can be decided once the model and the rows are known."""
    micro = arguments.per_device_train_batch_size
    arguments.gradient_checkpointing = recomputes(section, model, data, micro, world)
    if torch.cuda.is_available():
        forget_padding(model)


def _refuse_empty(data: Dataset, section: Training) -> None:
    if len(data) == 0:
        raise UserError(
            f"no row has a completion within max_length {section.max_length} tokens: the prompts alone are longer",
            hint="raise max_length of this training section",
        )


def _scratch(payload: dict[str, Any]) -> Path:
    """The Trainer's folder. It is bound to processes and backend: optimizer shards do not move."""
    work = Path(payload["work"])
    scratch = work / f".trainer.{payload['world']}.{sharding()}".rstrip(".")
    for other in work.glob(".trainer.*"):
        if other != scratch and payload["rank"] == 0:
            print(f"{other.name} is of another number or kind of processes: the stage starts from its input model")
            shutil.rmtree(other)
    scratch.mkdir(exist_ok=True)
    return scratch


def shard_on_cpus_too() -> None:
    """Let FSDP run without accelerators, where accelerate would quietly train by plain data parallelism instead.

    It reads FSDP's settings only for ranks that are of some GPU's kind; nothing that FSDP2 does needs one.
    """
    shared = PartialState._shared_state
    if sharding().startswith("fsdp") and shared.get("distributed_type") == DistributedType.MULTI_CPU:
        shared["distributed_type"] = DistributedType.MULTI_GPU


def _backend_in_use(trainer: Trainer) -> str:
    """What accelerate made of its config."""
    state = trainer.accelerator.state
    stage = trainer.accelerator.deepspeed_plugin.zero_stage if trainer.is_deepspeed_enabled else ""
    name = {"DEEPSPEED": f"zero{stage}", "FSDP": "fsdp", "NO": "one process"}.get(state.distributed_type.name, "ddp")
    return f"{name}, {state.num_processes} ranks"


def _train(
    trainer: Trainer, payload: dict[str, Any], section: Training, tokenizer: PreTrainedTokenizerBase, report: Report
) -> dict[str, Any]:
    trainer.add_callback(Progress(report))
    trainer.add_callback(CompleteCheckpoints(payload["rank"]))
    how = "recomputed" if trainer.args.gradient_checkpointing else "kept"
    print(f"training backend: {_backend_in_use(trainer)}; activations are {how}", flush=True)
    resume = newest_checkpoint(_scratch(payload), payload["world"], payload["rank"])
    if resume is not None:
        print(f"resuming from {resume}")
    with report.span("train"):
        result = trainer.train(resume_from_checkpoint=resume)
    with report.span("save"):
        save_checkpoint(trainer, section, payload, tokenizer)
    history = trainer.state.log_history
    logs = [entry for entry in history if "loss" in entry] or history
    if payload["rank"] == 0:
        write_json(Path(payload["work"]) / "log.json", history)
    last = {k: v for k, v in (logs[-1] if logs else {}).items() if isinstance(v, int | float)}
    return {
        "steps": trainer.state.global_step,
        "rows": len(cast(Dataset, trainer.train_dataset)),
        "train_seconds": round(result.metrics["train_runtime"], 3),
        "last": last,
        **peak_memory(),
    }
