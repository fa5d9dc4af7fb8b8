"""Programs written by the policy, and judged by running them."""

from flywheel.tasks.code.task import Code

__all__ = ["Code"]
