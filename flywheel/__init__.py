"""Flywheel: a language model that improves itself in verified rounds.

``import flywheel`` is light on purpose: it loads neither torch nor vllm (a test holds this).
"""

__version__ = "0.1.0"
