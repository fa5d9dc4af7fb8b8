"""The run's history: one checksummed line per committed stage, append-only.

The stages themselves are the truth. A ledger that lost its last line in a crash, or was deleted, is
rebuilt from their manifests.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def _checksum(entry: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:16]


class Ledger:
    """Append-only JSON lines, each with a checksum of its own content."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> list[dict[str, Any]]:
        """All intact lines, oldest first; reading stops at the first damaged one."""
        if not self.path.exists():
            return []
        entries = []
        for line in self.path.read_text(errors="replace").splitlines():
            try:
                entry = json.loads(line)
                checksum = entry.pop("checksum")
            except (ValueError, KeyError, AttributeError, TypeError):
                break
            if checksum != _checksum(entry):
                break
            entries.append(entry)
        return entries

    def append(self, entry: dict[str, Any]) -> None:
        """Add one line and make it durable."""
        line = json.dumps({**entry, "checksum": _checksum(entry)}, sort_keys=True) + "\n"
        with self.path.open("a") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def reconcile(self, committed: Iterable[dict[str, Any]]) -> None:
        """Make the ledger agree with the committed stages, in their order.

        Args:
            committed: one entry per committed stage, oldest first.
        """
        committed = list(committed)
        intact = self.entries()
        text = self.path.read_text(errors="replace") if self.path.exists() else ""
        whole = len(text.splitlines()) == len(intact) and text.endswith("\n") == bool(text)
        if whole and intact == committed[: len(intact)]:
            for entry in committed[len(intact) :]:
                self.append(entry)
            return
        partial = self.path.with_suffix(".rebuilding")
        partial.unlink(missing_ok=True)
        rebuilt = Ledger(partial)
        partial.touch()
        for entry in committed:
            rebuilt.append(entry)
        os.replace(partial, self.path)
