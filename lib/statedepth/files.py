"""Files that are whole or not there, and places where one process at a time works."""

import glob
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

ABANDONED = 3600  # seconds after which a draft is no longer being written


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it: nobody ever sees half a file.

    The draft's name is of no kind that anything here reads, and no two processes on any machine share one. Drafts that a
    killed process left behind are removed by a later write of the same file. Raises OSError, of the kind that it was, where
    the disk is full or the folder may not be written to; `path` is then as it was.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
            with suppress(OSError):  # another process may be faster
                if time.time() - old.stat().st_mtime > ABANDONED:
                    old.unlink()
        try:
            write(draft)
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path.name} could not be written in {path.parent}: {error.strerror or error}. Nothing else is lost: make room, "
            "or take a folder that may be written to, and run again",
        ) from error


@contextmanager
def alone(path: Path, wait: bool = True) -> Iterator[None]:
    """Inside, no other process on this file system is inside with the same `path`; a killed one counts as gone.

    Waits for its turn; with `wait` False, ValueError where another is inside.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"{path.parent}: another run is at work there; wait for its end, or take another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()
