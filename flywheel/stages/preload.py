"""Everything that a worker may run, for the forkserver to import before the first one is needed."""

import flywheel.stages.curate
import flywheel.stages.evaluate
import flywheel.stages.problems
import flywheel.stages.sampler
import flywheel.stages.verifier
import flywheel.training.preload  # noqa: F401
