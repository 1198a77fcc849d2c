import subprocess
import sys

import pytest
from conftest import ROOT, TINY

from psr_ray.compare.config import load_comparison, planned_runs
from psr_ray.config.file import load_config
from psr_ray.errors import PsrError

CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_shipped_config_is_parsed_and_opens_with_its_command(path):
    comparisons = {
        "evidence.yaml": 35,
        "judge-modes.yaml": 6,
        "small-rounds.yaml": 9,
        "harder.yaml": 40,
        "weak-judge.yaml": 25,
        "contrast.yaml": 50,
        "contrast-tuning.yaml": 13,
        "smollm2-words.yaml": 12,
    }
    if path.name in comparisons:
        assert len(list(planned_runs(load_comparison(path)))) == comparisons[path.name]
        return
    config = load_config(path)
    assert config.name
    assert f"--config configs/{path.name}" in path.read_text().split("name:")[0]


def test_config_imports_nothing_heavy():
    code = (
        "import sys, psr_ray.config, psr_ray.method.search, psr_ray.method.preferences, psr_ray.stages;"
        "print([m for m in ('torch', 'ray', 'vllm', 'deepspeed', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("search.top_q=0.9", "search.top_q: unknown key"),
        ("serach.top_p=0.9", "serach: unknown key"),
        ("search.num_candidates=1", "search.num_candidates: Input should be greater than"),
        ("search.temperature=-1", "search.temperature: Input should be greater than"),
        ("engine.kv_cache_gib=null", "`kv_cache_gib` must be set"),
        ("sft.tokens_per_pass=33", "`sft.tokens_per_pass` (33) must be at least"),
        ("search.max_step_tokens=9999", "must be below `model.max_length`"),
        ("judge={mode: explain, max_tokens: 9999}", "`judge.max_tokens` (9999) must be below"),
        ("data.ift.path=x.jsonl", "`path` goes with `kind: file`"),
        ('prompts.step_stop="{n}."', "must begin with the text at which a step ends"),
        ('prompts.step_stop="## Step {n}:"', "with `{n}` must begin with a newline"),
        ("nothing", "write KEY=VALUE"),
    ],
)
def test_a_mistake_is_named_by_file_and_key(override, says):
    with pytest.raises(PsrError) as caught:
        load_config(ROOT / "configs" / "demo.yaml", (override,))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_embedded_problems_beside_ones_own(tmp_path):
    own = {"kind": "file", "path": "mine.jsonl"}
    (path := tmp_path / "run.yaml").write_text(
        f"{{name: a, model: {{base: b}}, data: {{train: [{own}]}}}}"
    )
    left_out = "`data.heldout`, `data.judge`, `data.ift`, `data.eft`: not set, beside a `data.train"
    with pytest.raises(PsrError, match=left_out):
        load_config(path)
    others = (f"data.heldout={own}", "data.judge=null")
    with pytest.raises(PsrError, match=r"config .*run\.yaml: .*`data.ift`, `data.eft`: not set"):
        load_config(path, others)
    assert load_config(path, (*others, "sft=null")).data.train[0].kind == "file"
    embedded = ("data.ift={kind: arithmetic}", "data.eft={num: 4}")
    assert load_config(path, (*others, *embedded)).data.ift.kind == "arithmetic"


def test_defaults_of_a_training_are_the_papers_whatever_else_is_set(tmp_path):
    (path := tmp_path / "run.yaml").write_text("{name: a, model: {base: b}}")
    for others in ((), ("sft.num_workers=2", "dpo.num_workers=2")):
        config = load_config(path, others)
        assert (config.sft.lr, config.sft.num_epochs) == (1e-6, 3)
        assert (config.dpo.lr, config.dpo.num_epochs) == (5e-7, 1)


def test_points_need_room_for_their_judgement():
    points = ("method={unit: solution, ranking: points}", "judge.max_points_tokens=9999")
    with pytest.raises(PsrError, match=r"`judge.max_points_tokens` \(9999\) must be below"):
        load_config(ROOT / "configs" / "demo.yaml", points)
    load_config(ROOT / "configs" / "demo.yaml", points[1:])  # nobody gives points
    thinking = (points[0], "judge.max_points_tokens=100", "judge.max_thinking_tokens=9999")
    with pytest.raises(PsrError, match=r"`judge.max_points_tokens` \(10099\) must be below"):
        load_config(ROOT / "configs" / "demo.yaml", (*thinking, "judge.mode=verdict"))


def test_a_missing_or_broken_config_file_is_named(tmp_path):
    with pytest.raises(PsrError, match=r"none\.yaml: no such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(PsrError, match=r"bad\.yaml: not YAML"):
        load_config(tmp_path / "bad.yaml")


def test_relative_paths_become_absolute(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config("configs/demo.yaml")
    assert config.model.base == "tiny-m0"  # found wherever the package is
    moved = load_config("configs/demo.yaml", (f"model.base={TINY.relative_to(ROOT)}",))
    assert moved.model.base == str(TINY)
    assert config.runs_dir == str(ROOT / "runs")
