"""Where programs of the other languages get chance from; Python's are looked at more closely (``python_suspects.py``).

A program that forges its pass in some runs and not in others has to toss a coin. Words that can toss one make it a
suspect, which costs it a few more runs. The list cannot be complete: it raises what chance alone can gain.
"""

from __future__ import annotations

import re
from functools import cache

_ANYWHERE = (
    r"rand|entropy|uuid|guid|shuffle|seed|crypto|time|clock|date|instant|chrono|\bnow\b|nano|tick|performance"
    r"|pid|process|thread|async|atomic|/dev/|/proc|environ|getenv|%p|0x%|asm\b|rdtsc|eval"
)
_OF_ITS_OWN = {
    "bash": r"\$\$|SECONDS|EPOCH|&\s*$|\bwait\b",
    "c": r"\)\s*&|intptr|size_t\)|\bfork\b",
    "cpp": r"\)\s*&|intptr|size_t\)|_cast|\bfork\b|hash",
    "go": r"map\[|\bgo\b|select|unsafe|maphash",
    "java": r"identityHash|hashCode|ProcessHandle|Runtime|GarbageC",
    "javascript": r"Date|Worker|memoryUsage",
    "lua": r"tostring|collectgarbage|%s",
    "perl": r"\$\$|\\[@%$&{]|refaddr|\bkeys\b|\beach\b",
    "php": r"spl_object|mt_|lcg|memory_get",
    "ruby": r"object_id|__id__|\.hash\b|inspect|GC\.|\$\$",
    "rust": r"HashMap|HashSet|RandomState|as\s+\*|as_ptr|\{:p\}|unsafe",
    "sql": r"\(\)",
}
_OF_ITS_OWN["typescript"] = _OF_ITS_OWN["javascript"]


def may_toss_a_coin(name: str, source: str) -> bool:
    """Whether two runs of a program may differ by chance."""
    return _words(name).search(source) is not None


@cache
def _words(name: str) -> re.Pattern[str]:
    own = [_OF_ITS_OWN[name]] if name in _OF_ITS_OWN else []
    return re.compile("|".join([_ANYWHERE, *own]), re.IGNORECASE | re.MULTILINE)
