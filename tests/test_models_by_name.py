"""Models by name: of the package, of a folder, of the Hub; what vLLM is told about their logits."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import TINY
from hub_datasets import HubDatasets
from transformers import Gemma3Config, Qwen2Config

from psr_ray.config.file import load_config
from psr_ray.doctor import check_model
from psr_ray.errors import PsrError
from psr_ray.inference.vllm_api import with_exact_logits
from psr_ray.runs import fingerprint
from psr_ray.storage.locations import is_hub_id, local_copy, model_location


def test_the_embedded_model_has_a_name_that_a_folder_here_may_take(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model_location("tiny-m0") == TINY
    assert local_copy("tiny-m0") == str(TINY)
    assert fingerprint("tiny-m0") == fingerprint(str(TINY))
    (tmp_path / "tiny-m0").mkdir()
    assert not model_location("tiny-m0").is_absolute()


def test_a_name_with_a_slash_is_a_hub_id_unless_its_owner_is_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert is_hub_id("Qwen/Qwen2.5-Math-7B")
    for name in ("mine/typo", "models/typo", "typo/", "./a", "/a", "~/a", "s3://a/b", "a/b/c", "a"):
        assert not is_hub_id(name), name
    config = load_config(TINY.parent / "demo.yaml")
    with pytest.raises(PsrError, match="model folder models/typo: not found"):
        check_model("models/typo", config)


def test_of_a_model_on_the_hub_config_and_tokenizer_are_checked(tmp_path):
    small = ("config.json", "tokenizer.json", "tokenizer_config.json")
    tiny = {name: (TINY / name).read_bytes() for name in small}
    few = json.loads(tiny["config.json"]) | {"vocab_size": 9}
    hub = HubDatasets({"me/tiny": tiny, "me/few": tiny | {"config.json": json.dumps(few).encode()}})
    code = """
import sys
from psr_ray.config.file import load_config
from psr_ray.doctor import check_model
from psr_ray.errors import PsrError
for name in ("me/tiny", "me/few", "me/none"):
    try:
        print(check_model(name, load_config(sys.argv[1])))
    except PsrError as error:
        print(error)
"""
    where = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(TINY.parent / "demo.yaml")], check=True, text=True,
            capture_output=True, env=os.environ | where, timeout=120,
        )  # fmt: skip
    finally:
        hub.end()
    fine, other, none = done.stdout.splitlines()
    assert (
        fine == "me/tiny: config, tokenizer; its weights are fetched from the Hub when a run starts"
    )
    assert re.fullmatch(r"model me/few: its tokenizer has \d+ tokens, the model knows 9; .*", other)
    assert none.startswith("model me/none: neither a folder nor on the Hub")
    assert "model.safetensors" not in {path.rpartition("/")[2] for path in hub.requests}


def test_logits_have_32_bits_unless_a_model_is_quantised():
    assert with_exact_logits(Qwen2Config()).head_dtype == "float32"
    nested = with_exact_logits(Gemma3Config())
    assert nested.head_dtype == nested.text_config.head_dtype == "float32"
    own = with_exact_logits(Qwen2Config(head_dtype="bfloat16"))
    assert own.head_dtype == "bfloat16"
    quantised = with_exact_logits(Qwen2Config(quantization_config={"quant_method": "awq"}))
    assert not hasattr(quantised, "head_dtype")
