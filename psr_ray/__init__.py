"""psr-ray: process-based self-rewarding for language models, as a distributed Ray application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psr_ray.api import DEMO, Run, evaluate, load_run, run, search

__version__ = "0.1.0"
__all__ = ["DEMO", "Run", "evaluate", "load_run", "run", "search"]


def __getattr__(name: str) -> Any:
    """The names of ``psr_ray.api``, imported when they are used."""
    if name not in __all__:
        raise AttributeError(f"module 'psr_ray' has no attribute {name!r}")
    from psr_ray import api

    return getattr(api, name)
