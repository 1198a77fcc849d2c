"""A run's data as datasets: Parquet files that `datasets` and TRL's trainers read directly.

    ift/data/train.parquet           prompt, completion, problem, answer
    eft/data/train.parquet           prompt, completion, problem, steps_so_far, step_a, step_b, verdict
    preferences/data/iteration-1.parquet …   prompt, chosen, rejected, their token ids, scores

Texts hold the special tokens as the model saw them, so that a tokenizer gives back the ids. Where it
would put a BOS of its own in front, the text has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from psr_ray.config import Config
from psr_ray.method.preferences import IDS, PAIRS
from psr_ray.method.prompts import PromptBuilder, load_tokenizer
from psr_ray.storage.files import Row, whole_file
from psr_ray.storage.shards import read_rows, shards
from psr_ray.training.examples import SFTExample, eft_example, ift_example

TEXT = pa.string()
IFT = pa.schema(dict.fromkeys(("id", "prompt", "completion", "problem", "answer"), TEXT))
EFT = pa.schema(
    dict.fromkeys(("id", "prompt", "completion", "problem"), TEXT)
    | {"steps_so_far": pa.list_(TEXT), "step_a": TEXT, "step_b": TEXT, "verdict": TEXT}
)
PREFERENCES = pa.schema(
    dict.fromkeys(("id", "prompt", "chosen", "rejected", "problem_id"), TEXT)
    | {"iteration": pa.int32(), "step_number": pa.int32()}
    | {"chosen_score": pa.float64(), "rejected_score": pa.float64()}
    | {"prompt_token_ids": IDS, "chosen_token_ids": IDS, "rejected_token_ids": IDS}
)
# Rows written at once.
BATCH = 1000


class Decoder:
    """Token ids as text that becomes the same ids again."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        bos = tokenizer.bos_token_id
        self.own_start = () if bos is None or tokenizer.encode("x")[0] != bos else (bos,)

    def text(self, ids: Iterable[int]) -> str:
        """Text of ids, special tokens included."""
        found: str = self.tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return found

    def prompt(self, ids: Iterable[int]) -> str:
        """The same for the beginning of a sequence."""
        ids = tuple(ids)
        start = len(self.own_start)
        return self.text(ids[start:] if start and ids[:start] == self.own_start else ids)


def write_parquet(path: Path, rows: Iterable[Row], schema: pa.Schema) -> int:
    """Write rows as they come; returns how many. Without rows there is no file."""
    left, num = iter(rows), 0
    first = list(islice(left, BATCH))
    if not first:
        return 0
    with whole_file(path) as unfinished, pq.ParquetWriter(unfinished, schema) as writer:
        batch = first
        while batch:
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            num += len(batch)
            batch = list(islice(left, BATCH))
    return num


class DatasetWriter:
    """Writes the datasets of a run whose data and preferences lie in some folders."""

    def __init__(self, config: Config, model: str, data: Path) -> None:
        """``model``: a folder with the tokenizer of the run's models."""
        tokenizer = load_tokenizer(model, trust_remote_code=config.model.trust_remote_code)
        self.config, self.data = config, data
        self.prompts, self.decoder = PromptBuilder(tokenizer, config.prompts), Decoder(tokenizer)

    def ift(self, folder: Path) -> dict[str, int]:
        """Problems with solutions in steps, as M1 learns them; files by name to their rows."""
        return self._examples(folder, "ift", IFT, lambda row: ift_example(row, self.prompts))

    def eft(self, folder: Path) -> dict[str, int]:
        """Judged pairs of steps, as M1 learns them."""
        judge = self.config.judge
        return self._examples(folder, "eft", EFT, lambda row: eft_example(row, self.prompts, judge))

    def _examples(
        self, folder: Path, name: str, schema: pa.Schema, example: Callable[[Row], SFTExample]
    ) -> dict[str, int]:
        def rows() -> Iterator[Row]:
            for row in read_rows([self.data / f"{name}.parquet"]):
                made = example(row)
                for prompt, completion in made.paths:
                    texts = {
                        "prompt": self.decoder.prompt(prompt),
                        "completion": self.decoder.text(completion),
                    }
                    yield {key: row.get(key) for key in schema.names} | texts

        return {"train": write_parquet(folder / "data" / "train.parquet", rows(), schema)}

    def preferences(self, folder: Path, stages: dict[int, Path]) -> dict[str, int]:
        """The step preferences of some iterations, each from its stage's folder."""
        files = {}
        for iteration, stage in stages.items():
            name = f"iteration-{iteration}"
            rows = self._preference_rows(stage, iteration)
            num = write_parquet(folder / "data" / f"{name}.parquet", rows, PREFERENCES)
            if num:
                files[name] = num
        return files

    def _preference_rows(self, stage: Path, iteration: int) -> Iterator[Row]:
        for row in read_rows(shards(stage / PAIRS)):
            yield {key: row.get(key) for key in PREFERENCES.names} | {
                "prompt": self.decoder.prompt(row["prompt_ids"]),
                "chosen": self.decoder.text(row["chosen_ids"]),
                "rejected": self.decoder.text(row["rejected_ids"]),
                "iteration": iteration,
                "prompt_token_ids": row["prompt_ids"],
                "chosen_token_ids": row["chosen_ids"],
                "rejected_token_ids": row["rejected_ids"],
            }
