"""Ray Train's trainer without a race in it, and on the cluster's network, beyond its public API.

Its controller starts a detached actor that returns the workers' placement group if the controller dies,
and then tells it to begin. A controller that is killed between the two leaves an actor that waits for
ever on a cluster that stays up (Ray 2.60, ``ray.train.v2``). Here that actor begins by itself.

gloo looks up its own address by the host's name, which on many machines is not known, or is 127.0.1.1.
Here it takes the interface of the node's address in the cluster.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import psutil
import ray
from ray._common.constants import HEAD_NODE_RESOURCE_NAME
from ray.train.torch import TorchConfig, TorchTrainer
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


# The variable by which gloo is told its interface.
GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
TorchBackend: Any = TorchConfig().backend_cls


def use_nodes_interface() -> None:
    """Have this process's gloo take the interface of the node's address, unless it was told another."""
    address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            os.environ.setdefault(GLOO_INTERFACE, name)


class NodesTorchBackend(TorchBackend):  # type: ignore[misc]
    """Makes the workers' process group over the cluster's network."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Called by the controller, once the workers' processes run."""
        worker_group.execute(use_nodes_interface)
        super().on_start(worker_group, backend_config)


class NodesTorchConfig(TorchConfig):  # type: ignore[misc]
    """A ``TorchConfig`` with that backend."""

    @property
    def backend_cls(self) -> Any:
        return NodesTorchBackend


class CleanTrainer(TorchTrainer):  # type: ignore[misc]
    """A ``TorchTrainer`` with that callback."""

    def _create_default_callbacks(self) -> list[Any]:
        return [
            CleanerCallback() if isinstance(callback, PlacementGroupCleanerCallback) else callback
            for callback in super()._create_default_callbacks()
        ]
