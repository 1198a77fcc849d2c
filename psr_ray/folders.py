"""Folders of results: one command at a time, what lies in them, disks that take nothing more."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from psr_ray.errors import PsrError
from psr_ray.files import read_json, write_text

HOLDER = "_HOLDER.json"
LOCK = ".lock"
# A file that is being written, by the process of that number (psr_ray.files.whole_file).
UNFINISHED = re.compile(r"\..+\.\d+")

# Less free space than this is a full disk.
PROBE_BYTES = 2**20
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class FolderLock:
    """One process's claim on a folder, for a ``with`` block, until ``release``, or until it dies.

    The lock is the file system's; ``_HOLDER.json`` says who has it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FileLock(folder / LOCK)

    def acquire(self) -> None:
        """Take the folder, which need not exist. Raises ``PsrError`` that names the holder."""
        holder = self.folder / HOLDER
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            other = read_json(holder) or {}
            raise PsrError(
                f"folder {self.folder} is in use by process {other.get('pid', '?')} on "
                f"{other.get('host', '?')} since {other.get('since', '?')}; wait for it, or take "
                "another folder (name or runs_dir of a run, --out)"
            ) from None
        except OSError as error:
            raise PsrError(f"folder {self.folder} cannot be written: {error.strerror}") from error
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        write_text(holder, json.dumps(owner))

    def release(self) -> None:
        """Give the folder up."""
        with contextlib.suppress(OSError):  # the folder may be read-only by now
            (self.folder / HOLDER).unlink(missing_ok=True)
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def contents(folder: Path) -> list[str]:
    """Names in a folder, without its lock and files that were not finished."""
    names = [path.name for path in folder.iterdir()]
    return [name for name in names if name not in (LOCK, HOLDER) and not UNFINISHED.fullmatch(name)]


def drop_unfinished(folder: Path) -> None:
    """Remove the files that killed processes were writing, from a folder that nobody writes to."""
    for path in folder.rglob(".*"):
        if UNFINISHED.fullmatch(path.name):
            with contextlib.suppress(OSError):  # another's, read-only
                path.unlink()


@contextlib.contextmanager
def disk_checked(folder: Path) -> Iterator[None]:
    """Inside, a disk that takes nothing more is a ``PsrError``, whatever it made of itself and in
    whichever process."""
    try:
        yield
    except PsrError:
        raise
    except Exception as error:
        why = disk_problem(error) or write_problem(folder)
        if why is None:
            raise
        raise PsrError(
            f"folder {folder}: {why}; what is finished is kept: mend it, and the same command goes on"
        ) from error


def disk_problem(error: BaseException | None) -> str | None:
    """What an error, or one that caused it, says of a disk that takes nothing more."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            return os.strerror(error.errno)
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__
    return None


def write_problem(folder: Path) -> str | None:
    """Why nothing can be written in a folder; None where it can."""
    probe = folder / f".probe.{os.getpid()}"
    try:
        probe.write_bytes(bytes(PROBE_BYTES))
    except OSError as error:
        return error.strerror if error.errno in DISK_ERRORS else None
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return None
