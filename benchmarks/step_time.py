"""Milliseconds of one training step, and MFU, by a model of a recipe's shape with random weights.

    python benchmarks/step_time.py sft [micro_batch=32 gradient_checkpointing=false extra.use_liger_kernel=true …]
    python benchmarks/step_time.py dpo batch_size=32 micro_batch=16

The trainer is the one of flywheel's stages; keys are those of the recipe's ``sft:`` and ``dpo:``. Rows have a prompt of
256 letters and an answer of 128 to 256. The median step counts, the first two and the writing of the model do not.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import string
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from throughput import FLOPS_PER_WEIGHT, peak_here

from flywheel.engines.checkpoint import make_model
from flywheel.files import read_json, write_rows
from flywheel.recipe import Dpo, ScratchModel, Sft
from flywheel.stages.schemas import PAIRS, SFT
from flywheel.training import train

HERE = Path(__file__).parent
SKIPPED = 2


class Quiet:
    """Stands where a worker would report to its agent."""

    def __call__(self, kind: str, **values: Any) -> None:
        pass

    def span(self, phase: str) -> Any:
        return nullcontext()


class Clock(train.Progress):
    """Notes when each step ended, on the device as well."""

    ended: ClassVar[list[float]] = []

    def on_step_end(self, *args: Any, **more: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ended.append(time.perf_counter())


def write_data(folder: Path, rows: int, prompt: int, shortest: int, longest: int) -> None:
    draw = random.Random(0)

    def said(role: str, letters: int) -> list[dict[str, str]]:
        return [{"role": role, "content": "".join(draw.choices(string.ascii_letters, k=letters))}]

    def answer() -> list[dict[str, str]]:
        return said("assistant", draw.randint(shortest, longest))

    sft = [{"row_id": str(i), "prompt": said("user", prompt), "completion": answer()} for i in range(rows)]
    dpo = [
        {"pair_id": str(i), "prompt": said("user", prompt), "chosen": answer(), "rejected": answer()}
        for i in range(rows)
    ]
    write_rows(folder / "sft.parquet", [{**dict.fromkeys(SFT.names), **row} for row in sft], SFT)
    write_rows(folder / "dpo.parquet", [{**dict.fromkeys(PAIRS.names), **row} for row in dpo], PAIRS)


def measure(kind: str, values: dict[str, Any], recipe: Path, steps: int, peak: float | None) -> dict[str, Any]:
    spec = ScratchModel.model_validate(yaml.safe_load(recipe.read_text())["model"])
    section = (Dpo if kind == "dpo" else Sft).model_validate({"max_steps": steps, **values})
    train.Progress = Clock  # type: ignore[misc]
    train.save_checkpoint = lambda *_: None
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_data(folder, steps * section.batch_size, 256, 128, 256)
        (work := folder / "work").mkdir()
        model, tokenizer = make_model(spec)
        weights = sum(p.numel() for p in model.parameters())
        model.to(torch.bfloat16).save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        payload = {"section": section.model_dump(mode="json"), "model": str(folder / "model"), "seed": 0}
        payload |= {"reference": payload["model"], "data": str(folder / f"{kind}.parquet"), "work": str(work)}
        payload |= {"chat_template": None, "rank": 0, "world": 1}
        info = getattr(train, kind)(payload, Quiet())
        tokens = max(entry.get("num_tokens", 0) for entry in read_json(work / "log.json")) / info["steps"]
    gaps = [after - before for before, after in zip(Clock.ended[SKIPPED:], Clock.ended[SKIPPED + 1 :], strict=False)]
    step = statistics.median(gaps)
    mfu = FLOPS_PER_WEIGHT[kind] * weights * tokens / step / (peak * 1e12) if peak else None
    return {
        "milliseconds": round(1000 * step, 1),
        "spread": [round(1000 * min(gaps), 1), round(1000 * max(gaps), 1)],
        "tokens": round(tokens),
        "per_second": round(tokens / step),
        "mfu": None if mfu is None else round(mfu, 4),
        "peak_gpu_gib": info.get("peak_gpu_gib"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("sft", "dpo"))
    parser.add_argument("values", nargs="*", metavar="key=value")
    parser.add_argument("--recipe", type=Path, default=HERE / "speed.yaml", help="whose model (default: speed.yaml)")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--peak-tflops", type=float, help="of the device (default: by its name)")
    asked = parser.parse_intermixed_args()
    values: dict[str, Any] = {"extra": {}}
    for pair in asked.values:
        key, _, text = pair.partition("=")
        into = values["extra"] if key.startswith("extra.") else values
        into[key.removeprefix("extra.")] = yaml.safe_load(text)
    peak = asked.peak_tflops or peak_here()
    print(json.dumps(measure(asked.kind, values, asked.recipe, asked.steps, peak)))


if __name__ == "__main__":
    main()
