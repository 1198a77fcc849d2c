"""The user's own classes and functions, named in the config as ``module:name``.

Four settings take such a name: ``judge.mode``, ``method.ranking``, ``method.objective`` and the ``kind``
of a data source. docs/extending.md has an example of each.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from psr_ray.errors import PsrError, last_line

SEPARATOR = ":"
REMEDY = "docs/extending.md shows what fits"


def is_plugin(name: str) -> bool:
    """Whether a setting names the user's own code."""
    return SEPARATOR in name


def find(
    setting: str,
    name: str,
    built_in: Mapping[str, Any],
    takes: Sequence[str],
    methods: Sequence[str] = (),
) -> Any:
    """The class or function that a setting names: one of ours, or the user's.

    It must be callable with as many positional arguments as ``takes`` names, and have ``methods``.
    Raises ``PsrError`` that names the setting where it cannot be imported or does not fit.
    """
    return (
        built_in[name] if name in built_in else _load(setting, name, tuple(takes), tuple(methods))
    )


@cache
def _load(setting: str, name: str, takes: tuple[str, ...], methods: tuple[str, ...]) -> Any:
    module_name, _, attribute = name.partition(SEPARATOR)
    _search_working_directory()
    try:
        found = getattr(importlib.import_module(module_name), attribute, None)
    except Exception as error:  # whatever the user's module raises
        raise PsrError(
            f"{setting} {name}: module {module_name} cannot be imported ({type(error).__name__}: "
            f"{last_line(error)}); put its folder on PYTHONPATH, or start from it (for a job: "
            "--working-dir)"
        ) from error
    if not callable(found):
        raise PsrError(
            f"{setting} {name}: module {module_name} defines no class or function {attribute}; "
            f"{REMEDY}"
        )
    try:
        inspect.signature(found).bind(*takes)
    except (TypeError, ValueError) as error:  # ValueError: a builtin without a signature
        raise PsrError(
            f"{setting} {name}: must take ({', '.join(takes)}), but {attribute} does not ({error}); "
            f"{REMEDY}"
        ) from error
    missing = [method for method in methods if not callable(getattr(found, method, None))]
    missing += sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise PsrError(f"{setting} {name}: has no method {', '.join(missing)}; {REMEDY}")
    return found


def source_file(name: str) -> Path:
    """The file of the user's own code. Raises ``PsrError`` where it is not found: whether a stage is
    complete depends on its content."""
    _search_working_directory()
    try:
        spec = find_spec(name.partition(SEPARATOR)[0])
    except Exception:  # whatever a package that it lies in raises
        spec = None
    if spec is None or not spec.has_location or spec.origin is None:
        raise PsrError(
            f"{name}: its module is not found here; start from its folder, or put that on PYTHONPATH"
        )
    return Path(spec.origin)


def _search_working_directory() -> None:
    """Python searches it for ``python -m`` only, Ray's workers and `psr-ray` should, too."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
