"""A claim on a folder in an object store: one object, created only if absent, renewed while held.

A store has no locks that end with their process. So the holder rewrites its object every ``RENEW_S``
seconds; a process that finds it unchanged for ``EXPIRY_S`` takes the folder over. A dead process of this
machine is recognised at once.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from psr_ray.storage.files import Json, read_json
from psr_ray.storage.locations import impatient, store_of

RENEW_S = 15.0
EXPIRY_S = 60.0
# Seconds between two looks at an object that may have expired.
LOOK_S = 2.0


class Held(Exception):
    """Another process holds the folder."""

    def __init__(self, holder: Json) -> None:
        self.holder = holder


class Lease:
    """``acquire`` until ``release``; a holder that lost it to another process ends by SIGTERM."""

    def __init__(self, path: Path) -> None:
        # a renewal that waits for its next try would be late when the store is back
        self.path = impatient(path)
        self.files, self.name = store_of(self.path)
        self.owner: Json = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, owner: Json) -> None:
        """Take it, waiting for a silent holder's to expire. Raises ``Held`` where the holder lives."""
        self.owner = owner
        while not self._create():
            self._await_expiry()
        self._stop.clear()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give it up."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
            if self._is_ours():
                self.files.rm_file(self.name)

    def _content(self) -> bytes:
        return json.dumps(self.owner | {"renewed": time.time()}).encode()

    def _create(self) -> bool:
        try:
            self.files.pipe_file(self.name, self._content(), mode="create")
        except FileExistsError:
            return False
        return True

    def _await_expiry(self) -> None:
        """Until the object is gone, or its holder dead and the object removed."""
        seen = read_json(self.path)
        began = time.monotonic()
        while seen is not None:
            if died_here(seen) or time.monotonic() - began > EXPIRY_S:
                self.files.rm_file(self.name)
                return
            if began + LOOK_S < time.monotonic():
                logging.getLogger("psr_ray").warning(
                    "%s: held by process %s on %s; waiting for a sign of it", self.path.parent,
                    seen.get("pid"), seen.get("host"),
                )  # fmt: skip
            time.sleep(LOOK_S)
            now = read_json(self.path)
            if now is not None and now != seen:
                raise Held(now)
            seen = now

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_S):
            try:
                if self._is_ours():
                    self.files.pipe_file(self.name, self._content())
                    continue
            except Exception as error:  # of whichever store; it may answer the next time
                logging.getLogger("psr_ray").warning("%s: not renewed: %s", self.path, error)
                continue
            logging.getLogger("psr_ray").error(
                "%s was taken by another process; this one ends", self.path.parent
            )
            os.kill(os.getpid(), signal.SIGTERM)
            return

    def _is_ours(self) -> bool:
        found: dict[str, Any] = read_json(self.path) or {}
        return {name: found.get(name) for name in self.owner} == self.owner


def died_here(owner: Json) -> bool:
    """Whether a holder was a process of this machine that is no more."""
    if owner.get("machine") != machine_id() or not isinstance(owner.get("started"), int):
        return False  # of another machine, or of an earlier version, which wrote seconds
    return start_of(owner["pid"]) != owner.get("started")


def start_of(pid: int) -> int | None:
    """When a process of this machine started, in ticks since the machine did, which no clock that is set
    changes; None where there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat[stat.rindex(b")") :].split()[20])  # its name may hold spaces and parentheses


def machine_id() -> str:
    """An id of this machine since its start; host names are not unique, and containers sharing one may
    not see each other's processes."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return boot + os.uname().nodename + os.readlink("/proc/self/ns/pid")
