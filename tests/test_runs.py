import json
import os
import random
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, TINY

from psr_ray.config.file import load_config
from psr_ray.data.rows import TASK_SCHEMA
from psr_ray.data.stage import check_sources, source_digests, write_data
from psr_ray.errors import PsrError
from psr_ray.method.prompts import BUILT_IN, own_templates
from psr_ray.run_models import force
from psr_ray.runs import RunDirectory, fingerprint
from psr_ray.stages import planned_stages
from psr_ray.storage.folders import FolderLock
from psr_ray.storage.shards import finished_ids, read_rows, write_shard


def demo(tmp_path, *overrides):
    return load_config(
        ROOT / "configs" / "demo.yaml", (f"runs_dir={tmp_path}", "name=run", *overrides)
    )


def test_a_stage_is_complete_only_with_its_own_key(tmp_path):
    run = RunDirectory(demo(tmp_path))
    stage = run.stage("search-1", {"a": 1})
    assert not stage.is_complete
    stage.open()
    (stage.folder / "part-1").write_text("x")
    stage.open()  # again: unfinished work of the same key is kept
    assert (stage.folder / "part-1").exists()
    stage.finish(1.5, rows=3)
    assert stage.is_complete
    assert stage.manifest["rows"] == 3
    other = run.stage("search-1", {"a": 2})
    assert not other.is_complete
    other.open()  # another key: cleared
    assert not (stage.folder / "part-1").exists()


def test_a_setting_redoes_its_stage_and_what_follows_and_speed_settings_redo_nothing(tmp_path):
    def keys(*overrides):
        plan = planned_stages(RunDirectory(demo(tmp_path, *overrides)))
        return {planned.stage.name: planned.stage.key for planned in plan}

    base = keys()
    changed = keys("dpo.beta=0.3")
    same = {name for name in base if base[name] == changed[name]}
    assert {"data", "sft", "evaluate-M1", "search-1", "preferences-1"} <= same
    assert not {"train-1", "evaluate-M2", "search-2", "train-3"} & same
    assert keys("dpo.tokens_per_pass=1000", "engine.max_num_seqs=64", "sft.num_workers=1") == base


def test_the_same_model_under_another_path_is_the_same_and_another_model_is_not(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(TINY, copy)
    assert fingerprint(str(copy)) == fingerprint(str(TINY))
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[100_000] ^= 1
    weights.write_bytes(content)
    assert fingerprint(str(copy)) != fingerprint(str(TINY))


def test_a_matrix_in_the_middle_of_the_weights_tells_a_model(tmp_path):
    """As a merged LoRA changes it: neither the header nor what stands first."""
    (tmp_path / "config.json").write_text("{}")
    content = random.Random(0).randbytes(64 * 2**20)
    (tmp_path / "model.safetensors").write_bytes(content)
    before = fingerprint(str(tmp_path))
    start, num = 30 * 2**20 + 1, 2**19
    changed = bytes(255 - byte for byte in content[start : start + num])
    (tmp_path / "model.safetensors").write_bytes(content[:start] + changed + content[start + num :])
    assert fingerprint(str(tmp_path)) != before


def test_another_tokenizer_or_chat_template_is_another_model(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(TINY, copy)
    before = fingerprint(str(copy))
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    assert fingerprint(str(copy)) != before


def test_other_words_in_the_users_own_prompts_redo_what_reads_them(tmp_path):
    own = tmp_path / "prompts"
    shutil.copytree(BUILT_IN / "paper", own)

    def keys():
        plan = planned_stages(RunDirectory(demo(tmp_path, f"prompts.templates={own}")))
        return {planned.stage.name: planned.stage.key for planned in plan}

    assert own_templates("paper") is None
    assert own_templates(str(own)) == own
    before = keys()
    (own / "judge.jinja").write_text((own / "judge.jinja").read_text() + "Think hard.")
    changed = keys()
    assert {name for name in before if before[name] == changed[name]} == {"data"}


def test_a_file_that_changed_since_it_was_read_is_named(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"problem": "1+1?", "answer": "2"}\n')
    config = demo(tmp_path, f"data.heldout={{kind: file, path: {file}, num: 1}}")
    manifest = {"sources": source_digests(config)}
    check_sources(config, "data", manifest)
    check_sources(config, "data", {})  # of a run that an older version made
    file.write_text('{"problem": "1+2?", "answer": "3"}\n')
    with pytest.raises(
        PsrError, match=r"mine.jsonl has changed since this run read it.*--force data"
    ):
        check_sources(config, "data", manifest)


def test_a_judge_that_is_not_asked_redoes_no_search(tmp_path):
    def key(ranking, *overrides):
        plan = planned_stages(RunDirectory(demo(tmp_path, f"method.ranking={ranking}", *overrides)))
        return next(p.stage.key for p in plan if p.stage.name == "search-1")

    hotter = "judge.temperature=0.3"
    assert key("random") == key("random", hotter)
    assert key("pairwise") != key("pairwise", hotter)


def test_force_forgets_a_stage_and_all_later_ones(tmp_path):
    run = RunDirectory(demo(tmp_path))
    plan = planned_stages(run)
    for planned in plan:
        planned.stage.open()
        planned.stage.finish(0.0)
        if planned.kind in ("sft", "train"):
            (planned.stage.folder / "model").mkdir()
            (planned.stage.folder / "model" / "config.json").touch()
    with pytest.raises(PsrError, match="--force nonsense: no such stage; the stages are data"):
        force(run.config, plan, "nonsense")
    assert force(run.config, plan, "search-3")[0] == "search-3"
    left = [planned.stage.name for planned in plan if planned.stage.is_complete]
    assert left[-1] == "evaluate-M3"


def test_a_folder_of_another_run_or_of_no_run_is_refused(tmp_path):
    run = RunDirectory(demo(tmp_path))
    run.claim()
    run.release()
    other = RunDirectory(demo(tmp_path, "search.top_p=0.5"))
    with pytest.raises(PsrError, match=r"search\.top_p: 0\.95 → 0\.5"):
        other.claim()
    other.release()
    other.claim(accept_changes=True)
    other.release()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("x")
    with pytest.raises(PsrError, match=r"no run \(thesis\.txt\)"):
        RunDirectory(demo(tmp_path, "name=foreign")).claim()


def test_a_second_process_is_told_who_holds_the_run(tmp_path):
    run = RunDirectory(demo(tmp_path))
    run.claim()
    code = (
        "from psr_ray.config.file import load_config; from psr_ray.runs import RunDirectory;"
        f"RunDirectory(load_config('configs/demo.yaml', ('runs_dir={tmp_path}', 'name=run'))).claim()"
    )
    second = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert f"in use by process {os.getpid()}" in second.stderr
    run.release()


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path):
    from actors.rows import do_rows

    config = load_config(ROOT / "configs" / "demo.yaml")
    (tmp_path / ".bashrc").write_text("x")
    with pytest.raises(PsrError, match="holds other results"):
        do_rows(config, ["search"], "", None, 1, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".bashrc"]

    ours = tmp_path / "ours"
    lock = FolderLock(ours)
    lock.acquire()
    with pytest.raises(PsrError, match=f"in use by process {os.getpid()}"):
        do_rows(config, ["search"], "", None, 1, ours)
    lock.release()


def test_other_problems_of_the_same_ids_are_other_results(tmp_path, monkeypatch):
    from actors import rows

    stages = []
    monkeypatch.setattr(
        rows, "engine_stage", lambda config, stage, *rest, **_: stages.append(stage)
    )
    config, path = load_config(ROOT / "configs" / "demo.yaml"), tmp_path / "p.jsonl"
    for text in ("1+1?", "1+1?", "2+2?"):
        path.write_text(json.dumps({"id": "p", "problem": text}))
        rows.do_rows(config, ["search"], "", str(path), 1, tmp_path / "out")
    first, same, other = (stage.key for stage in stages)
    assert first == same != other


def test_without_a_file_the_runs_own_held_out_problems_are_taken(tmp_path, monkeypatch):
    from actors import rows

    asked = []
    monkeypatch.setattr(rows, "engine_stage", lambda c, stage, rows, *rest, **_: asked.append(rows))
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({"id": i, "problem": f"{i}?"}) + "\n" for i in range(99)))
    source = f"data.heldout={{kind: file, path: {path}, num: 10}}"
    config = demo(tmp_path, source, "data.judge=null", "data.ift.num=5", "data.eft.num=5")
    rows.do_rows(config, ["search"], "", None, 10_000, tmp_path / "out")
    write_data(config, tmp_path / "data")
    held = [row["id"] for row in read_rows([tmp_path / "data" / "heldout.parquet"])]
    assert [row["id"] for row in asked[0]] == held


def test_shards_hold_a_row_once_even_when_a_batch_is_done_twice(tmp_path):
    rows = [{"task": "solve", "id": f"r{i}"} for i in range(4)]
    write_shard(tmp_path, rows, TASK_SCHEMA)
    write_shard(tmp_path, list(reversed(rows)), TASK_SCHEMA)
    assert finished_ids(tmp_path) == {"r0", "r1", "r2", "r3"}
    assert len(list(read_rows(tmp_path.glob("part-*")))) == 4


def test_data_stage_counts_bad_lines_and_continues(tmp_path):
    good = [{"question": f"What is {i}+1?", "answer": f"so it is #### {i + 1}"} for i in range(5)]
    lines = [json.dumps(row) for row in good]
    lines[1:1] = ["{broken", '"text"', '{"question": "  "}', '{"answer": "1"}']
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(lines))
    config = demo(
        tmp_path,
        f"data.train=[{{kind: file, path: {path}, num: 1}}]",
        "evaluation.num_search_problems=2",
        "data.heldout.num=5",
        "data.ift.num=5",
        "data.eft.num=5",
        "data.judge=null",
    )
    facts = write_data(config, tmp_path / "data")
    assert facts["num_failed"] == 4
    assert facts["failed_examples"][0] == {
        "file": str(path),
        "line": 2,
        "reason": "not JSON: Expecting property name enclosed in double quotes at column 2",
    }
    assert facts["rows"]["search-1"] == 1
    ids = [
        r["id"] for n in (1, 2, 3) for r in read_rows([tmp_path / "data" / f"search-{n}.parquet"])
    ]
    assert len(set(ids)) == 3  # no problem is searched twice


def test_a_file_without_one_good_row_ends_the_run(tmp_path):
    path = tmp_path / "empty.jsonl"
    path.write_text("{broken\n")
    config = demo(tmp_path, f"data.heldout={{kind: file, path: {path}}}")
    with pytest.raises(PsrError, match="not one usable row"):
        write_data(config, tmp_path / "data")
