"""Everything that a worker may run, for the forkserver to import before the first one is needed.

Importing takes seconds, during which the forkserver does not see its agent's end; the kernel does. The
garbage collector has nothing to find in modules that stay: without it they load faster, stay shared
between the workers, and the forkserver leaves at once.
"""
# ruff: noqa: E402

import atexit
import gc
import importlib
import os
import signal

from flywheel.workers import PRELOAD_ALSO, die_with_parent

die_with_parent(signal.SIGKILL)
# The first to be registered is the last to run: libraries that would take leave of an idle forkserver, seconds
# long and loudly, are spared it.
atexit.register(os._exit, 0)
gc.disable()

import flywheel.stages.curate
import flywheel.stages.evaluate
import flywheel.stages.problems
import flywheel.stages.sampler
import flywheel.stages.verifier
import flywheel.training.preload  # noqa: F401

for module in os.environ.pop(PRELOAD_ALSO, "").split():
    importlib.import_module(module)

gc.freeze()
gc.enable()
# Workers build hundreds of thousands of rows that hold no cycles; looking for some took a third of their time.
gc.set_threshold(100_000, 20, 100)
# From here on its workers' pipes keep it alive until all of them are gone, and then it leaves in order.
die_with_parent(0)
