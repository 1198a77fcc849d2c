"""Models that cannot be used as the config asks: named before any work, with a way out."""

import json
import shutil

import pytest
from conftest import ROOT

from psr_ray.config.file import load_config
from psr_ray.doctor import check_inputs
from psr_ray.errors import PsrError


def test_a_model_without_a_chat_template_is_named_with_the_setting_to_change():
    config = load_config(ROOT / "configs" / "smoke.yaml", ("prompts.chat_template=true",))
    with pytest.raises(PsrError, match=r"no chat template; set prompts\.chat_template to false"):
        check_inputs(config)


def test_a_model_whose_tokenizer_cannot_end_a_solution_is_named(tmp_path):
    base = tmp_path / "model"
    shutil.copytree(ROOT / "models" / "tiny-m0", base)
    settings = base / "tokenizer_config.json"
    values = json.loads(settings.read_text())
    del values["eos_token"]
    settings.write_text(json.dumps(values))
    config = load_config(ROOT / "configs" / "smoke.yaml", (f"model.base={base}",))
    with pytest.raises(PsrError, match="no EOS token; a solution cannot end"):
        check_inputs(config)
