"""The models of an engine: loaded in place, proven, asleep while a training has their GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from psr_ray.inference.vllm_api import answers_of
from psr_ray.inference.weights import Proof
from psr_ray.method.generation import ModelRole

if TYPE_CHECKING:
    from vllm import LLMEngine

# vLLM keeps the weights in the node's memory and drops the KV cache: the same model may be wanted again.
SLEEP_LEVEL = 1


class Models:
    """A vLLM engine for each role. No task may be in flight when a method is called.

    ``in_thread`` calls a function in the engines' own thread. On CPU all of their computing has to be
    there: OpenMP keeps threads for each thread that computes, and lets all of them sleep between two
    operations once they are more than the cores.
    """

    def __init__(
        self, engines: dict[ModelRole, LLMEngine], in_thread: Callable[[Callable[[], Any]], Any]
    ) -> None:
        self.engines = engines
        self.in_thread = in_thread

    def load(self, folder: str) -> None:
        """Load the policy's weights from a folder of the same architecture, in place."""
        policy = self.engines["policy"]
        self.in_thread(lambda: policy.collective_rpc("load_in_place", args=(folder,)))
        self.forget_prefixes()

    def answers(self, proof: Proof) -> list[float]:
        """The policy's log-probabilities of a proof's completions."""
        found: list[float] = self.in_thread(lambda: answers_of(self.engines["policy"], proof))
        return found

    def forget_prefixes(self) -> None:
        """Empty the prefix cache. Raises ``RuntimeError`` where it is not."""
        for engine in self.engines.values():
            if not self.in_thread(engine.reset_prefix_cache):
                raise RuntimeError("the prefix cache is in use and was not emptied")

    def sleep(self) -> None:
        """Free the GPU's memory until ``wake``. On CPU vLLM does nothing."""
        for engine in self.engines.values():
            self.in_thread(partial(engine.sleep, SLEEP_LEVEL))

    def wake(self) -> None:
        """Have weights and an empty KV cache on the GPU again."""
        for engine in self.engines.values():
            self.in_thread(engine.wake_up)
