"""The run directory: one folder a stage, a manifest written last, content keys, one owner.

A stage's key is a hash of the settings it reads and of its inputs' keys. A stage whose manifest
has the key asked for is complete and is skipped; a folder without one is resumed.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from psr_ray.config import Config
from psr_ray.config.file import load_stored_config
from psr_ray.errors import PsrError
from psr_ray.ray_internals import submission_id
from psr_ray.storage.files import Json, read_json, write_text
from psr_ray.storage.folders import FolderLock, contents, drop_unfinished
from psr_ray.storage.locations import (
    is_remote,
    listing_of,
    location,
    model_location,
    read_parts,
    remove,
)

MANIFEST = "_MANIFEST.json"
KEY_FILE = "_KEY"
# The resolved config, in the run's folder.
CONFIG_FILE = "config.yaml"
# Beside the runs: which Ray job works on which run, a file a job.
JOBS = "_jobs"
# A training's model, in its stage's folder.
MODEL_FOLDER = "model"
# In that folder, while the weights are there.
WEIGHTS_MARK = "config.json"
# A training's checkpoints, in its stage's folder until that is complete.
CHECKPOINTS = "checkpoints"
# Raised when a stage's output changes for the same settings: old results are then made again.
FORMAT = 11
# Of large files are read: the beginning (of weights: names, shapes, offsets), and so many parts, evenly
# spaced over all of them. A LoRA changes some of the tensors, and none of those that stand first.
FINGERPRINT_BYTES, NUM_PARTS, PART_BYTES = 2**20, 256, 2**14


def content_key(stage: str, settings: Any, inputs: Sequence[str]) -> str:
    """Key of a stage: its name, the settings it reads, the keys of what it reads."""
    text = json.dumps([FORMAT, stage, settings, list(inputs)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(model: str) -> str:
    """A model by its content, wherever its folder lies: its config, its tokenizer and chat template, its
    weights; a Hub id as it stands."""
    folder = model_location(model)
    if not folder.is_dir():
        return model
    listing = tuple(listing_of(folder)) if is_remote(folder) else ()
    if listing and all(change for *_, change in listing):
        return _fingerprint_in_store(str(folder), listing)
    return _fingerprint(folder)


@lru_cache(maxsize=64)
def _fingerprint_in_store(folder: str, _listing: tuple[tuple[str, int, str], ...]) -> str:
    """Read once a process, as long as it lists the same files."""
    return _fingerprint(location(folder))


def _fingerprint(folder: Path) -> str:
    patterns = ("*.safetensors", "tokenizer*", "*.jinja")
    found = [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]
    return digest_of([folder / "config.json", *found])


def digest_of(paths: Iterable[Path]) -> str:
    """Hash of the names and sizes of some files, and of what they hold: all of it, or of a file that is
    larger than a few MiB parts by which it is told from others."""
    digest, all_bytes = hashlib.sha256(), FINGERPRINT_BYTES + NUM_PARTS * PART_BYTES
    sizes = {path: path.stat().st_size for path in sorted(paths)}
    num_parts = max(16, NUM_PARTS // max(1, sum(size > all_bytes for size in sizes.values())))
    for path, size in sizes.items():
        digest.update(f"{path.name} {size}".encode())
        parts = [(0, size)]
        if size > all_bytes:
            spaced = (number * size // num_parts for number in range(1, num_parts))
            parts = [(0, FINGERPRINT_BYTES), *((at, at + PART_BYTES) for at in spaced)]
        for content in read_parts(path, parts):
            digest.update(content)
    return digest.hexdigest()


def note_job(run_dir: Path, job: str) -> None:
    """Note, beside the runs, that a Ray job works on one."""
    write_text(run_dir.parent / JOBS / f"{job}.json", json.dumps({"run": run_dir.name}))


@dataclass(frozen=True)
class Stage:
    """One stage of a run: a folder, and the key of what belongs in it."""

    name: str
    folder: Path
    key: str
    nested: tuple[str, ...] = ()
    """Folders in it with a key of their own."""

    @property
    def manifest(self) -> Json | None:
        return read_json(self.folder / MANIFEST)

    @property
    def is_complete(self) -> bool:
        manifest = self.manifest
        return manifest is not None and manifest.get("key") == self.key

    @property
    def has_model(self) -> bool:
        """Whether the weights that a training exported are there."""
        return (self.folder / MODEL_FOLDER / WEIGHTS_MARK).is_file()

    @property
    def was_opened(self) -> bool:
        """Whether the folder holds (perhaps unfinished) work of this key."""
        key_file = self.folder / KEY_FILE
        return key_file.is_file() and key_file.read_text() == self.key

    def check_free(self, others: str) -> None:
        """Raises ``PsrError`` where a folder that the user named holds results of ``others``."""
        if self.folder.exists() and contents(self.folder) and not self.was_opened:
            raise PsrError(
                f"folder {self.folder} holds other results ({others}); give another --out, or delete it"
            )

    def open(self) -> None:
        """Prepare the folder: keep unfinished work of the same key, and what is nested; clear anything
        else."""
        if self.folder.exists() and contents(self.folder) and not self.was_opened:
            self.remove()
        if not is_remote(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / MANIFEST).unlink(missing_ok=True)
        write_text(self.folder / KEY_FILE, self.key)

    def finish(self, wall_s: float, **facts: Any) -> None:
        """Write the manifest: from now on the stage is complete. What killed processes were writing goes
        before it."""
        drop_unfinished(self.folder)
        manifest = {"stage": self.name, "key": self.key, "wall_s": wall_s, **facts}
        manifest["finished_at"] = time.time()
        write_text(self.folder / MANIFEST, json.dumps(manifest, indent=1))

    def remove(self, *, everything: bool = False) -> None:
        """Forget the stage's results, what is nested only with ``everything``; half removed, it is
        neither complete nor resumed."""
        for name in (MANIFEST, KEY_FILE):
            (self.folder / name).unlink(missing_ok=True)
        if everything or not self.nested:
            remove(self.folder)
            return
        for name in set(contents(self.folder)) - set(self.nested):
            path = self.folder / name
            path.unlink() if path.is_file() else remove(path)

    def tidy(self) -> None:
        """Remove what a complete stage no longer needs."""
        remove(self.folder / CHECKPOINTS)


class RunDirectory:
    """The folder of one run. ``claim()`` makes this process its only writer."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.path = config.run_dir
        self.lock = FolderLock(self.path)

    def stage(
        self, name: str, settings: Any, inputs: Sequence[Stage] = (), nested: tuple[str, ...] = ()
    ) -> Stage:
        """The stage of that name for these settings and inputs; the shared run's, if it has it."""
        key = content_key(name, settings, [stage.key for stage in inputs])
        if self.config.shared_dir is not None:
            shared = Stage(name, location(self.config.shared_dir) / name, key)
            if shared.is_complete:
                return shared
        return Stage(name, self.path / name, key, nested)

    def claim(self, *, accept_changes: bool = False) -> None:
        """Take the folder for this process and store the resolved config in it.

        Raises ``PsrError`` where another process holds it, or where it holds a run with another
        config (unless ``accept_changes``; stages whose settings changed are then redone).
        """
        self.lock.acquire()
        try:
            self._check_config(accept_changes)
        except PsrError:
            self.lock.release()
            raise
        job = submission_id()
        if job is not None:
            note_job(self.path, job)
        write_text(
            self.path / CONFIG_FILE,
            yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False),
        )

    def release(self) -> None:
        """Give the folder up."""
        self.lock.release()

    def _check_config(self, accept_changes: bool) -> None:
        stored = self.path / CONFIG_FILE
        if not stored.is_file():
            others = contents(self.path)
            if others:
                raise PsrError(
                    f"run folder {self.path} holds files that are no run ({', '.join(others[:3])}); "
                    "give this run another name or runs_dir"
                )
            return
        before, now = (c.model_dump(mode="json") for c in (load_stored_config(stored), self.config))
        for values in (before, now):  # the same run and model may be seen under other paths
            del values["runs_dir"], values["model"]["base"]
        changes = differences(before, now)
        if changes and not accept_changes:
            raise PsrError(
                f"run folder {self.path} holds a run with another config ({'; '.join(changes[:5])})"
                "; give this run another name, or --update to redo what the changes touch"
            )


def stored_run(folder: Path) -> RunDirectory:
    """The run in a folder, which may have moved. Raises ``PsrError`` where there is none."""
    folder = folder.absolute()
    config = load_stored_config(folder / CONFIG_FILE)
    return RunDirectory(
        config.model_copy(update={"runs_dir": str(folder.parent), "name": folder.name})
    )


def differences(old: Json, new: Json, prefix: str = "") -> list[str]:
    """``key: old → new`` for every setting that differs."""
    lines: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before} → {after}")
    return lines
