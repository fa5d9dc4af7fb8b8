"""Mathematics with checked answers: GSM8K, MATH, or a dataset of one's own."""

from flywheel.tasks.math.task import Math

__all__ = ["Math"]
