"""Brings back what a program left in its work folder, after everything it started has been ended."""

from __future__ import annotations

import os
import stat
from pathlib import PurePosixPath


def fetch(folder: str, wanted: list[str] | None, most: int) -> list[tuple[str, bytes]]:
    """Regular files: those that are named, or (None) all; never through a link.

    Args:
        folder: where they are; the program may have taken it away. It becomes the current one.
        wanted: relative paths.
        most: bytes of all of them; what does not fit is left out.
    """
    try:
        home = os.open(folder, os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return []
    os.fchdir(home)
    os.close(home)
    if wanted is None:
        wanted = [f"{folder}/{name}"[2:] for folder, _, names in os.walk(".") for name in names]
    found = []
    for name in sorted(wanted):
        content = _read_regular(name, most)
        if content is not None:
            found.append((name, content))
            most -= len(content)
    return found


def _read_regular(name: str, most: int) -> bytes | None:
    """A file's content; None if it is no regular file, larger than ``most``, or not there."""
    *folders, last = PurePosixPath(name).parts
    at = os.open(".", os.O_DIRECTORY | os.O_PATH)
    try:
        for folder in folders:
            inner = os.open(folder, os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        descriptor = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
    except OSError:
        return None
    finally:
        os.close(at)
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode) or about.st_size > most:
        os.close(descriptor)
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(most)
