"""Where the numbers go: the run folder always, the screen, and Weights & Biases if asked."""

from flywheel.tracking.screen import Bar, Screen
from flywheel.tracking.tracker import Tracker

__all__ = ["Bar", "Screen", "Tracker"]
