"""Configs as YAML files: read, overridden, with absolute paths; every mistake named by its key."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError

from psr_ray.config import Config, SourceConfig
from psr_ray.errors import PsrError


def with_absolute_paths(config: Config) -> Config:
    """The config with its folders and files as absolute paths: workers have other folders."""

    def absolute(source: SourceConfig) -> SourceConfig:
        if source.path is None or "://" in source.path:
            return source
        return source.model_copy(update={"path": str(Path(source.path).absolute())})

    data = config.data
    sources = {
        "ift": absolute(data.ift),
        "eft": absolute(data.eft),
        "heldout": absolute(data.heldout),
        "judge": None if data.judge is None else absolute(data.judge),
        "train": tuple(absolute(source) for source in data.train),
    }
    updates: dict[str, object] = {"data": data.model_copy(update=sources)}
    base = Path(config.model.base)
    if base.is_dir():
        updates["model"] = config.model.model_copy(update={"base": str(base.absolute())})
    if "://" not in config.runs_dir:
        updates["runs_dir"] = str(Path(config.runs_dir).absolute())
    return config.model_copy(update=updates)


def describe_errors(error: ValidationError) -> str:
    """One line a mistake: the key and what is wrong with it."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or "(whole config)"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "unknown key; remove it or mend its spelling"
        lines.append(f"{key}: {message}")
    return "; ".join(lines)


def load_config(path: str | Path, overrides: tuple[str, ...] = ()) -> Config:
    """Read a YAML config and apply ``a.b=value`` overrides.

    Raises ``PsrError`` naming the file and the key for every mistake a user can make.
    """
    path = Path(path)
    if not path.is_file():
        raise PsrError(f"config {path}: no such file; `configs/` has examples")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise PsrError(f"config {path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise PsrError(f"config {path}: expected keys and values at the top level")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise PsrError(f"override {override!r}: write KEY=VALUE, for example search.top_p=0.9")
        node = values
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise PsrError(f"override {override!r}: {parent!r} holds no keys")
        node[last] = yaml.safe_load(text)
    try:
        return with_absolute_paths(Config.model_validate(values))
    except ValidationError as error:
        raise PsrError(f"config {path}: {describe_errors(error)}") from error
