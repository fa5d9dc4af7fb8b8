"""One stream of numbers per run: ``metrics.jsonl`` always, and one W&B run if the recipe asks.

W&B refuses steps that go back, which a resumed run's do. So nothing uses its own step: rounds have the
axis ``round`` and training has ``sft/step`` and ``dpo/step``, counted over the whole run.
"""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path
from typing import Any

from flywheel.files import read_json, write_json
from flywheel.recipe import Recipe
from flywheel.rundir import RunDir, dump_jsonl

log = logging.getLogger("flywheel")
TRAINING = ("warmup", "sft", "dpo")


class Tracker:
    """Numbers out. Only rank 0 has one that does anything.

    Args:
        run: the run's folder.
        recipe: its ``track`` section says where to.
        active: False on other ranks.
    """

    def __init__(self, run: RunDir, recipe: Recipe, active: bool) -> None:
        self._run = run
        self._active = active
        self._path = run.path / "metrics.jsonl"
        self._wandb: Any = None
        self._offset = dict.fromkeys(TRAINING, 0)
        if active:
            for stage in run.committed():
                if stage.name in TRAINING:
                    self._offset[stage.name] += int(stage.info().get("steps", 0))
            if recipe.track.wandb is not None and recipe.track.wandb.mode != "disabled":
                self._open_wandb(recipe)

    def _open_wandb(self, recipe: Recipe) -> None:
        import wandb

        section = recipe.track.wandb
        assert section is not None
        id_file = self._run.path / "wandb.json"
        run_id = read_json(id_file)["id"] if id_file.exists() else secrets.token_hex(4)
        mode = section.mode
        if mode == "auto":
            mode = "online" if os.environ.get("WANDB_API_KEY") or _logged_in() else "offline"
        self._wandb = wandb.init(
            project=section.project,
            entity=section.entity,
            name=recipe.name,
            id=run_id,
            resume="allow" if mode == "online" else None,
            mode=mode,
            dir=str(self._run.path),
            config=recipe.model_dump(mode="json"),
            settings=wandb.Settings(silent=True, console="off"),
        )
        write_json(id_file, {"id": run_id, "project": section.project, "mode": mode})
        self._wandb.define_metric("round")
        self._wandb.define_metric("*", step_metric="round")
        for stage in TRAINING:
            self._wandb.define_metric(f"{stage}/step")
            self._wandb.define_metric(f"{stage}/*", step_metric=f"{stage}/step")

    def train(self, stage: str, round: int, step: int, values: dict[str, Any]) -> None:
        """Numbers of one trainer step."""
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        row = {f"{stage}/{key}": value for key, value in numbers.items()}
        self._send({"round": round, **row, f"{stage}/step": self._offset[stage] + step})

    def trained(self, stage: str, steps: int) -> None:
        """A training stage is committed: the next one's steps follow on."""
        self._offset[stage] += steps

    def round(self, summary: dict[str, Any]) -> None:
        """A finished round: its evaluation metrics by name, and the funnel's counts."""
        counts = {f"counts/{key}": value for key, value in summary["counts"].items()}
        seconds = {f"seconds/{key}": value for key, value in summary["seconds"].items()}
        self._send(
            {"round": summary["round"], "promoted": int(summary["promoted"]), **summary["metrics"], **counts, **seconds}
        )

    def funnel(self, round: int, funnel: list[dict[str, Any]]) -> None:
        """A round's curation: per filter the rows that came in, stayed, and went for each reason."""
        row: dict[str, Any] = {"round": round}
        for step in funnel:
            name = f"funnel/{step['filter']}"
            row |= {f"{name}/rows_in": step["rows_in"], f"{name}/kept": step["kept"]}
            row |= {f"{name}/dropped: {reason}": count for reason, count in step["dropped"].items()}
        self._send(row)

    def _send(self, row: dict[str, Any]) -> None:
        if not self._active:
            return
        dump_jsonl(self._path, row)
        if self._wandb is not None:
            self._wandb.log(row)

    def close(self, failed: bool = False) -> None:
        if self._wandb is not None:
            self._wandb.finish(exit_code=1 if failed else 0)
            self._wandb = None


def _logged_in() -> bool:
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    try:
        return "api.wandb.ai" in netrc.read_text()
    except OSError:
        return False
