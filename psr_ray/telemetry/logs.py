"""Logs with run, stage and iteration, in Ray's own log files; as JSON if configured.

Ray adds job, node, actor and task to each line (``ray.LoggingConfig``).
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from psr_ray.config import TelemetryConfig
from psr_ray.telemetry.counters import tags_of

LOGGER = logging.getLogger("psr_ray")


class StageLogger(logging.LoggerAdapter[logging.Logger]):
    """The program's logger for what happens in a stage; keyword ``extra`` adds to its tags."""

    def __init__(self, stage: Path) -> None:
        super().__init__(LOGGER, tags_of(stage))

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **kwargs.get("extra", {})}
        return msg, kwargs


def ray_settings(settings: TelemetryConfig) -> dict[str, Any]:
    """Arguments of ``ray.init`` that apply the config's log format to all processes of a job."""
    if settings.logs == "text":
        return {}
    import ray

    return {"logging_config": ray.LoggingConfig(encoding="JSON", log_level="INFO")}
