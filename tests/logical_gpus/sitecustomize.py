"""GPUs that Ray counts and nobody has: what takes them computes on the CPU. Python imports this file as
it starts where its folder is in PYTHONPATH.
"""

import importlib.abc
import sys


class Patches(importlib.abc.MetaPathFinder):
    """Changes modules of the product as they are imported."""

    def find_spec(self, name, path=None, target=None):
        change = {"actors.training_group": train_on_cpu, "psr_ray.inference.vllm_api": infer_on_cpu}
        if name not in change:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next(spec for spec in found if spec is not None)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            change[name](module)

        spec.loader.exec_module = exec_module
        return spec


def on_cpu(settings, **changes):
    return settings.model_copy(update=changes)


def train_on_cpu(module):
    """Workers ask Ray for GPUs and get jobs without."""
    import actors.ray_train_internals as internals

    torch_config, environment = internals.NodesTorchConfig, module.environment
    next_job = module.TrainingGroup.next

    async def next(self, number, age_s):
        job = await next_job(self, number, age_s)
        if job is None:
            return None
        training = on_cpu(job.training, use_gpu=False)
        return module.replace(job, config=on_cpu(job.config, **{job.kind: training}))

    internals.NodesTorchConfig = lambda backend: torch_config(backend="gloo")
    module.environment = lambda training: environment(on_cpu(training, use_gpu=False))
    module.TrainingGroup.next = next


def infer_on_cpu(module):
    """An engine of any number of GPUs is one process on a core."""
    environment, arguments = module.engine_environment, module.engine_arguments
    module.engine_environment = lambda settings: environment(
        on_cpu(settings, tensor_parallel_size=0)
    )
    module.engine_arguments = lambda path, model, settings, seed, num_models=1: arguments(
        path, model, on_cpu(settings, tensor_parallel_size=0), seed, num_models
    )


sys.meta_path.insert(0, Patches())
