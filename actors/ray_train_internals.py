"""Ray Train's trainer without a race in it, beyond its public API: it leaves no actor behind.

Its controller starts a detached actor that returns the workers' placement group if the controller dies,
and then tells it to begin. A controller that is killed between the two leaves an actor that waits for
ever on a cluster that stays up (Ray 2.60, ``ray.train.v2``). Here that actor begins by itself.
"""

from __future__ import annotations

import logging
from typing import Any

import ray
from ray._common.constants import HEAD_NODE_RESOURCE_NAME
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller.placement_group_cleaner import (
    PlacementGroupCleaner,
)


class Cleaner(PlacementGroupCleaner):  # type: ignore[misc]
    """Watches its controller from its own start. On a cluster without a dashboard it cannot see it, and
    does not say so every second."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        logging.getLogger(PlacementGroupCleaner.__module__).setLevel(logging.ERROR)
        self.start_monitoring()


class CleanerCallback(PlacementGroupCleanerCallback):  # type: ignore[misc]
    """Starts a ``Cleaner`` with the controller."""

    def after_controller_start(self, _train_run_context: Any) -> None:
        """Called in the controller, once it runs."""
        self._controller_actor_id = ray.get_runtime_context().get_actor_id()
        actor: Any = ray.remote(num_cpus=0)(Cleaner)
        self._cleaner = actor.options(
            lifetime="detached", resources={HEAD_NODE_RESOURCE_NAME: 0.001}
        ).remote(
            controller_actor_id=self._controller_actor_id,
            check_interval_s=self._check_interval_s,
            get_actor_timeout_s=self._get_actor_timeout_s,
            stop_timeout=self._stop_timeout,
        )


class CleanTrainer(TorchTrainer):  # type: ignore[misc]
    """A ``TorchTrainer`` with that callback."""

    def _create_default_callbacks(self) -> list[Any]:
        return [
            CleanerCallback() if isinstance(callback, PlacementGroupCleanerCallback) else callback
            for callback in super()._create_default_callbacks()
        ]
