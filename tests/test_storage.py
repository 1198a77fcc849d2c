"""Runs in an object store: files, folders, claims, copies; a complete run on a real S3 server."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import boto3
import pyarrow as pa
import pytest
from botocore.exceptions import ConnectTimeoutError
from conftest import TINY
from stores import BUCKET, Store

from psr_ray import runs
from psr_ray.cluster.nodes import probe, versions_here
from psr_ray.config.file import load_config
from psr_ray.doctor import check_model
from psr_ray.errors import PsrError
from psr_ray.runs import RunDirectory, Stage, fingerprint
from psr_ray.storage import lease
from psr_ray.storage.files import read_json, read_table, write_table, write_text
from psr_ray.storage.folders import HOLDER, FolderLock, contents, disk_checked, write_problem
from psr_ray.storage.locations import (
    is_remote,
    local_copy,
    location,
    remove,
    store_of,
    upload,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store") / "log")
    with store.used():
        yield store
    store.end()


@pytest.fixture
def folder(store, request):
    return location(f"s3://{BUCKET}/{request.node.name}")


def test_files_are_written_atomically_and_read_back(folder):
    write_text(folder / "a.json", json.dumps({"b": 1}))
    write_table(folder / "part-1.parquet", pa.table({"id": ["x", "y"], "n": [1, 2]}))
    assert read_json(folder / "a.json") == {"b": 1}
    assert read_json(folder / "none.json") is None
    assert read_table(folder / "part-1.parquet", ["id"])["id"].to_pylist() == ["x", "y"]
    assert sorted(contents(folder)) == ["a.json", "part-1.parquet"]
    remove(folder)
    assert contents(folder) == []
    assert is_remote(folder)
    assert not is_remote(location("runs"))


def test_json_that_is_replaced_meanwhile_is_read_consistently(folder):
    over = threading.Event()

    def replace():
        number = 0
        while not over.is_set():
            number += 1
            write_text(folder / "progress.json", json.dumps({"number": number, "x": "x" * number}))

    write_text(folder / "progress.json", "{}")
    writer = threading.Thread(target=replace)
    writer.start()
    try:
        for _ in range(60):
            found = read_json(folder / "progress.json")
            assert len(found.get("x", "")) == found.get("number", 0)
    finally:
        over.set()
        writer.join()


def test_stage_is_opened_finished_and_removed(folder):
    stage = Stage("search-1", folder / "search-1", "key")
    stage.open()
    write_text(stage.folder / "part", "1")
    assert stage.was_opened
    stage.open()
    assert contents(stage.folder) == ["_KEY", "part"]
    stage.finish(1.0, rows=3)
    assert stage.is_complete
    other = Stage("search-1", folder / "search-1", "other key")
    other.open()
    assert contents(stage.folder) == ["_KEY"]
    stage.remove()
    assert not stage.folder.exists()


def test_second_holder_is_refused_and_told_who_has_it(folder, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 0.1)
    monkeypatch.setattr(lease, "LOOK_S", 0.5)
    with FolderLock(folder):
        with pytest.raises(PsrError, match=f"in use by process {os.getpid()} on "):
            FolderLock(folder).acquire()
        time.sleep(0.5)
    assert not (folder / HOLDER).exists()
    with FolderLock(folder):
        pass


def test_dead_process_of_this_machine_holds_nothing(folder):
    script = (
        "import os, signal, sys; from psr_ray.storage.folders import FolderLock; "
        "from psr_ray.storage.locations import location; FolderLock(location(sys.argv[1])).acquire(); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(folder)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert (folder / HOLDER).exists()
    started = time.time()
    with FolderLock(folder):
        assert time.time() - started < 5


def test_a_process_is_known_by_its_start_which_no_clock_changes(tmp_path):
    odd = tmp_path / "a) b (cdefghijä"  # of its name 15 bytes are kept, half of the last letter
    odd.symlink_to("/bin/sleep")
    other = subprocess.Popen([odd, "60"])
    up = float(Path("/proc/uptime").read_text().split()[0])
    started = lease.start_of(other.pid)
    other.kill()
    other.wait()
    assert started == pytest.approx(up * os.sysconf("SC_CLK_TCK"), abs=100)
    assert lease.start_of(other.pid) is None


def test_silent_holder_of_another_machine_expires(folder, monkeypatch):
    monkeypatch.setattr(lease, "EXPIRY_S", 1.0)
    monkeypatch.setattr(lease, "LOOK_S", 0.2)
    owner = {"pid": 1, "host": "elsewhere", "machine": "other", "started": 1, "since": "then"}
    write_text(folder / HOLDER, json.dumps(owner))
    started = time.time()
    with FolderLock(folder):
        assert 1.0 < time.time() - started < 10


def test_holder_that_lost_its_claim_is_ended(folder, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 0.1)
    ends = []
    monkeypatch.setattr(lease.os, "kill", lambda pid, number: ends.append((pid, number)))
    lock = FolderLock(folder)
    lock.acquire()
    write_text(folder / HOLDER, json.dumps({"pid": 1, "host": "elsewhere"}))
    time.sleep(1.5)
    assert ends == [(os.getpid(), signal.SIGTERM)]
    lock.release()
    assert read_json(folder / HOLDER) == {"pid": 1, "host": "elsewhere"}  # the other's stays


def test_model_is_copied_once_and_again_when_it_changed(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PSR_RAY_CACHE", str(tmp_path))
    upload(TINY, folder / "model")
    copy = Path(local_copy(folder / "model"))
    assert (copy / "model.safetensors").read_bytes() == (TINY / "model.safetensors").read_bytes()
    assert local_copy(folder / "model") == str(copy)
    small = Path(local_copy(str(folder / "model"), without=".safetensors"))
    assert not (small / "model.safetensors").exists()
    write_text(folder / "model" / "config.json", (TINY / "config.json").read_text() + " ")
    assert local_copy(folder / "model") != str(copy)
    os.utime(copy, (0, 0))
    write_text(folder / "model" / "config.json", (TINY / "config.json").read_text() + "  ")
    local_copy(folder / "model")
    assert not copy.exists()  # unused for hours
    assert local_copy("org/name") == "org/name"
    with pytest.raises(PsrError, match="no such folder in the store"):
        local_copy(folder / "nothing")


def test_of_a_model_in_a_store_only_the_parts_that_tell_it_are_read(folder, monkeypatch):
    upload(TINY, folder / "model")
    files, _ = store_of(folder)
    monkeypatch.setattr(
        runs, "PART_BYTES", 2**10
    )  # the tiny model's weights are longer than all parts

    def opened(*_arguments, **_options):
        raise AssertionError("read ahead")

    expected = fingerprint(str(TINY))
    with monkeypatch.context() as patched:
        patched.setattr(type(files), "open", opened)
        assert fingerprint(str(folder / "model")) == expected
        patched.setattr(runs, "read_parts", opened)
        assert fingerprint(str(folder / "model")) == expected  # known by its files' ETags
    config = (TINY / "config.json").read_text()
    write_text(folder / "model" / "config.json", config.swapcase())  # of the same size
    assert fingerprint(str(folder / "model")) != expected


def test_model_in_a_store_is_checked(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("PSR_RAY_CACHE", str(tmp_path))
    config = load_config("configs/smoke.yaml")
    upload(TINY, folder / "model")
    assert "config, tokenizer, weights" in check_model(str(folder / "model"), config)
    (folder / "model" / "model.safetensors").unlink()
    with pytest.raises(PsrError, match="no safetensors weights"):
        check_model(str(folder / "model"), config)
    with pytest.raises(PsrError, match="not found"):
        check_model(str(folder / "other"), config)


def test_a_bucket_has_one_file_system(folder):
    first = folder / "x"
    assert not first.exists()  # it connects
    assert store_of(folder / "y")[0] is store_of(first)[0]
    assert store_of(location(str(folder)))[0] is store_of(first)[0]


def test_store_that_refuses_is_one_line(store, monkeypatch):
    config = load_config("configs/smoke.yaml", ["runs_dir=s3://psr-ray-not-there/runs"])
    with pytest.raises(PsrError, match=r"psr-ray-not-there/runs/smoke cannot be written: .*bucket"):
        RunDirectory(config).claim()
    assert "bucket" in write_problem(location("s3://psr-ray-not-there/runs"))
    with pytest.raises(PsrError, match="storage of this kind cannot be used"):
        location("nosuch://x/y")


def test_a_bucket_that_may_be_read_alone_is_one_line(store):
    config = load_config("configs/smoke.yaml", ["runs_dir=s3://psr-ray-read-only/runs"])
    client = boto3.client("s3", endpoint_url=store.environment["AWS_ENDPOINT_URL"])
    client.create_bucket(Bucket="psr-ray-read-only")
    rule = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": ["s3:PutObject"],
        "Resource": "arn:aws:s3:::psr-ray-read-only/*",
    }
    policy = {"Version": "2012-10-17", "Statement": [rule]}
    marker = location("s3://psr-ray-read-only/runs/config.yaml")
    marker.write_text("")
    assert probe(marker, versions_here()) is None
    client.put_bucket_policy(Bucket="psr-ray-read-only", Policy=json.dumps(policy))
    said = probe(marker, versions_here())
    assert re.search(
        r"node \S+ cannot write to \S+read-only/runs \(Forbidden\): allow it \(its", said
    )
    with pytest.raises(PsrError, match=r"runs/smoke cannot be written: Forbidden; allow it"):
        RunDirectory(config).claim()


def test_a_store_that_fails_in_mid_run_is_one_line(folder):
    error = ConnectTimeoutError(endpoint_url="http://127.0.0.1:9/b/x", error=TimeoutError())
    said = pytest.raises(PsrError, match=r"the storage failed \(Connect timeout.*rerun")
    with said, disk_checked(folder):
        raise error
