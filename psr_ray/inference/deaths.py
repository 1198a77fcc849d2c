"""Engines that died of themselves, in a stage's folder: what was at work in them, and why they died.

A problem that kills its engine takes others' work with it every time it is tried. Each death leaves a
file with the rows that were at work. They are tried again one at a time beside unsuspected ones; a row
at work in a second death is set aside.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

from psr_ray.errors import PsrError
from psr_ray.storage.files import read_json, write_text
from psr_ray.storage.shards import Key

FOLDER = "deaths"
REFUSAL = "start.json"
# Deaths after which a row is set aside.
MAX_ROW_DEATHS = 2
# Restarts of engines in a row without one finished row between them, for each engine of the pool.
MAX_IDLE_RESTARTS = 4


class EngineKilled(Exception):
    """The reason of a row that was set aside: why its engines died, death by death."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__(f"at work in {len(reasons)} engines that died: {'; '.join(reasons)}")


class Deaths:
    """The deaths recorded in a stage's folder, by whichever worker."""

    def __init__(self, stage: Path) -> None:
        self.folder = stage / FOLDER

    def record(self, reason: str, suspects: Iterable[Key]) -> None:
        """An engine is about to end; ``suspects`` were at work."""
        death = {"reason": reason, "suspects": [list(key) for key in suspects]}
        write_text(self.folder / f"death-{uuid.uuid4().hex}.json", json.dumps(death))

    def reasons(self) -> dict[Key, list[str]]:
        """Why the engines died in which a row was at work."""
        found: dict[Key, list[str]] = {}
        for path in sorted(self.folder.glob("death-*.json")):
            death = read_json(path) or {}
            for task, name in death["suspects"]:
                found.setdefault((task, name), []).append(death["reason"])
        return found

    def begin(self) -> None:
        """A command starts engines: what earlier ones' starts came to no longer counts."""
        for path in (self.folder / REFUSAL, *self.folder.glob("restart-*.json")):
            path.unlink(missing_ok=True)

    def refused(self, error: BaseException) -> None:
        """An engine could not be started. (Ray hands on an actor's last words as text alone.)"""
        lines = str(error).strip().splitlines() or ["no reason given"]
        said = lines[0] if isinstance(error, PsrError) else f"{type(error).__name__}: {lines[0]}"
        write_text(self.folder / REFUSAL, json.dumps({"reason": said}))

    def refusal(self) -> str | None:
        """Why an engine could not be started, where one could not."""
        found = read_json(self.folder / REFUSAL)
        return None if found is None else str(found["reason"])

    def started(self, num_finished: int, num_engines: int, *, again: bool) -> None:
        """An engine is about to start; ``again`` where it takes the place of a dead one.

        Raises ``PsrError`` where engines only die: the pool was started again several times over, and no
        row was finished meanwhile.
        """
        if again:
            write_text(
                self.folder / f"restart-{uuid.uuid4().hex}.json",
                json.dumps({"num_finished": num_finished}),
            )
        counts = [read_json(path) or {} for path in self.folder.glob("restart-*.json")]
        idle = sum(count["num_finished"] == num_finished for count in counts)
        if idle > MAX_IDLE_RESTARTS * num_engines:
            reasons = [why for whys in self.reasons().values() for why in whys]
            said = reasons[-1] if reasons else "their processes were killed; out of memory?"
            raise PsrError(
                f"{self.folder.parent}: engines were started again {idle} times and finished nothing "
                f"({said}); finished rows are kept, mend the cause and run the same command"
            )
