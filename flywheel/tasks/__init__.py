"""Tasks that ship with flywheel, and the loader of users' own."""

from flywheel.tasks.base import BaseTask, Policy, Task, close_task, open_task, time_limit
from flywheel.tasks.load import BUILTIN, load_task

__all__ = ["BUILTIN", "BaseTask", "Policy", "Task", "close_task", "load_task", "open_task", "time_limit"]
