"""Datasets of the Hugging Face Hub, by id or well-known name, through `datasets` and its cache.

A mirror is named by ``HF_ENDPOINT``, a private or gated dataset needs ``HF_TOKEN``; with
``HF_HUB_OFFLINE=1`` only what the cache (``HF_HOME``) holds is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from psr_ray.config import SourceConfig
from psr_ray.errors import PsrError, last_line, one_line
from psr_ray.storage.files import Row


class HubFile(NamedTuple):
    """A split of a dataset on the Hub, and its number of problems."""

    dataset: str
    config: str | None
    split: str
    num: int


# Training sets by name. `numinamath` has answers of its own, `numinamath-cot` only those in the boxes of
# its solutions; `openr1-math` and `deepscaler` are often used for reinforcement learning.
TRAINING_SETS = {
    "gsm8k": HubFile("openai/gsm8k", "main", "train", 7473),
    "math": HubFile("DigitalLearningGmbH/MATH-lighteval", "default", "train", 7500),
    "numinamath": HubFile("AI-MO/NuminaMath-1.5", None, "train", 896_215),
    "numinamath-cot": HubFile("AI-MO/NuminaMath-CoT", None, "train", 859_494),
    "openr1-math": HubFile("open-r1/OpenR1-Math-220k", "default", "train", 93_733),
    # labelled steps, for `seed_data.eft.prm800k` alone; phases 1 and 2
    "prm800k": HubFile("tasksource/PRM800K", None, "train", 98_731),
    "deepscaler": HubFile("agentica-org/DeepScaleR-Preview-Dataset", None, "train", 40_315),
}
# Bytes above which a dataset that is not in the cache is streamed: first rows come at once, but a second
# reading fetches them again.
LARGE = 2**30
MIRROR = (
    "set HF_ENDPOINT to a mirror, HF_HOME to a filled cache (with HF_HUB_OFFLINE=1), or give a file in "
    "its place"
)


def hub_file(source: SourceConfig) -> HubFile:
    """The dataset, configuration and split that a source of kind `hub` names."""
    name = source.path or ""
    known = TRAINING_SETS.get(name, HubFile(name, None, "train", source.num))
    return known._replace(config=source.config or known.config, split=source.split or known.split)


def hub_records(where: HubFile, revision: str | None) -> tuple[Iterator[Row], str]:
    """The records of a split, and the revision that they are of.

    Raises ``PsrError`` with what is wrong and a way out; also while records are read.
    """
    from datasets import load_dataset_builder

    try:
        builder = load_dataset_builder(where.dataset, where.config, revision=revision)
        is_kept = Path(builder.cache_dir).is_dir()
        if not is_kept and (builder.info.download_size or 0) > LARGE:
            rows = builder.as_streaming_dataset(where.split)
        else:
            builder.download_and_prepare()
            rows = builder.as_dataset(where.split)
    except Exception as error:  # of the network, the Hub, the dataset's own format
        raise named(where, error) from error

    def records() -> Iterator[Row]:
        try:
            yield from map(dict, rows)
        except Exception as error:  # the same, later: streamed rows are fetched as they are read
            raise named(where, error) from error

    return records(), str(builder.hash or revision or "unknown")


def small_file(model: str, name: str) -> Path | None:
    """A small file of a model on the Hub, fetched once; None where the model has none of that name.

    Raises ``PsrError`` where the model cannot be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(model, name))
    except LocalEntryNotFoundError as error:
        raise PsrError(
            f"model {model}: the Hub is out of reach ({last_line(error)}); {MIRROR}"
        ) from error
    except EntryNotFoundError:
        return None
    except Exception as error:  # of the network, the Hub, a name that is no id
        raise PsrError(
            f"model {model}: neither a folder nor on the Hub ({last_line(error)}); correct it, or set "
            "HF_TOKEN where it is private or asks for consent"
        ) from error


def named(where: HubFile, error: Exception) -> PsrError:
    """An error of reading a dataset as one line: the dataset, what is wrong, what to do."""
    from datasets.exceptions import DatasetNotFoundError

    if isinstance(error, DatasetNotFoundError):
        remedy = "correct the id, or set HF_TOKEN where it is private or asks for consent"
    elif isinstance(error, ValueError):  # no such configuration, split or revision
        remedy = "correct `config`, `split` or `revision`"
    else:
        remedy = MIRROR
    return PsrError(f"dataset {where.dataset} on the Hub: {one_line(error)}; {remedy}")
