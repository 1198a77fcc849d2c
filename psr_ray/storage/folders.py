"""Folders of results: one command at a time, what lies in them, full disks."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from psr_ray.errors import PsrError, last_line
from psr_ray.ray_internals import submission_id, upload_holding
from psr_ray.storage.files import Json, read_json, write_text
from psr_ray.storage.lease import Held, Lease, machine_id, start_of
from psr_ray.storage.locations import is_remote

HOLDER = "_HOLDER.json"
LOCK = ".lock"
# A file that is being written, by the process and thread of that number
# (psr_ray.storage.files.whole_file).
UNFINISHED = re.compile(r"\..+\.\d+")

# Less free space than this is a full disk.
PROBE_BYTES = 2**20
# Of the errors that stores raise, as a file system or below it.
STORE_PACKAGES = {"adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google"}
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
ACCESS_ERRORS = {errno.EACCES, errno.EPERM}


class FolderLock:
    """One process's claim on a folder, for a ``with`` block, until ``release``, or until it dies.

    The lock is the file system's, in a store a lease; ``_HOLDER.json`` names the holder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = None if is_remote(folder) else FileLock(folder / LOCK)
        self._lease = Lease(folder / HOLDER) if is_remote(folder) else None

    def acquire(self) -> None:
        """Take the folder, which need not exist. Raises ``PsrError`` that names the holder, or where the
        folder goes with the upload of a Ray job."""
        if self._lock is not None and upload_holding(self.folder) is not None:
            raise PsrError(
                f"folder {self.folder} is in Ray's copy of what was uploaded with this job, which it "
                "deletes after the job; give a folder that every node sees, or a URL (runs_dir, --out)"
            )
        owner = this_process()
        try:
            if self._lock is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock.acquire(timeout=0)
                write_text(self.folder / HOLDER, json.dumps(owner))
            elif self._lease is not None:
                self._lease.acquire(owner)
        except (Timeout, Held) as error:
            other = error.holder if isinstance(error, Held) else read_json(self.folder / HOLDER)
            raise PsrError(in_use(self.folder, other or {})) from None
        except Exception as error:
            if self._lock is not None and not isinstance(error, OSError):
                raise
            said = getattr(error, "strerror", None) or last_line(error)  # a store's own errors, too
            raise PsrError(
                f"folder {self.folder} cannot be written: {said}; allow it (in a store: to read, write, "
                "list and delete objects), or take another folder (runs_dir of a run, --out)"
            ) from error

    def release(self) -> None:
        """Give the folder up."""
        if self._lease is not None:
            self._lease.release()
        if self._lock is not None:
            with contextlib.suppress(OSError):  # the folder may be read-only by now
                (self.folder / HOLDER).unlink(missing_ok=True)
            self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def this_process() -> Json:
    """The holder of a folder, for messages and for ``psr_ray.storage.lease``."""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "machine": machine_id(),
        "started": start_of(os.getpid()),
        "job": submission_id(),
    }


def in_use(folder: Path, holder: Json) -> str:
    """The message that another process holds a folder, with what to do."""
    job = f" (job {holder['job']})" if holder.get("job") else ""
    return (
        f"folder {folder} is in use by process {holder.get('pid', '?')}{job} on "
        f"{holder.get('host', '?')} since {holder.get('since', '?')}; wait for it, or take "
        "another folder (name or runs_dir of a run, --out)"
    )


def contents(folder: Path) -> list[str]:
    """Names in a folder, without its lock and files that were not finished."""
    if is_remote(folder) and not folder.is_dir():  # in a store an empty folder is none
        return []
    names = [path.name for path in folder.iterdir()]
    return [name for name in names if name not in (LOCK, HOLDER) and not UNFINISHED.fullmatch(name)]


def drop_unfinished(folder: Path) -> None:
    """Remove the files that killed processes were writing, from a folder that no process writes to; a
    store has none."""
    if is_remote(folder):
        return
    for path in folder.rglob(".*"):
        if UNFINISHED.fullmatch(path.name):
            with contextlib.suppress(OSError):  # another's, read-only
                path.unlink()


@contextlib.contextmanager
def disk_checked(folder: Path) -> Iterator[None]:
    """Inside, a disk that is full or read-only, or a store that does not answer, raises a ``PsrError``,
    whatever error it caused and in which process."""
    try:
        yield
    except PsrError:
        raise
    except Exception as error:
        why = disk_problem(error) or store_problem(error) or write_problem(folder)
        if why is None:
            raise
        raise PsrError(
            f"folder {folder}: {why}; finished work is kept: fix it, then rerun the command to resume"
        ) from error


def store_problem(error: BaseException | None) -> str | None:
    """The reason why a store did not do what it was asked, from an error or its causes."""
    for cause in causes(error):
        if type(cause).__module__.partition(".")[0] in STORE_PACKAGES:
            return f"the storage failed ({last_line(cause)})"
    return None


def disk_problem(error: BaseException | None) -> str | None:
    """The reason why a disk cannot be written to, from an error or its causes."""
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in DISK_ERRORS:
            return os.strerror(cause.errno)
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from, Ray's wrapping (``cause``) included."""
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__


def write_problem(folder: Path) -> str | None:
    """Why nothing can be written in a folder; None where it can."""
    probe = folder / f".probe.{uuid.uuid4().int}"
    if is_remote(folder):
        try:
            probe.write_bytes(b"")
            probe.unlink()
        except Exception as error:  # of whichever store
            return last_line(error)
        return None
    try:
        probe.write_bytes(bytes(PROBE_BYTES))
    except OSError as error:
        return error.strerror if error.errno in DISK_ERRORS | ACCESS_ERRORS else None
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    return None
