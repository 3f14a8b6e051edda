"""Files that are whole or not there, and places where one process at a time works."""

import glob
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

ABANDONED = 3600  # seconds after which a draft is no longer being written
LONG = 30  # seconds of waiting after which it is said


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
            with draft.open("rb+") as file:
                os.fsync(file.fileno())  # or a power failure could leave the new name without its content
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
def alone(path: Path, patience: float | None = None, busy: str = "") -> Iterator[None]:
    """Inside, no other process is inside with the same `path`; a killed one counts as gone.

    Waits for its turn, and says so when that takes long; or for `patience` seconds alone, then ValueError with the words of
    `busy`. Between machines it needs a file system whose locks (flock) are seen by all, as NFS since version 4 has them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=LONG if patience is None else patience)
    except Timeout:
        if patience is not None:
            raise ValueError(busy or f"{path.stem}: another process is at work there") from None
        print(f"waiting for another process, which is at work on {path.stem}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
