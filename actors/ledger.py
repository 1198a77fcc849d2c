"""The ledger of a stage's engines: what was started, what they were given, and what died.

It is a folder of small files (``engines``) in the stage's folder, so it survives every process. It goes
when the stage's engines have ended.

| event | file | read by, and why |
|---|---|---|
| a command starts a pool | ``command.json``: its versions | an engine: it has this folder, and these versions |
| an engine is ready | ``engine-*.json``: node, processes, load time | an engine that cannot start: whether others work |
| an engine gets a batch | ``batch-*`` | an engine that gets it again: it skips the rows in shards |
| an engine dies or hangs | ``death-*.json``: reason, rows in flight | later engines: these rows run one at a time; a row in flight at ``MAX_ROW_DEATHS`` deaths fails |
| an engine is replaced | ``restart-*.json``: rows finished so far | a starting engine: too many restarts without progress end the stage |
"""  # noqa: E501 (a table)

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import psutil
import ray

from psr_ray.cluster.nodes import check_storage, check_versions, node_name, versions_here
from psr_ray.data.rows import key_of
from psr_ray.errors import PsrError
from psr_ray.storage.files import Json, Row, read_json, write_text
from psr_ray.storage.lease import start_of
from psr_ray.storage.locations import remove
from psr_ray.storage.shards import Key

# Deaths of engines after which a row that was in flight each time fails.
MAX_ROW_DEATHS = 2
# Restarts in a row without a finished row between them, for each engine of the pool.
MAX_IDLE_RESTARTS = 4


class EngineKilled(Exception):
    """Why a row failed: it was in flight in several engines that died."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__(f"in flight in {len(reasons)} engines that died: {'; '.join(reasons)}")


class EnginesOnlyDie(PsrError):
    """The pool was restarted several times and finished no row meanwhile."""


class EngineLedger:
    """The ledger of one stage; any process may open it."""

    def __init__(self, stage: Path) -> None:
        self.stage = stage
        self.folder = stage / "engines"

    def open(self) -> None:
        """A driver begins the stage: restarts and deaths of before no longer count."""
        for kind in ("restart", "death"):
            for path in self.folder.glob(f"{kind}-*.json"):
                path.unlink(missing_ok=True)
        write_text(self.folder / "command.json", json.dumps(versions_here()))

    def enter(self, num_finished: Callable[[], int], num_engines: int, replaces: bool) -> None:
        """An engine is about to start in this process, perhaps in the place of one that died.

        Raises ``PsrError`` where this node cannot take part, and ``EnginesOnlyDie``.
        """
        command = self.folder / "command.json"
        check_storage(command, node_name())
        check_versions(read_json(command) or {}, node_name())
        restarts = [read_json(path) or {} for path in self.folder.glob("restart-*.json")]
        if not replaces and not restarts:
            return
        now = num_finished()
        if replaces:
            restarts.append({"num_finished": now})
            self._write("restart", restarts[-1])
        idle = sum(restart["num_finished"] == now for restart in restarts)
        if idle > MAX_IDLE_RESTARTS * num_engines:
            reasons = [why for whys in self.suspects().values() for why in whys]
            why = reasons[-1] if reasons else "their processes were killed; out of memory?"
            raise EnginesOnlyDie(
                f"{self.stage}: engines were restarted {idle} times and finished nothing ({why}); "
                "finished rows are kept: fix the cause and rerun the command"
            )

    def ready(self, loading_s: float, doubt: str | None = None) -> Json:
        """This process and its children are an engine that can take rows; returns their mark. ``doubt``
        says how it and the trainer disagree about the model."""
        me = psutil.Process()
        family = [me, *me.children(recursive=True)]
        mark = {
            "node": ray.get_runtime_context().get_node_id() if ray.is_initialized() else None,
            "processes": [
                [process.pid, started]
                for process in family
                if (started := start_of(process.pid)) is not None  # it has just ended
            ],
            "loading_s": loading_s,
            "ready_at": time.time(),
            "doubt": doubt,
        }
        self._write("engine", mark)
        return mark

    def engines(self) -> list[Json]:
        """The engines that were ready, in that order."""
        marks = [read_json(path) or {} for path in self.folder.glob("engine-*.json")]
        return sorted(marks, key=lambda mark: float(mark["ready_at"]))

    def is_new(self, batch: Iterable[Row]) -> bool:
        """Note a batch that an engine was given; False where one was given it before, and died."""
        names = "\n".join("/".join(key_of(row)) for row in batch)
        mark = self.folder / f"batch-{hashlib.sha256(names.encode()).hexdigest()[:16]}"
        if mark.exists():
            return False
        write_text(mark, "")
        return True

    def died(self, reason: str, in_flight: Iterable[Key]) -> None:
        """An engine is about to end, with these rows in flight."""
        self._write("death", {"reason": reason, "suspects": [list(key) for key in in_flight]})

    def suspects(self) -> dict[Key, list[str]]:
        """The rows that were in flight when an engine died, with the reason of each death."""
        found: dict[Key, list[str]] = {}
        for path in sorted(self.folder.glob("death-*.json")):
            death = read_json(path) or {}
            for folder, name in death["suspects"]:
                found.setdefault((folder, name), []).append(death["reason"])
        return found

    def remove(self) -> None:
        """Remove the ledger."""
        remove(self.folder)

    def _write(self, kind: str, values: Json) -> None:
        write_text(self.folder / f"{kind}-{uuid.uuid4().hex}.json", json.dumps(values))
