"""Shared by all commands: the app, its options, errors as one line, an orderly end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from psr_ray.config import Config
from psr_ray.config.file import load_config
from psr_ray.errors import PsrError
from psr_ray.report.display import screen

app = typer.Typer(
    help="Process-based self-rewarding for language models, on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
console = screen()
problems = Console(stderr=True)

ConfigPath = Annotated[str, typer.Option("--config", "-c", help="YAML file of the run")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="override a setting: --set search.top_p=0.9")
]
RunFolder = Annotated[str, typer.Argument(help="folder of a run, or its URL")]
Force = Annotated[
    str | None, typer.Option(help="redo this stage (such as search-2) and all that follow")
]
Update = Annotated[
    bool, typer.Option("--update", help="accept a changed config: redo what the changes touch")
]


# Seconds that a stopped command has to end in good order.
STOP_S = 10.0
stopped_by: list[int] = [signal.SIGINT]


def user_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Show a user's mistake as one line and exit with 2; anything unforeseen keeps its traceback."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        try:
            command(*args, **kwargs)
        except PsrError as error:
            problems.print(
                f"[red]error:[/red] {escape(str(error).strip())}", highlight=False, soft_wrap=True
            )
            raise typer.Exit(2) from error
        except KeyboardInterrupt as error:
            problems.print("stopped: finished work is kept; rerun the command to resume")
            raise typer.Exit(128 + stopped_by[-1]) from error

    return wrapped


def stop(number: int, _frame: Any) -> None:
    """Ends the command: Ctrl-C, `ray job stop`, a scheduler.

    The interrupt may be lost (in a finalizer, for example) or the cleanup may hang (a cluster that is
    gone), so the process exits in any case; Ray then ends what it had started.
    """
    stopped_by.append(number)
    end = threading.Timer(STOP_S, os._exit, [128 + number])
    end.daemon = True
    end.start()
    raise KeyboardInterrupt


def read(config: str, overrides: list[str] | None) -> Config:
    return load_config(config, tuple(overrides or ()))
