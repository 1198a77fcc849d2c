"""The mean of a run's models, which judges in their place (`method.judge: average`)."""

from __future__ import annotations

import shutil
from pathlib import Path

from psr_ray.errors import PsrError
from psr_ray.runs import WEIGHTS_MARK
from psr_ray.storage.locations import folder_to_write, local_copy

# In a run's folder: a mean for each round, by the key of the training that made its newest model.
AVERAGES = "averages"


def write_average(before: str, newest: str, num_models: int, out: Path) -> None:
    """A model folder with the mean weights of ``num_models`` models, of which all but the newest have
    their mean in ``before``. One file of weights is in memory at a time; sums are in float32.

    Raises ``PsrError`` where a folder has no safetensors files, or not the same weights.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    mean, model = Path(local_copy(before)), Path(local_copy(newest))
    where = dict[str, Path]()
    for file in mean.glob("*.safetensors"):
        with safe_open(file, "pt") as found:
            where |= dict.fromkeys(found.keys(), file)
    with folder_to_write(out) as folder:
        # the mark last
        for file in sorted(model.iterdir(), key=lambda file: file.name == WEIGHTS_MARK):
            if file.suffix != ".safetensors":
                shutil.copy(file, folder / file.name)
                continue
            weights = load_file(file)
            for name, value in weights.items():
                if name not in where:
                    raise PsrError(
                        f"{mean}: no {name}, which {model} has: method.judge average needs folders with "
                        "models of one architecture, in safetensors files"
                    )
                with safe_open(where[name], "pt") as found:
                    older = found.get_tensor(name).float()
                weights[name] = (older + (value.float() - older) / num_models).to(value.dtype)
            save_file(weights, folder / file.name, metadata={"format": "pt"})
