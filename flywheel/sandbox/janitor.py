"""Cleans up behind an executor, also one that was killed: a shell that waits for its pipe to close."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

# Everything in a group is the executor's; what is still alive when the executor is gone has no owner. A file is shared
# by executors, which hold a lock on it: it goes with the last one.
_SCRIPT = """
PATH="$PATH:/usr/bin:/bin"
trap '' INT TERM HUP
read -r _
step=0
while [ $step -lt 100 ]; do
  left=
  for folder; do
    [ -e "$folder" ] || continue
    if [ -e "$folder/cgroup.procs" ]; then
      for pid in $(cat "$folder/cgroup.procs" 2>/dev/null); do kill -9 "$pid" 2>/dev/null; done
      rmdir "$folder" 2>/dev/null || left=yes
    elif [ -f "$folder" ]; then
      flock -n -x "$folder" rm -f "$folder" || :
    else
      rm -rf "$folder" || left=yes
    fi
  done
  [ -z "$left" ] && exit 0
  sleep 0.05
  step=$((step + 1))
done
exit 1
"""


class Janitor:
    """Removes cgroups, folders and unlocked files when it is told to, or when this process is gone."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "flywheel-janitor", *map(str, folders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def clean(self) -> None:
        """Do it now, and wait until it is done."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
