"""A stage's place at an engine: what it asks for, whose rows come in, where they go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from actors.ledger import EngineLedger
from psr_ray.config import Config
from psr_ray.data.rows import key_of
from psr_ray.inference.tasks import TASKS
from psr_ray.method.prompts import PromptBuilder
from psr_ray.storage.files import Json, Row
from psr_ray.storage.shards import ShardWriter, finished_ids, num_rows
from psr_ray.telemetry.counters import RowMetrics
from psr_ray.telemetry.logs import StageLogger
from psr_ray.telemetry.traces import Tracer


@dataclass(frozen=True)
class StageWork:
    """What an engine does in a stage: by which model, with which other one as its judge (None: the model
    itself), and where its rows go."""

    model: str
    config: Config
    folder: Path
    judge: str | None = None
    attempt: str = ""
    """Which driver's: one that starts the stage again does not get the rows of one that died."""


class Desk:
    """A stage's place at an engine: whose rows come in, and where they go."""

    prompts: PromptBuilder
    mark: Json
    doubt: str | None = None
    """How a fresh engine and the trainer disagree about the model."""

    def __init__(self, work: StageWork, client: str) -> None:
        self.work, self.client = work, client
        self.config, self.folder = work.config, work.folder
        self.shards = ShardWriter(self._place, work.config.engine.rows_per_shard)
        self.metrics = RowMetrics(work.folder)
        self.log = StageLogger(work.folder)
        self.tracer = Tracer(work.folder, work.config.telemetry.num_traces)
        self.ledger = EngineLedger(work.folder)
        self.num_open = 0  # batches

    def is_left_by(self, work: StageWork, client: str) -> bool:
        """Whether it has open batches whose client has died, now that a client asks for some work."""
        same_driver = self.work.attempt == work.attempt and self.work.model == work.model
        same_client = self.client == client or self.folder != work.folder
        return self.num_open > 0 and not (same_driver and same_client)

    def num_finished(self) -> int:
        """Rows of the stage that are in shards, of all engines."""
        return num_rows(self.folder.glob("*/part-*.parquet"))

    def unfinished(self, rows: list[Row]) -> list[Row]:
        """The rows that the worker which died with this batch had not finished."""
        names = {key_of(row)[0] for row in rows}
        done = {name: finished_ids(self.folder / name) for name in names}
        return [row for row in rows if row["id"] not in done[key_of(row)[0]]]

    def _place(self, name: str) -> tuple[Path, pa.Schema]:
        """The folder and the columns of an output (``benchmark-solve``: those of the task ``solve``)."""
        schema = TASKS[name.rpartition("-")[2]].schema
        return self.folder / name, schema.append(pa.field("weights", pa.string()))
