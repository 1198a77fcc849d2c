"""Rows in shards: pooled over batches, none lost with its worker, none twice."""

import threading

import pyarrow as pa
import pytest
from conftest import ROOT

from actors.desk import StageWork
from actors.ledger import EngineLedger
from benchmarks.simulated import SimulatedWorker
from psr_ray.config.file import load_config
from psr_ray.data.rows import TASK_SCHEMA
from psr_ray.errors import PsrError
from psr_ray.storage.files import write_text
from psr_ray.storage.shards import (
    ShardWriter,
    complete,
    drop_doubles,
    finished_ids,
    read_rows,
    reopen,
    shards,
    write_shard,
)

SCHEMA = pa.schema([("id", pa.string())])


def writer_into(folder, rows_per_shard=4):
    return ShardWriter(lambda task: (folder / task, SCHEMA), rows_per_shard)


def test_rows_are_pooled_over_batches_and_the_last_ones_are_not_kept_waiting(tmp_path):
    writer = writer_into(tmp_path)
    writer.expect(3)
    writer.expect(3)
    for number in range(4):
        assert not shards(tmp_path / "search")
        writer.add("search", {"id": str(number)})
    writer.wait([("search", "0"), ("search", "3")])
    assert finished_ids(tmp_path / "search") == {"0", "1", "2", "3"}
    writer.add("search", {"id": "4"})
    assert len(shards(tmp_path / "search")) == 1
    writer.add("solve", {"id": "4"})  # nothing else is in flight: both are written
    writer.wait([("search", "4"), ("solve", "4")])
    assert [len(shards(tmp_path / task)) for task in ("search", "solve")] == [2, 1]


def test_a_worker_that_ends_leaves_what_it_finished(tmp_path):
    writer = writer_into(tmp_path)
    writer.expect(3)
    writer.add("search", {"id": "a"})
    writer.flush()
    assert finished_ids(tmp_path / "search") == {"a"}


def test_a_write_that_fails_is_told_to_every_batch(tmp_path):
    (tmp_path / "search").write_text("a file where the folder should be")
    writer = writer_into(tmp_path, rows_per_shard=2)
    writer.expect(3)
    told = []

    def wait_for_a():
        try:
            writer.wait([("search", "a")])
        except OSError as error:
            told.append(error)

    waiting = threading.Thread(target=wait_for_a)
    waiting.start()
    writer.add("search", {"id": "a"})
    with pytest.raises(OSError, match="search"):
        writer.add("search", {"id": "b"})
    waiting.join(10)
    assert len(told) == 1


def test_doubles_are_dropped(tmp_path):
    for ids in ("ab", "bc", "c", "a", "d"):
        write_shard(tmp_path, [{"id": value} for value in ids], SCHEMA)
    num, left = drop_doubles(tmp_path)
    assert num == 4
    assert sorted(row["id"] for row in read_rows(shards(tmp_path))) == list("abcd")
    assert drop_doubles(tmp_path) == (4, left)  # nothing changes


def test_what_comes_late_to_a_complete_folder_does_not_count(tmp_path):
    for ids in ("ab", "bc"):
        write_shard(tmp_path, [{"id": value} for value in ids], SCHEMA)
    complete(tmp_path, drop_doubles(tmp_path)[1])
    for ids in ("ab", "bc", "a"):  # of an engine that was cut off
        write_shard(tmp_path, [{"id": value} for value in ids], SCHEMA)
    assert sorted(row["id"] for row in read_rows(shards(tmp_path))) == list("abc")
    assert finished_ids(tmp_path) == set("abc")
    reopen(tmp_path)
    assert drop_doubles(tmp_path)[0] == 3


def test_a_batch_handed_out_again_skips_what_the_dead_worker_finished(tmp_path):
    config = load_config(ROOT / "configs" / "smoke.yaml", ("engine.rows_per_shard=2",))
    names = [f"p{i}" for i in range(5)]
    rows = [dict.fromkeys(TASK_SCHEMA.names) | {"task": "search", "id": name} for name in names]
    batch = pa.Table.from_pylist(rows, schema=TASK_SCHEMA)
    EngineLedger(tmp_path).open()
    dead = SimulatedWorker()
    dead.open(StageWork("0.001,0", config, tmp_path))
    [desk] = dead.desks.values()
    assert desk.ledger.is_new(rows)
    desk.shards.expect(5)
    for name in names[:2]:
        desk.shards.add("search", {"id": name, "end": "dead", "error": None})
    desk.shards.add("search", {"id": names[2], "end": "dead", "error": None})  # pooled, and lost
    other = SimulatedWorker()
    other.open(StageWork("0.001,0", config, tmp_path), replaces=True)
    assert other.do(str(tmp_path), batch)["rows"].to_pylist() == [5]
    found = {row["id"]: row["end"] for row in read_rows(shards(tmp_path / "search"))}
    assert sorted(found) == names
    assert [name for name in names if found[name] == "dead"] == names[:2]
    assert len(list((tmp_path / "engines").glob("batch-*"))) == 1


class Failing(SimulatedWorker):
    def _load(self, _desk):
        raise OSError("no memory\nfor this")


def test_an_engine_that_cannot_start_says_why(tmp_path):
    config = load_config(ROOT / "configs" / "smoke.yaml")
    EngineLedger(tmp_path).open()
    with pytest.raises(PsrError, match="no engine could be started for m0: OSError: no memory for"):
        Failing().open(StageWork("m0", config, tmp_path))


def test_a_shard_cut_off_by_a_machine_that_failed_is_one_line_that_says_which(tmp_path):
    path = write_shard(tmp_path, [{"id": "a"}], SCHEMA)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(PsrError, match=rf"{path.name}: cannot be read .* delete it"):
        finished_ids(tmp_path)


def test_a_file_that_could_not_be_written_leaves_the_old_one_and_nothing_else(tmp_path):
    write_text(tmp_path / "a.json", "{}")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.json", "[" * 10**6 + "\ud800")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "{}"
