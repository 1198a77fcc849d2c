"""Seed data as stages of a run: made from named sources, resumed, planned, shown."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from typing import ClassVar

import psutil
import pytest
from conftest import ROOT, SECRET
from json_server import serving
from rich.console import Console
from teacher import GSM8K, Teacher, prm800k

from benchmarks.heads import children
from psr_ray.config.file import load_config
from psr_ray.data.stage import check_sources
from psr_ray.doctor import check_data
from psr_ray.errors import PsrError
from psr_ray.planning.show import print_plan
from psr_ray.report.html import write_report
from psr_ray.report.status import print_status
from psr_ray.report.summary import write_summary
from psr_ray.runs import RunDirectory
from psr_ray.stages import planned_stages
from psr_ray.storage.folders import contents
from psr_ray.storage.shards import num_rows, read_rows, shards

SMOKE = ROOT / "configs" / "smoke.yaml"
IFT = f"seed_data.ift={{sources: [{{kind: file, path: {GSM8K}, num: 40}}]}}"
SEED = (IFT, "data.ift={kind: seed, num: 30}")


def said(show, *arguments):
    text = io.StringIO()
    show(*arguments, Console(file=text, width=200))
    return text.getvalue()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["data.ift={kind: seed}"], r"`data\.ift\.kind: seed` needs `seed_data\.ift`"),
        (
            ["data.heldout={kind: seed}"],
            r"`data\.heldout`: `kind: seed` is for `ift`, `eft` and `ju",
        ),
        ([IFT], r"`seed_data\.ift` makes rows that nothing reads: set `data\.ift\.kind: seed`"),
        ([*SEED, "sft=null"], r"needs `seed_data\.ift`, and an `sft`"),
        (["seed_data.eft={}"], "`problems` or `prm800k` must name a source"),
        (["data.ift={kind: seed, path: x}"], "`path` goes with `kind: file`"),
        (
            ["seed_data.ift={sources: [{num: 5}]}"],
            r"ift\.sources\[0\]`: `kind` must be file, hub or",
        ),
    ],
)
def test_rows_that_nothing_makes_or_reads_are_named(overrides, says):
    with pytest.raises(PsrError, match=says):
        load_config(SMOKE, overrides)


def test_seed_stages_stand_first_and_the_datas_key_follows_theirs():
    def keys(*overrides):
        config = load_config(SMOKE, (*SEED, *overrides))
        return {p.stage.name: p.stage.key for p in planned_stages(RunDirectory(config))}

    before = keys()
    assert list(before)[:2] == ["seed-ift", "data"]
    other = keys("data.heldout.num=3")
    assert other["seed-ift"] == before["seed-ift"]
    for change in ("seed_data.ift.max_steps=5", "data.benchmarks=[gsm8k]"):
        after = keys(change)
        assert after["seed-ift"] != before["seed-ift"]
        assert after["data"] != before["data"]
    by_model = keys("seed_data.ift.divide_by=model")
    assert by_model["seed-ift"] != keys("seed_data.ift.divide_by=model", "judge.max_tokens=9")


def test_the_plan_and_the_doctor_know_the_seed_data(tmp_path):
    eft = "seed_data.eft={problems: [{kind: hub, path: math, num: 50}]}"
    config = load_config(SMOKE, (*SEED, eft, "data.eft={kind: seed}", f"runs_dir={tmp_path}"))
    plan = said(print_plan, config)
    assert "seed-ift" in plan
    assert "by rule" in plan
    assert "at most about" in plan.split("seed-eft")[-1]
    found = check_data(config)
    assert "seed_data.eft.problems[0]: DigitalLearningGmbH/MATH-lighteval from the Hub" in found
    missing = config.seed_data.ift.model_copy(
        update={
            "sources": [config.seed_data.ift.sources[0].model_copy(update={"path": "no.jsonl"})]
        }
    )
    seed_data = config.seed_data.model_copy(update={"ift": missing})
    with pytest.raises(PsrError, match=r"seed_data\.ift\.sources\[0\]: .*no\.jsonl: no such file"):
        check_data(config.model_copy(update={"seed_data": seed_data}))


RUN = """
import sys
from actors.pipeline import run_pipeline
from psr_ray.config.file import load_config
from psr_ray.report.display import NoDisplay
stages, config, *overrides = sys.argv[1:]
wanted = stages.split()
run_pipeline(load_config(config, overrides), NoDisplay(), wanted=lambda p: p.stage.name in wanted)
"""


def start(stages, overrides):
    """Start some stages of a run, in a process whose Ray has the teacher's key."""
    return subprocess.Popen(
        [sys.executable, "-c", RUN, stages, str(SMOKE), *overrides], text=True, cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ | {"TEACHER_KEY": SECRET},
    )  # fmt: skip


def do(stages, overrides):
    """Some stages of a run, to their end."""
    with start(stages, overrides) as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]


def seed_settings(folder, teacher, num):
    """A run in ``folder`` whose seed data a teacher judges, and which has ``num`` problems to search."""
    problems, labelled = folder / "problems.jsonl", folder / "phase2.jsonl"
    shutil.copy(GSM8K, problems)
    prm800k(labelled, 10, 30)
    return problems, (
        f"runs_dir={folder}",
        "model.max_length=700", "sft.tokens_per_pass=700", "dpo.tokens_per_pass=700",
        f"seed_data.ift={{sources: [{{kind: file, path: {problems}, num: 40}}]}}",
        f"seed_data.eft={{prm800k: [{{kind: file, path: {labelled}}}], "
        f"problems: [{{kind: file, path: {problems}, num: {num}}}]}}",
        "seed_data.num_rollouts=2", "search.max_steps=2",
        f"seed_data.endpoint={{url: '{teacher}/v1', model: t, key_variable: TEACHER_KEY}}",
        "data.ift={kind: seed, num: 30}", "data.eft={kind: seed, num: 50}",
        "data.judge={kind: seed}",
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_makes_its_seed_data_and_resumes(tmp_path):
    with serving(Teacher) as teacher:
        problems, overrides = seed_settings(tmp_path, teacher, 2)
        do("seed-ift", overrides)
        before = (tmp_path / "smoke" / "seed-ift" / "ift.parquet").stat().st_mtime_ns
        do("seed-ift seed-eft data", overrides)
    config = load_config(SMOKE, overrides)
    summary = write_summary(RunDirectory(config))
    run = tmp_path / "smoke"
    assert (run / "seed-ift" / "ift.parquet").stat().st_mtime_ns == before
    ift = list(read_rows([run / "data" / "ift.parquet"]))
    assert len(ift) == 30
    assert all(row["solution"].startswith("Step 1: ") for row in ift)
    figures = summary["seed_data"]
    assert figures["seed-ift"]["kept"] + sum(figures["seed-ift"]["rejected"].values()) == 40
    eft, judge = (list(read_rows([run / "data" / f"{n}.parquet"])) for n in ("eft", "judge"))
    assert len(eft) == min(50, figures["seed-eft"]["kept"])
    assert len(judge) == figures["seed-eft"]["test"] > 0
    assert not {row["problem"] for row in eft} & {row["problem"] for row in judge}
    assert figures["seed-eft"]["trees"] == 2
    status = said(print_status, run)
    assert "seed-eft" in status
    assert "kept" in status
    report = write_report(run, summary).read_text()
    assert f"seed-ift: {figures['seed-ift']['kept']} rows kept to learn from" in report
    manifests = {p.stage.name: p.stage.manifest for p in planned_stages(RunDirectory(config))}
    for name in ("seed-ift", "seed-eft", "data"):
        check_sources(config, name, manifests[name])
    with problems.open("a") as file:
        file.write(json.dumps({"question": "1+1?", "answer": "#### 2"}) + "\n")
    with pytest.raises(PsrError, match=r"problems\.jsonl has changed since this run read it"):
        check_sources(config, "seed-ift", manifests["seed-ift"])
    with pytest.raises(PsrError, match="--force seed-eft to redo the run with it"):
        check_sources(config, "seed-eft", manifests["seed-eft"])
    # another judge or a lower gap: the trees are not searched again
    other = config.seed_data.model_copy(update={"min_gap": 0.1})
    changed = RunDirectory(config.model_copy(update={"seed_data": other}))
    [eft] = [p.stage for p in planned_stages(changed) if p.stage.name == "seed-eft"]
    assert not eft.is_complete
    eft.open()
    assert sorted(contents(eft.folder)) == ["_KEY", "judgements", "trees"]
    assert (eft.folder / "trees" / "_MANIFEST.json").is_file()


class SlowTeacher(Teacher):
    """Answers one request at a time."""

    turn = threading.Lock()
    asked_for: ClassVar[list[str]] = []

    def do_POST(self):
        with self.turn:
            time.sleep(0.1)
            with contextlib.suppress(BrokenPipeError):  # whoever asked was killed
                super().do_POST()

    def asked(self):
        body = super().asked()
        self.asked_for.append(body["messages"][0]["content"])
        return body


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.long
def test_trees_and_judgements_resume_where_they_were_killed(tmp_path):
    """Killed in the middle of the trees, then of the judgements: what is stored is not done again."""
    eft, asked, kept = tmp_path / "smoke" / "seed-eft", SlowTeacher.asked_for, {}
    with serving(SlowTeacher) as teacher:
        _, overrides = seed_settings(tmp_path, teacher, 8)
        overrides += ("engine.rows_per_shard=1", "engine.max_rows_in_flight=4")
        for kind in ("trees", "judgements"):
            with start("seed-eft", overrides) as process:
                while not list((eft / kind).glob("*/part-*.parquet")):
                    assert process.poll() is None, process.stderr.read()[-3000:]
                    time.sleep(0.02)
                family = children(process.pid, "")
                for member in [process, *family]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        member.kill()
                psutil.wait_procs(family, timeout=30)
            assert not (eft / kind / "_MANIFEST.json").exists()
            kept |= {path: path.stat().st_mtime_ns for path in eft.glob("*/*/part-*.parquet")}
        stored = num_rows((eft / "judgements").glob("*/part-*.parquet"))
        before = -1
        while before != len(asked):  # some may still wait for their turn
            before = len(asked)
            time.sleep(1)
        do("seed-eft", overrides)
    assert {path.parent.name for path in kept} == {"tree", "write"}
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    rows = {
        kind: [row["id"] for row in read_rows(shards(eft / kind / task))]
        for kind, task in (("trees", "tree"), ("judgements", "write"))
    }
    assert all(len(ids) == len(set(ids)) for ids in rows.values())
    assert len(rows["trees"]) == 8
    facts = json.loads((eft / "_MANIFEST.json").read_text())
    assert len(rows["judgements"]) == 2 * facts["pairs"]
    assert 0 < stored < len(rows["judgements"])
    assert len(asked) - before == len(rows["judgements"]) - stored
