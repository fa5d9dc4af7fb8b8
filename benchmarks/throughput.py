"""Tokens per second of a run's sampling, SFT and DPO, and the share of the device's arithmetic that training used.

    python benchmarks/throughput.py runs/countdown_gpu [--peak-tflops 989] [--json]

It only reads the run's folder. Model FLOPs utilization (MFU) is as in PaLM's appendix B, without the attention
term: 6 FLOPs per parameter and token for a policy's forward and backward pass, 2 more for the forward pass of
DPO's reference; what gradient checkpointing computes again does not count.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from run_timeline import length, read_rounds
from safetensors import safe_open

from flywheel.errors import FlywheelError
from flywheel.files import read_json
from flywheel.rundir import RunDir

PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "B200": 2250.0, "A100": 312.0, "L40S": 362.0, "4090": 165.0, "A10G": 70.0}
"""Dense bfloat16 of one device, in the makers' words (SXM versions)."""
FLOPS_PER_WEIGHT = {"warmup": 6, "sft": 6, "dpo": 8}


def parameters(model: Path) -> int:
    """Weights of a checkpoint folder, from the headers of its files."""
    total = 0
    for file in model.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            total += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return total


def measure(run: RunDir, peak: float | None) -> list[dict[str, Any]]:
    """One row per stage that samples or trains.

    Args:
        run: finished or in progress.
        peak: TFLOPS of all training devices together; None leaves MFU out.

    Returns:
        ``round``, ``stage``, ``tokens``, ``seconds``, ``per_second`` and for training ``mfu`` (None without a peak).
    """
    rows = []
    for made in read_rounds(run.path):
        for name in ("warmup", "samples", "sft", "dpo"):
            stage = run.stage(made.number, name)
            if not stage.committed or "skipped" in stage.info():
                continue
            mfu = None
            if name == "samples":
                spans = [s.interval for s in made.spans if s.stage == "samples" and s.phase == "sample"]
                tokens, seconds = stage.info()["attempt"]["tokens"], length(spans)
            else:
                tokens = max(entry.get("num_tokens", 0) for entry in read_json(stage.path / "log.json"))
                seconds = stage.info()["train_seconds"]
                if peak is not None:
                    flops = FLOPS_PER_WEIGHT[name] * parameters(stage.path / "model") * tokens
                    mfu = flops / seconds / (peak * 1e12)
            rate = tokens / seconds if seconds else 0.0
            rows.append(
                {
                    "round": made.number,
                    "stage": name,
                    "tokens": int(tokens),
                    "seconds": round(seconds, 2),
                    "per_second": round(rate, 1),
                    "mfu": mfu,
                }
            )
    return rows


def peak_here() -> float | None:
    """TFLOPS of one of this machine's GPUs; None if there is none, or one that the table does not know."""
    try:
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        name = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return next((peak for key, peak in PEAK_TFLOPS.items() if re.search(rf"\b{key}\b", name)), None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--devices", type=int, default=1, help="that trained (default: %(default)s)")
    parser.add_argument("--peak-tflops", type=float, help="of one of them (default: by this machine's GPU)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    each = args.peak_tflops or peak_here()
    try:
        rows = measure(RunDir.existing(args.run.resolve()), each * args.devices if each else None)
    except (FlywheelError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    table = Table(box=box.SIMPLE)
    for column in ("round", "stage", "tokens", "seconds", "tokens/s", "MFU"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for row in rows:
        mfu = "" if row["mfu"] is None else f"{row['mfu']:.1%}"
        told = (f"{row['tokens']:,}", f"{row['seconds']:.1f}", f"{row['per_second']:,.0f}", mfu)
        table.add_row(str(row["round"]), row["stage"], *told)
    Console(highlight=False).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
