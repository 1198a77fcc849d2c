"""The mean of a run's models, which judges in their place (`method.judge: average`)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from psr_ray.errors import PsrError
from psr_ray.runs import WEIGHTS_MARK
from psr_ray.storage.locations import folder_to_write, is_hub_id, local_copy, remove

# In a run's folder: a mean for each round, by the key of the training that made its newest model.
AVERAGES = "averages"
# The newest, and the one it was made from: a stage may still read that.
MEANS_KEPT = 2


def write_means(models: Sequence[str], means: Sequence[Path]) -> None:
    """The mean of ``models`` into the last of ``means``, the folders for the means of the first two, the
    first three, …; made from the newest of those that are there. Of the others all but the one before
    the last are removed."""
    made = [i for i, mean in enumerate(means) if (mean / WEIGHTS_MARK).is_file()]
    start = made[-1] + 1 if made else 0
    before = str(means[start - 1]) if made else models[0]
    for i in range(start, len(means)):
        write_average(before, models[i + 1], i + 2, means[i])
        before = str(means[i])
    for old in means[:-MEANS_KEPT]:
        remove(old)


def write_average(before: str, newest: str, num_models: int, out: Path) -> None:
    """A model folder with the mean weights of ``num_models`` models, of which all but the newest have
    their mean in ``before``, which may be a Hub id. One file of weights is in memory at a time; sums
    are in float32.

    Raises ``PsrError`` where a folder has no safetensors files, or not the same weights.
    """
    from huggingface_hub import snapshot_download
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    mean, model = Path(local_copy(before)), Path(local_copy(newest))
    if is_hub_id(before):
        mean = Path(snapshot_download(before, allow_patterns="*.safetensors"))
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
