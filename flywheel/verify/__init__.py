"""Verification that tasks share: what says of a completion how good it is."""

from flywheel.verify.judge import Judgement, Rubric, judge, load_rubric, rubric_names

__all__ = ["Judgement", "Rubric", "judge", "load_rubric", "rubric_names"]
