"""Sources of rows: kinds of files, and datasets from a server on loopback that answers as the Hub."""

import csv
import gzip
import json
import subprocess
import sys

import pytest
from conftest import ROOT
from datasets import Dataset, DatasetDict

from psr_ray.config import SourceConfig
from psr_ray.data.files import Failures
from psr_ray.data.hub import TRAINING_SETS, hub_file
from psr_ray.data.sources import problem_rows
from psr_ray.errors import PsrError

ROWS = [{"id": f"p{i}", "problem": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(6)]


def read(path, **settings):
    failures = Failures()
    source = SourceConfig(kind="file", path=str(path), **settings)
    return list(problem_rows(source, "train", "search", 0, failures)), failures.items


def lines_of(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_jsonl(folder):
    (folder / "p.jsonl").write_text(lines_of(ROWS))
    return folder / "p.jsonl"


def as_packed(folder):
    with gzip.open(folder / "p.jsonl.gz", "wt") as file:
        file.write(lines_of(ROWS))
    return folder / "p.jsonl.gz"


def as_csv(folder):
    with (folder / "p.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "problem", "answer"])
        writer.writeheader()
        writer.writerows(ROWS)
    return folder / "p.csv"


def as_parquet(folder):
    Dataset.from_list(ROWS).to_parquet(str(folder / "p.parquet"))
    return folder / "p.parquet"


def as_saved(folder):
    Dataset.from_list(ROWS).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def as_parts(folder):
    (folder / "part-0.jsonl").write_text(lines_of(ROWS[:4]))
    (folder / "part-1.jsonl").write_text(lines_of(ROWS[4:]))
    return folder / "part-*.jsonl"


@pytest.mark.parametrize(
    "written", [as_jsonl, as_packed, as_csv, as_parquet, as_saved, as_parts], ids=lambda f: f.__name__
)  # fmt: skip
def test_the_same_problems_are_read_from_every_kind_of_file(written, tmp_path):
    rows, failed = read(written(tmp_path))
    assert [(row["id"], row["problem"], row["answer"]) for row in rows] == [
        tuple(row.values()) for row in ROWS
    ]
    assert not failed


def test_columns_have_our_names_or_are_named_with_those_that_are_there(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(lines_of([{"prompt": "1+1?", "target": 2, "text": "no problem"}]))
    [row], _ = read(path, columns={"problem": "prompt", "answer": "target"})
    assert (row["problem"], row["answer"]) == ("1+1?", "2")
    with pytest.raises(
        PsrError, match=r"no column task \(it has prompt, target, text\); correct `col"
    ):
        read(path, columns={"problem": "task"})
    path.write_text(lines_of([{"prompt": "1+1?"}, {"other": "x"}, {"prompt": "2+1?"}]))
    rows, [failed] = read(path, columns={"problem": "prompt"})
    assert [row["problem"] for row in rows] == ["1+1?", "2+1?"]
    assert (failed["line"], failed["reason"][:16]) == (2, "no column prompt")


def test_a_spreadsheets_csv_and_its_broken_lines(tmp_path):
    path, long = tmp_path / "p.csv", "x" * 200_000
    path.write_bytes(
        "\ufeffproblem,answer\r\n1+1?,2\r\n1+2?,3,4\r\n".encode()
        + f'"{long}",5\r\n"two\nlines",6\r\n'.encode()
    )
    rows, [failed] = read(path)
    assert [(row["problem"], row["answer"]) for row in rows] == [
        ("1+1?", "2"), (long, "5"), ("two\nlines", "6")
    ]  # fmt: skip
    assert (failed["line"], failed["reason"]) == (3, "more values than columns")
    path.write_text('problem,answer\n1+1?,2\n"1+2?,3\n1+3?,4\n')
    rows, [failed] = read(path)
    assert len(rows) == 1
    assert failed["reason"].startswith("not CSV: unexpected end of data")


def test_files_that_number_their_records_alike_lose_none(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(
            lines_of([{"id": i, "problem": f"{name} {i}?"} for i in (1, 2, 2)])
        )
    rows, failed = read(tmp_path / "*.jsonl")
    assert [row["id"] for row in rows] == ["1", "2", "b/1", "b/2"]
    assert [item["reason"] for item in failed] == [
        "id '2' occurs a second time", "id 'b/2' occurs a second time"
    ]  # fmt: skip


def test_names_with_brackets_and_saved_splits(tmp_path):
    (tmp_path / "p[1].jsonl").write_text(lines_of(ROWS))
    assert len(read(tmp_path / "p[1].jsonl")[0]) == 6
    DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS)}).save_to_disk(
        str(tmp_path / "saved")
    )
    with pytest.raises(PsrError, match=r"a folder of splits \(test, train\); name one of them"):
        read(tmp_path / "saved")
    assert len(read(tmp_path / "saved" / "train")[0]) == 6


def test_the_reason_of_a_source_without_a_usable_row_is_its_own(tmp_path):
    (tmp_path / "none.jsonl").write_text("")
    failures = Failures([{"file": "other", "line": 1, "reason": "of another"}])
    source = SourceConfig(kind="file", path=str(tmp_path / "none.jsonl"))
    with pytest.raises(PsrError, match=r"not one usable row \(it is empty\)"):
        list(problem_rows(source, "train", "search", 0, failures))


def test_problems_that_say_that_they_have_no_answer_have_none(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(
        lines_of([{"problem": f"{a}?", "answer": a} for a in ("proof", "notfound", "3")])
    )
    assert [row["answer"] for row in read(path)[0]] == [None, None, "3"]


def test_a_broken_archive_and_a_glob_without_files_are_named(tmp_path):
    path = tmp_path / "p.jsonl.gz"
    whole = gzip.compress(lines_of(ROWS * 500).encode())
    for broken in (b"no archive", whole[:400], whole[:100] + b"\0" * 300 + whole[400:]):
        path.write_bytes(broken)
        with pytest.raises(PsrError, match=r"p\.jsonl\.gz: cannot be unpacked"):
            read(path)
    with pytest.raises(PsrError, match=r"none-\*\.csv: no such file; correct `path`"):
        read(tmp_path / "none-*.csv")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": "hub"}, "`path` goes with `kind: file` or `kind: hub`"),
        ({"kind": "file", "path": "x.jsonl", "revision": "main"}, "go with `kind: hub`"),
        ({"kind": "file", "path": "x.jsonl", "split": "test"}, "`split` goes with `kind: hub`"),
        ({"split": "test"}, "`split` goes with `kind: hub`, or is `dev`"),
    ],
)
def test_settings_that_do_not_go_together_are_named(settings, says):
    with pytest.raises(ValueError, match=says):
        SourceConfig(**settings)


def test_training_sets_have_names_and_their_splits_may_be_chosen():
    assert set(TRAINING_SETS) >= {"gsm8k", "math", "numinamath"}
    assert hub_file(SourceConfig(kind="hub", path="gsm8k"))[:3] == ("openai/gsm8k", "main", "train")
    own = SourceConfig(kind="hub", path="me/set", split="validation", config="easy")
    assert hub_file(own)[:3] == ("me/set", "easy", "validation")


DRAW = """
import resource, sys, time
from psr_ray.config import SourceConfig
from psr_ray.data.decontamination import Benchmarks
from psr_ray.data.files import Failures
from psr_ray.data.sources import problem_rows
from psr_ray.data.stage import EVERYTHING, drawn, without_held_out
source = SourceConfig(kind="file", path=sys.argv[1]).model_copy(update={"num": EVERYTHING})
failures, started = Failures(), time.monotonic()
problems = problem_rows(source, "train", "search", 0, failures)
rows = without_held_out(problems, Benchmarks(), "train", failures)
first = next(rows)
first_s = time.monotonic() - started
print(len(drawn(rows, 400, 0)), first_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.faults
@pytest.mark.long
def test_of_a_million_problems_the_first_come_at_once_and_few_are_kept_in_memory(tmp_path):
    found = {}
    for num in (10_000, 1_000_000):
        path = tmp_path / f"{num}.jsonl"
        with path.open("w") as file:
            for i in range(num):
                text = f"A train of {i} wagons, each of {i + 7} tons, stops. How heavy is it?"
                file.write(json.dumps({"problem": text, "answer": str(i * (i + 7))}) + "\n")
        done = subprocess.run(
            [sys.executable, "-c", DRAW, str(path)], capture_output=True, text=True, check=False,
            cwd=ROOT, timeout=500,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        found[num] = [float(value) for value in done.stdout.split()]
    (few, _, before), (many, first_s, after) = found.values()
    assert few == many == 400
    assert first_s < 5
    assert after - before < 300  # MiB: the ids of a million problems, not the problems
