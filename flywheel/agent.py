"""An agent's life: open the run, meet the peers, turn the wheel, leave the folder in a clean state."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from flywheel.devices import alone, launch_findings, replicas, sharding
from flywheel.engines import modules
from flywheel.errors import DiskFull, FlywheelError, Interrupted, RecipeError, StageFailed
from flywheel.loop import run_rounds
from flywheel.recipe import Recipe
from flywheel.recipe_file import load_recipe
from flywheel.rundir import RunDir, fork
from flywheel.session import Rank, Session
from flywheel.stages.context import Context
from flywheel.tracking import Screen, Tracker
from flywheel.workers import run_all, spawn, start_forkserver, stop_all

PRELOAD = ("flywheel.stages.preload",)
log = logging.getLogger("flywheel")


@dataclass(frozen=True)
class Order:
    """What ``flywheel run`` was asked to do.

    Attributes:
        recipe: path of the recipe.
        overrides: ``key=value`` strings.
        run_dir: the run's folder; None is ``runs/NAME``.
        repair: set damaged stages aside and make them again.
        fork_from: share this run's rounds up to that one with a new folder.
    """

    recipe: Path
    overrides: list[str]
    run_dir: Path | None = None
    repair: bool = False
    fork_from: int | None = None


def run(order: Order, screen: Screen) -> RunDir:
    """Start or resume a run, and see it through.

    Raises:
        FlywheelError: see ``flywheel.errors``; the run folder is resumable after each of them.
    """
    rank = Rank.from_env()
    with _signals_raise(rank):
        recipe = load_recipe(order.recipe, order.overrides)
        base = order.recipe.resolve().parent
        replicas(rank, recipe.engine.tensor_parallel, recipe.engine.cpu_replicas)
        template_of(recipe, base)
        run_dir = RunDir(_folder(order, recipe, rank))
        start_forkserver(PRELOAD, also=modules(recipe.engines()))
        session = Session(run_dir.path / "session", rank)
        if rank.leads:
            with _full_disk_is_said(run_dir.path):
                _open(run_dir, session, order, recipe, base, screen)
        try:
            with _full_disk_is_said(run_dir.path):
                session.join()
                _turn(run_dir, recipe, base, rank, session, screen)
            session.leave()
        except BaseException as error:
            stop_all()
            if isinstance(error, Interrupted | StageFailed) and (peer := session.explain()) is not None:
                error = peer  # the launcher, or the loss of its peer, ended this rank
            with suppress(OSError):  # on a full disk the first error is the one to tell
                _record(error, run_dir, rank, session)
            raise error
        finally:
            session.close()
            if rank.leads:
                run_dir.release()
    return run_dir


def _record(error: BaseException, run_dir: RunDir, rank: Rank, session: Session) -> None:
    """Tell the peers and ``flywheel status`` why this rank stops."""
    why = f"{type(error).__name__}: {error}"
    if isinstance(error, FlywheelError):
        why = error.message
        session.fail(error)
    if rank.leads:
        run_dir.set_state("interrupted" if isinstance(error, Interrupted) else "failed", why)


@contextmanager
def _full_disk_is_said(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not DiskFull.caused(error, folder):
            raise
        raise DiskFull.of(folder) from error


def _turn(run_dir: RunDir, recipe: Recipe, base: Path, rank: Rank, session: Session, screen: Screen) -> None:
    logs = (run_dir.path / "logs" / "latest").resolve()
    _log_to(logs / f"rank{rank.index}.log")
    tracker = Tracker(run_dir, recipe, active=rank.leads)
    failed = True
    try:
        with screen:
            ctx = Context(recipe, base, run_dir, rank, session, screen, tracker, logs)
            if rank.leads and not run_dir.committed():
                refuse(inspect(recipe, base, rank.world, logs / "preflight.log")["findings"])
            run_rounds(ctx)
        if rank.leads:
            run_dir.set_state("finished")
        failed = False
    finally:
        tracker.close(failed)


def inspect(recipe: Recipe, base: Path, world: int, worker_log: Path) -> dict[str, list[str]]:
    """Preflight: ``findings`` and ``notes`` of a recipe, from a worker."""
    model = recipe.model_dump(mode="json")["model"]
    if isinstance(model, str) and (base / model).is_dir():
        model = str((base / model).resolve())
    payload = {
        "recipe": recipe.model_dump(mode="json"),
        "base": str(base),
        "model": model,
        "chat_template": template_of(recipe, base),
        "world": world,
        "sharding": sharding(),
    }
    worker = spawn("flywheel.stages.preflight:work", payload, name="preflight", log=worker_log, env=alone())
    result: dict[str, list[str]] = run_all([worker])[0]
    return {**result, "findings": launch_findings() + result["findings"]}


def refuse(findings: list[str]) -> None:
    """Raise all findings as one error, if there are any."""
    if findings:
        listed = "\n".join(f"  {finding}" for finding in findings)
        raise RecipeError(f"this recipe cannot run:\n{listed}", hint="mend it and ask again: flywheel check RECIPE")


def template_of(recipe: Recipe, base: Path) -> str | None:
    """The recipe's chat template.

    Raises:
        RecipeError: the file cannot be read.
    """
    if recipe.chat_template is None:
        return None
    try:
        return (base / recipe.chat_template).read_text()
    except OSError as error:
        raise RecipeError(f"chat_template: {error}") from error


def _open(run_dir: RunDir, session: Session, order: Order, recipe: Recipe, base: Path, screen: Screen) -> None:
    """Rank 0: lock, check and prepare the folder."""
    run_dir.acquire()
    try:
        session.open()
        if order.repair and (run_dir.path / "run.json").exists():
            run_dir.header()
            for moved in run_dir.repair():
                screen.say(f"set aside: {moved}")
        run_dir.prepare(recipe, order.recipe.read_text(), base)
        run_dir.check()
        attempt = run_dir.new_attempt()
        run_dir.set_state("running")
    except BaseException as error:
        if isinstance(error, FlywheelError):
            session.fail(error)
        run_dir.release()
        raise
    done = len(run_dir.committed())
    screen.say(f"{run_dir.path}: " + (f"resuming after {done} finished stages" if done else "a new run"))
    screen.say(f"  logs: tail -F {run_dir.path / 'logs' / 'latest'}/*.log   (attempt {attempt.name[8:]})")


def _folder(order: Order, recipe: Recipe, rank: Rank) -> Path:
    path = (order.run_dir or Path("runs") / recipe.name).resolve()
    if order.fork_from is None:
        return path
    source = RunDir.existing((Path("runs") / recipe.name).resolve() if order.run_dir is None else path)
    target = source.path.with_name(f"{source.path.name}-fork{order.fork_from}")
    if rank.leads and not (target / "run.json").exists():
        fork(source, target, order.fork_from)
    return target


def _log_to(file: Path) -> None:
    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
    logging.raiseExceptions = False  # a log that cannot be written is no reason for a traceback


@contextmanager
def _signals_raise(rank: Rank) -> Iterator[None]:
    """The first SIGINT or SIGTERM raises ``Interrupted`` in the main thread; later ones are ignored: it is ending."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        # A second signal while we clean up must not break the cleaning.
        for sig in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sig, signal.SIG_IGN)
        raise Interrupted(
            f"interrupted by {signal.Signals(number).name}; nothing is lost", hint="the same command resumes"
        )

    before: dict[int, Any] = {sig: signal.signal(sig, interrupt) for sig in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except BaseException as error:
        # `timeout` and Slurm signal again, and a launcher ends all ranks as soon as one stops; what this one has to
        # say, and its exit status, must still come out.
        if rank.world > 1 or isinstance(error, Interrupted):
            before = dict.fromkeys(before, signal.SIG_IGN)
        raise
    finally:
        for sig, handler in before.items():
            signal.signal(sig, handler)


def is_quiet_rank() -> bool:
    """Only rank 0 speaks to the user."""
    return os.environ.get("RANK", "0") != "0"
