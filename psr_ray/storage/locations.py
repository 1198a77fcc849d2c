"""Where files lie: this machine's folders, or any object store that fsspec knows (s3://, gs://, …).

A folder in a store is a ``UPath``: it has the methods of ``Path`` that this program uses, so both go by
that name here. What cannot be done in a store is in this module: folders of models and checkpoints are
written here first, then uploaded; they are read from a copy on this machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from filelock import FileLock
from upath import UPath

from psr_ray.errors import PsrError, last_line

# Copies unused for this long are removed when another is made.
KEEP_COPIES_S = 6 * 3600.0
CACHE = "PSR_RAY_CACHE"
HUB_ID = re.compile(r"(\w[\w.-]*)/[\w.-]+")
# A store that does not answer is asked again, after 0 to 1, 2, 4 … 256 s: it may be away for a minute or
# two. botocore would write these two into a dictionary with `max_attempts`, by which fsspec then finds
# another file system.
PATIENCE = {"config_kwargs": {"retries": {"total_max_attempts": 10, "mode": "legacy"}}}
# By which stores tell that a file has changed: its content, or when.
CHANGES = ("ETag", "etag", "LastModified", "last_modified", "updated", "mtime", "created")
# Models that come with the package, by the name they have in configs and commands.
EMBEDDED_MODELS = {"tiny-m0": Path(__file__).parent.parent / "embedded" / "tiny-m0"}


def is_url(text: str) -> bool:
    """Whether a setting names a place in a store (or anything else that is no path)."""
    return "://" in text


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a Hub id, ``owner/name``, and neither it nor its owner is called so
    here."""
    match = HUB_ID.fullmatch(name)
    return match is not None and match[1] != "models" and not Path(match[1]).exists()


def model_location(name: str | Path) -> Path:
    """The folder of a model by its path or URL, or of one that comes with the package by its name; for a
    Hub id a path where nothing is."""
    embedded = EMBEDDED_MODELS.get(str(name))
    return location(name) if embedded is None or Path(name).is_dir() else embedded


def location(text: str | Path) -> Path:
    """The file or folder of a path or URL; nothing is looked up. Raises ``PsrError`` for a URL whose
    kind of store is not known, or whose package is missing."""
    if isinstance(text, Path | UPath) or not is_url(text):
        return text if isinstance(text, UPath) else Path(text)
    return there(text, PATIENCE if text.startswith("s3://") else {})


def impatient(path: Path) -> Path:
    """A location in a store, which is asked a few times only where it does not answer."""
    return there(str(path), {})


def there(url: str, options: dict[str, Any]) -> Path:
    """A URL's location. Raises ``PsrError`` where it cannot be one."""
    try:
        # no cached listings: other processes write there, too
        return cast(Path, UPath(url.rstrip("/"), use_listings_cache=False, **options))
    except (ImportError, ValueError) as error:
        raise PsrError(
            f"{url}: storage of this kind cannot be used ({last_line(error)}); s3:// works as "
            "installed, gs:// needs `pip install gcsfs`, abfs:// adlfs"
        ) from error


def is_remote(path: Path) -> bool:
    """Whether a location is in a store."""
    return isinstance(path, UPath) and not isinstance(path, Path)


def store_of(path: Path) -> tuple[Any, str]:
    """The fsspec file system of a location in a store, and its name there."""
    there = cast(Any, path)
    return there.fs, there.path


def read_parts(path: Path, parts: Sequence[tuple[int, int]]) -> list[bytes]:
    """Parts of a file, from one byte to before another each, and of one in a store nothing else."""
    parts = [(start, end) for start, end in parts if end > start]
    if is_remote(path):
        files, name = store_of(path)
        starts, ends = [start for start, _ in parts], [end for _, end in parts]
        return list(files.cat_ranges([name] * len(parts), starts, ends, on_error="raise"))
    with path.open("rb") as file:
        return [os.pread(file.fileno(), end - start, start) for start, end in parts]


def listing_of(folder: Path) -> list[tuple[str, int, str]]:
    """Names, sizes and ETags of all files in a folder in a store; of one without ETags the times of the
    last changes, or nothing where it tells none."""
    files, name = store_of(folder)
    return [
        (path, entry["size"], str(next((entry[key] for key in CHANGES if entry.get(key)), "")))
        for path, entry in sorted(files.find(name, detail=True).items())
    ]


def remove(folder: Path) -> None:
    """Remove a folder and all in it, where there is one."""
    if not is_remote(folder):
        if folder.exists():
            shutil.rmtree(folder)
        return
    files, name = store_of(folder)
    with contextlib.suppress(FileNotFoundError):
        files.rm(name, recursive=True)


def upload(folder: Path, to: Path) -> None:
    """Copy all files of a folder of this machine into one in a store."""
    files, name = store_of(to)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            files.put_file(str(path), f"{name}/{path.relative_to(folder).as_posix()}")


@contextlib.contextmanager
def folder_to_write(folder: Path) -> Iterator[Path]:
    """A folder to write to: the one itself, or one that is uploaded to it in the end."""
    if not is_remote(folder):
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="psr-ray-") as here:
        yield Path(here)
        upload(Path(here), folder)


def cache_folder() -> Path:
    """Where this machine's copies lie: ``PSR_RAY_CACHE``, or beside other temporary files."""
    return Path(os.environ.get(CACHE) or Path(tempfile.gettempdir()) / f"psr-ray-{os.getuid()}")


def local_copy(folder: str | Path, *, without: str | None = None) -> str:
    """A model's or checkpoint's folder as a path of this machine; a Hub id as it stands.

    What lies in a store is copied once a machine, for all processes on it, but for files whose path
    holds ``without`` (in a store only). Copies go when they were not asked for in six hours and another
    is made.
    """
    place = model_location(folder)
    if not is_remote(place):
        return str(place)
    files, name = store_of(place)
    listing = [
        fact
        for fact in listing_of(place)
        if without is None or without not in fact[0].removeprefix(name)
    ]
    if not listing:
        raise PsrError(f"{folder}: no such folder in the store, or nothing in it")
    key = hashlib.sha256(repr(listing).encode()).hexdigest()[:16]  # another content, another name
    cache = cache_folder()
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    copy = cache / key
    with FileLock(cache / f"{key}.lock"):
        if not copy.is_dir():
            drop_old_copies(cache)
            unfinished = cache / f".{key}.{os.getpid()}"
            for path, *_ in listing:
                there = unfinished / path.removeprefix(name).lstrip("/")
                there.parent.mkdir(parents=True, exist_ok=True)
                files.get_file(path, str(there))
            os.replace(unfinished, copy)
        os.utime(copy)
    return str(copy)


def drop_old_copies(cache: Path) -> None:
    """Remove unused copies, and those that killed processes left unfinished."""
    for copy in cache.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process does the same
            if copy.is_dir() and time.time() - copy.stat().st_mtime > KEEP_COPIES_S:
                shutil.rmtree(copy, ignore_errors=True)
