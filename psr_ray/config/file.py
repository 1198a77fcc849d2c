"""Configs as YAML files: read, overridden, with absolute paths; every mistake named by its key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from psr_ray.config import Config, SourceConfig
from psr_ray.errors import PsrError
from psr_ray.ray_internals import upload_holding
from psr_ray.storage.locations import is_url, location

# Exceptions of reading YAML: bad dates are ValueErrors, deep nesting a RecursionError.
NOT_YAML = (yaml.YAMLError, ValueError, RecursionError)


def with_absolute_paths(config: Config) -> Config:
    """The config with its folders and files as absolute paths: workers have other folders. Files that
    were uploaded with a Ray job keep relative ones, which are the same in the next job, where this
    process is in the upload's own folder, as the workers are."""

    def path_of(name: str) -> str:
        is_relative = upload_holding(Path(name)) == Path.cwd() and not Path(name).is_absolute()
        return name if is_relative else str(Path(name).absolute())

    def absolute(source: SourceConfig) -> SourceConfig:
        if source.path is None or source.kind != "file" or is_url(source.path):
            return source
        return source.model_copy(update={"path": path_of(source.path)})

    def model_folder(name: str) -> str:
        return str(Path(name).absolute()) if Path(name).is_dir() else name

    data = config.data
    sources: dict[str, object] = {
        name: absolute(source) for name, source in data.sources().items() if "[" not in name
    }
    sources["train"] = tuple(absolute(source) for source in data.train)
    sources["benchmarks"] = tuple(
        path_of(name) if Path(name).is_file() else name for name in data.benchmarks
    )
    updates: dict[str, object] = {"data": data.model_copy(update=sources)}
    seed: dict[str, object] = {}
    if (ift := config.seed_data.ift) is not None:
        seed["ift"] = ift.model_copy(update={"sources": tuple(map(absolute, ift.sources))})
    if (eft := config.seed_data.eft) is not None:
        found = {
            "problems": tuple(map(absolute, eft.problems)),
            "prm800k": tuple(map(absolute, eft.prm800k)),
            "model": eft.model and model_folder(eft.model),
            "judge": eft.judge and model_folder(eft.judge),
        }
        seed["eft"] = eft.model_copy(update=found)
    updates["seed_data"] = config.seed_data.model_copy(update=seed)
    base = model_folder(config.model.base)
    updates["model"] = config.model.model_copy(update={"base": base})
    for name in ("runs_dir", "shared_dir"):
        folder = getattr(config, name)
        if folder is not None and not is_url(folder):
            updates[name] = str(Path(folder).absolute())
    return config.model_copy(update=updates)


def describe_errors(error: ValidationError) -> str:
    """One line a mistake: the key and what is wrong with it."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or "(whole config)"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "unknown key; remove it or correct its spelling"
        lines.append(f"{key}: {message}")
    return "; ".join(lines)


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file."""
    if not path.is_file():
        raise PsrError(f"config {path}: no such file; `configs/` has examples")
    try:
        values = yaml.safe_load(path.read_bytes())
    except NOT_YAML as error:
        raise PsrError(f"config {path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise PsrError(f"config {path}: expected keys and values at the top level")
    return values


def override(values: dict[str, Any], assignment: str) -> None:
    """Apply ``a.b=value`` to nested values, in place."""
    key, equals, text = assignment.partition("=")
    if not equals:
        raise PsrError(f"override {assignment!r}: write KEY=VALUE, for example search.top_p=0.9")
    node = values
    *parents, last = key.split(".")
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise PsrError(f"override {assignment!r}: {parent!r} holds no keys")
    try:
        node[last] = yaml.safe_load(text)
    except NOT_YAML as error:
        raise PsrError(
            f"override {assignment!r}: not YAML: {' '.join(str(error).split())}"
        ) from error


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML config and apply ``a.b=value`` overrides.

    Raises ``PsrError`` naming the file and the key for every mistake a user can make.
    """
    return config_of(read_yaml(location(path)), overrides, f"config {path}")


def load_stored_config(path: Path) -> Config:
    """The config of a run, as it was written into its folder: its relative paths are those of files in
    a job's upload, wherever it is read."""
    return config_of(read_yaml(path), (), f"config {path}", is_stored=True)


def config_of(
    values: dict[str, Any], overrides: Sequence[str], name: str, *, is_stored: bool = False
) -> Config:
    """The config of some settings, and ``a.b=value`` overrides. Raises ``PsrError`` that begins with
    ``name`` for every mistake a user can make."""
    for assignment in overrides:
        override(values, assignment)
    try:
        config = Config.model_validate(values)
        return config if is_stored else with_absolute_paths(config)
    except ValidationError as error:
        raise PsrError(f"{name}: {describe_errors(error)}") from error
    except (OSError, ValueError) as error:  # a path that is none
        raise PsrError(f"{name}: {error}") from error
