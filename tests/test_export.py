"""psr-ray export: folders that others' tools take as they are, cards, the Hub."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SECRET
from datasets import load_dataset
from finished import finished_run
from hub_server import HubServer
from huggingface_hub import DatasetCard, ModelCard

from psr_ray.errors import PsrError
from psr_ray.export.cards import write_model_card
from psr_ray.export.datasets import Decoder
from psr_ray.export.export import export_run
from psr_ray.export.hub import repositories
from psr_ray.method.prompts import load_tokenizer
from psr_ray.report.summary import summarize
from psr_ray.stages import planned_stages
from psr_ray.storage.locations import local_copy
from psr_ray.storage.shards import read_rows, shards

PSR = Path(sys.executable).with_name("psr-ray")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    assert export_run(run, None, folder, None) == "M3"
    return folder


def export(run, *arguments, **environment):
    return subprocess.run(
        [str(PSR), "export", str(run.path), *arguments], capture_output=True, text=True, cwd=ROOT,
        check=False, env=os.environ | environment, timeout=120,
    )  # fmt: skip


def test_the_pairs_load_as_a_dataset_whose_texts_are_the_sampled_ids(run, exported, tmp_path):
    folder = str(exported / "preferences")
    pairs = load_dataset(folder, split="train", cache_dir=tmp_path)
    first = load_dataset(folder, "iteration-1", split="train", cache_dir=tmp_path)
    stored = [
        row
        for planned in planned_stages(run)
        if planned.kind == "preferences"
        for row in read_rows(shards(planned.stage.folder / "pairs"))
    ]
    assert len(pairs) == len(stored) > len(first) > 0
    encode = load_tokenizer(run.config.model.base).encode
    for pair, row in zip(pairs, stored, strict=True):
        assert pair["prompt_token_ids"] == row["prompt_ids"] == encode(pair["prompt"])
        for side in ("chosen", "rejected"):
            assert pair[f"{side}_token_ids"] == row[f"{side}_ids"] == encode(pair[side])
    assert any(pair["chosen"].endswith("<|endoftext|>") for pair in pairs)


def test_ift_and_eft_load_with_what_the_model_learned(exported, tmp_path):
    solved = load_dataset(str(exported / "ift"), split="train", cache_dir=tmp_path)
    judged = load_dataset(str(exported / "eft"), split="train", cache_dir=tmp_path)
    assert (len(solved), len(judged)) == (64, 128)
    assert solved[0]["problem"] in solved[0]["prompt"]
    assert "\\boxed{" in solved[0]["completion"]
    assert judged[0]["completion"] == f"{judged[0]['verdict']}]]<|endoftext|>"


@pytest.mark.slow
def test_trl_trains_on_the_pairs_as_they_are(exported, tmp_path):
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    settings = DPOConfig(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=2, report_to=[],
        use_cpu=True, bf16=False, save_strategy="no", learning_rate=1e-4,
    )  # fmt: skip
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(exported / "model"),
        args=settings,
        train_dataset=load_dataset(
            str(exported / "preferences"), split="train", cache_dir=tmp_path
        ),
        processing_class=load_tokenizer(str(exported / "model")),
    )
    trainer.train()
    assert trainer.state.global_step == 2


def test_the_cards_are_the_hubs_and_name_no_path_of_this_machine(run, exported):
    card = ModelCard.load(exported / "model" / "README.md")
    results = card.data.eval_results
    assert [(r.dataset_name, r.metric_value) for r in results] == [("gsm8k_test", 80.0)]
    assert card.data.library_name == "transformers"
    for text in (
        "tiny-m0 after 2 rounds",
        "From M1 to M3",
        "| published, 7B |",
        "num_candidates: 3",
    ):
        assert text in card.text
    assert DatasetCard.load(exported / "preferences" / "README.md").data.size_categories == "n<1K"
    for path in exported.rglob("README.md"):
        text = path.read_text()
        assert str(ROOT) not in text
        assert str(run.path.parent) not in text
        assert "{{" not in text.replace("{{ problem }}", "")


def test_an_exported_model_is_complete_and_has_its_bases_license(run, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(local_copy(run.config.model.base), base)
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# M0\n")
    other = finished_run(tmp_path / "runs", f"model.base={base}", "data.benchmarks=[]")
    folder = tmp_path / "export"
    assert export_run(other, "M1", folder, None) == "M1"
    assert ModelCard.load(folder / "model" / "README.md").data.license == "apache-2.0"
    assert not (folder / "preferences").exists()  # M1 learned from none
    assert (folder / "model" / "model.safetensors").read_bytes() == (
        base / "model.safetensors"
    ).read_bytes()
    export_run(other, "M1", folder, "mit")  # over the earlier export
    assert ModelCard.load(folder / "model" / "README.md").data.license == "mit"
    link = (folder / "model" / "config.json").stat().st_ino
    assert link != (planned_stages(other)[2].stage.folder / "model" / "config.json").stat().st_ino
    with pytest.raises(PsrError, match="--model M7: the run has the weights of M1, M2, M3"):
        export_run(other, "M7", folder, None)


def test_nothing_that_no_export_wrote_is_replaced(run, tmp_path):
    mine = tmp_path / "seed" / "ift" / "ift.parquet"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    stage = planned_stages(run)[-2].stage.folder
    for folder, part in ((tmp_path / "seed", "ift"), (stage, "model")):
        with pytest.raises(PsrError, match=f"holds {part}/, which no export wrote"):
            export_run(run, None, folder, None)
    assert mine.read_bytes() == b"mine"
    assert (stage / "model" / "model.safetensors").is_file()


def test_a_folder_of_prompts_is_named_without_its_path(run, tmp_path):
    prompts = tmp_path / "alice" / "my-prompts"
    shutil.copytree(ROOT / "psr_ray" / "templates" / "prompts" / "compact", prompts)
    config = run.config.prompts.model_copy(update={"templates": str(prompts)})
    config = run.config.model_copy(update={"prompts": config})
    write_model_card(tmp_path, summarize(run), config, "M3", None)
    text = (tmp_path / "README.md").read_text()
    assert "`my-prompts`" in text
    assert "alice" not in text


def test_a_bos_that_the_tokenizer_adds_is_not_in_the_text():
    class WithStart:
        bos_token_id = 1

        def encode(self, text):
            return [1, *map(ord, text)]

        def decode(self, ids, **_):
            return "".join("<s>" if i == 1 else chr(i) for i in ids)

    decoder = Decoder(WithStart())
    assert decoder.prompt([1, *b"ab"]) == "ab"
    assert decoder.prompt([*b"ab"]) == "ab"
    assert decoder.text([1, *b"ab"]) == "<s>ab"


def test_a_dry_run_shows_what_a_push_then_sends(run, tmp_path):
    server = HubServer()
    try:
        hub = {"HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": SECRET,
               "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}  # fmt: skip
        arguments = ("--out", str(tmp_path / "out"), "--push", "lab/demo")
        shown = export(run, *arguments, "--dry-run", **hub)
        assert shown.returncode == 0, shown.stderr
        assert "nothing was pushed" in shown.stdout
        assert server.private == {}
        server.files["lab/demo-preferences"] = {"data/iteration-9.parquet": b"of an earlier push"}
        pushed = export(run, *arguments, **hub)
        assert pushed.returncode == 0, pushed.stdout + pushed.stderr
    finally:
        server.end()
    assert SECRET not in pushed.stdout + pushed.stderr
    names = ["lab/demo", "lab/demo-ift", "lab/demo-eft", "lab/demo-preferences"]
    assert list(server.private) == names
    assert set(server.private.values()) == {True}
    assert server.tokens == {f"Bearer {SECRET}"}
    for name in names:
        assert f"{server.url}/" in pushed.stdout
        for file, content in server.files[name].items():
            assert file in shown.stdout
            assert SECRET.encode() not in content
    pairs = {file for file in server.files["lab/demo-preferences"] if file.startswith("data/")}
    assert pairs == {"data/iteration-1.parquet", "data/iteration-2.parquet"}
    model = server.files["lab/demo"]
    base = Path(local_copy(run.config.model.base))
    assert model["model.safetensors"] == (base / "model.safetensors").read_bytes()
    assert b"step preferences" in server.files["lab/demo-preferences"]["README.md"]


@pytest.mark.parametrize("hub", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_a_hub_that_cannot_be_reached_is_one_line_and_the_export_stays(run, tmp_path, hub):
    hub = {"HF_HUB_OFFLINE": "0", "HF_TOKEN": SECRET} | hub
    done = export(run, "--out", str(tmp_path), "--push", "lab/demo", **hub)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "lab/demo: could not be pushed to" in done.stderr
    assert "give the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_mistakes_are_named(run, tmp_path):
    with pytest.raises(PsrError, match=r"--push demo: it names no owner; give OWNER/NAME"):
        repositories(tmp_path, "demo")
    with pytest.raises(PsrError, match=r"--push a/b/c: .*; give OWNER/NAME"):
        repositories(tmp_path, "a/b/c")
    done = export(run, "--dry-run")
    assert done.returncode == 2
    assert "they go with --push" in done.stderr
    manifest = planned_stages(run)[-1].stage.folder / "_MANIFEST.json"
    kept = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(kept | {"key": "of another config"}))
    try:
        with pytest.raises(PsrError, match="M3 is not evaluated; a card"):
            export_run(run, "M3", tmp_path, None)
    finally:
        manifest.write_text(json.dumps(kept))
