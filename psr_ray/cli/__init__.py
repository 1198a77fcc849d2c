"""The command line: psr-ray init, run, train, search, evaluate, compare, export, status, plan, …"""

from psr_ray.cli import init, runs, models, comparisons, export, checks  # noqa: F401, I001  the order of `--help`
from psr_ray.cli.app import app, console, read, user_errors

__all__ = ["app", "console", "read", "user_errors"]
