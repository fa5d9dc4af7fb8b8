"""What every stage needs: the recipe, the run folder, this rank, and how to start a worker."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flywheel.devices import alone
from flywheel.errors import RecipeChanged
from flywheel.files import digest
from flywheel.recipe import Recipe
from flywheel.recipe_keys import select
from flywheel.rundir import RunDir, dump_jsonl
from flywheel.session import Rank, Session
from flywheel.stagedir import StageDir
from flywheel.tracking import Bar, Screen, Tracker
from flywheel.workers import Worker, run_all, spawn


@dataclass(frozen=True)
class Checkpoint:
    """A policy on disk: where, the round that made it, and a hash of how it was made.

    ``path`` is a folder, a hub id, or a scratch model's spec (before the warm-up).
    """

    path: str | dict[str, Any]
    round: int
    identity: str


@dataclass
class Context:
    """One agent at work on one run."""

    recipe: Recipe
    base: Path
    run: RunDir
    rank: Rank
    session: Session
    screen: Screen
    tracker: Tracker
    logs: Path
    resolved: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.resolved = self.recipe.model_dump(mode="json")

    # -- the recipe as stages use it ---------------------------------------------------------------

    def inputs(self, keys: tuple[str, ...], parents: dict[str, str]) -> dict[str, Any]:
        """What a stage's result depends on: recipe keys (dotted), and the identities of its parents."""
        if self.recipe.chat_template and "chat_template" in keys:
            parents = {**parents, "chat_template": digest(self.chat_template())}
        return {"recipe": select(self.resolved, keys), "parents": parents}

    def origin(self) -> str | dict[str, Any]:
        """The recipe's model: a spec, a folder (made absolute) or a hub id."""
        model = self.resolved["model"]
        if isinstance(model, str) and (self.base / model).is_dir():
            return str((self.base / model).resolve())
        assert isinstance(model, str | dict)
        return model

    def initial(self) -> Checkpoint:
        return Checkpoint(self.origin(), 0, digest(self.resolved["model"]))

    def is_ours(self, checkpoint: Checkpoint) -> bool:
        """Whether this run made the checkpoint (and it is not the recipe's own model)."""
        return isinstance(checkpoint.path, str) and Path(checkpoint.path).is_relative_to(self.run.path)

    def shown(self, checkpoint: Checkpoint) -> str:
        """The checkpoint as ``round.json`` names it: relative to the run folder if it is inside."""
        if self.is_ours(checkpoint):
            return str(Path(str(checkpoint.path)).relative_to(self.run.path))
        return str(checkpoint.path)

    def chat_template(self) -> str | None:
        """Source of the recipe's chat template."""
        return (self.base / self.recipe.chat_template).read_text() if self.recipe.chat_template else None

    def task_payload(self) -> dict[str, Any]:
        return {**self.resolved["task"], "base": str(self.base)}

    # -- stages ------------------------------------------------------------------------------------

    def lead(
        self, stage: StageDir, inputs: dict[str, Any], build: Callable[[Path], dict[str, Any]], announce: str = ""
    ) -> StageDir:
        """Rank 0 makes a stage while the others wait for its commit.

        Args:
            stage: what to make; nothing happens if it is committed.
            inputs: as from ``inputs``.
            build: fills the work folder and returns what the stage records of itself.
            announce: a line to say before the work starts.
        """
        if self.reuse(stage, inputs):
            return stage
        if not self.rank.leads:
            return self.await_commit(stage)
        if announce:
            self.screen.say(announce)
        started = time.time()
        info = build(stage.begin(inputs))
        self.commit(stage, inputs, info, started)
        return stage

    def reuse(self, stage: StageDir, inputs: dict[str, Any]) -> bool:
        """Whether a stage is finished, from the very parents that it would have now.

        Raises:
            RecipeChanged: it was made from others, because something before it was edited.
        """
        if not stage.committed:
            return False
        recorded = stage.manifest()["inputs"]["parents"]
        if recorded != inputs["parents"]:
            names = sorted(k for k in {*recorded, *inputs["parents"]} if recorded.get(k) != inputs["parents"].get(k))
            before = max(0, int(stage.round_dir.name) - 1)
            raise RecipeChanged(
                f"{stage.label} is finished, but was made from another {', '.join(names)} than the recipe now gives",
                hint=f"undo the edit, use --fork-from {before} to share the rounds before it, or another --run-dir",
            )
        return True

    def commit(self, stage: StageDir, inputs: dict[str, Any], info: dict[str, Any], started: float) -> None:
        begun = time.time()
        stage.commit(inputs, info, begun - started)
        self.run.record(stage)
        self.span(stage, "agent", {"phase": "commit", "start": begun, "end": time.time()})
        self.span(stage, "agent", {"phase": "stage", "start": started, "end": time.time()})

    def await_commit(self, stage: StageDir) -> StageDir:
        self.session.wait(lambda: stage.committed, f"rank 0 to finish {stage.label}")
        return stage

    def meet(self, folder: Path, what: str) -> None:
        """Say that this rank's workers have left a folder of a stage in work; rank 0 waits until all ranks say so.

        Its commit renames the folder, which must not happen under the hands of a rank that is a moment behind.
        """
        marks = [folder / f".done.{self.session.id}.{rank}" for rank in range(self.rank.world)]
        marks[self.rank.index].touch()
        if self.rank.leads:
            self.session.wait(lambda: all(mark.exists() for mark in marks), f"the other ranks to end {what}")

    # -- workers -----------------------------------------------------------------------------------

    def start(
        self,
        stage: StageDir,
        target: str,
        payload: dict[str, Any],
        *,
        suffix: str = "",
        env: dict[str, str | None] | None = None,
        on_message: Callable[[str, dict[str, Any]], None] | None = None,
    ) -> Worker:
        """Start a worker for a stage; its spans go to the timeline, the rest to ``on_message``."""
        who = f"{stage.name}{suffix}"
        self.session.at(stage.label)

        def receive(kind: str, values: dict[str, Any]) -> None:
            if kind == "span":
                self.span(stage, who, values)
            elif on_message is not None:
                on_message(kind, values)

        round_name = stage.round_dir.name
        return spawn(
            target,
            payload,
            name=f"rank {self.rank.index}: {stage.label}{suffix}",
            log=self.logs / f"rank{self.rank.index}.{round_name}.{who}.log",
            env=env,
            on_message=receive,
        )

    def finish(self, *workers: Worker) -> list[Any]:
        """Wait for workers while watching the peers."""
        return run_all(list(workers), tick=self.session.check_peers)

    def run_worker(self, stage: StageDir, target: str, payload: dict[str, Any]) -> Any:
        """Start one worker, outside the launcher's process group, and wait for its result."""
        return self.finish(self.start(stage, target, payload, env=alone()))[0]

    def span(self, stage: StageDir, worker: str, values: dict[str, Any]) -> None:
        """One row of the timeline: who was busy with what, when."""
        row = {"rank": self.rank.index, "round": int(stage.round_dir.name), "stage": stage.name, "worker": worker}
        dump_jsonl(self.run.path / f"timeline.rank{self.rank.index}.jsonl", {**row, **values})

    def bar(self, stage: StageDir, what: str, unit: str) -> Bar:
        return self.screen.bar(f"round {int(stage.round_dir.name)} {what}", unit)
