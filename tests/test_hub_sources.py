"""Datasets of the Hub: read by the real clients from a server on loopback."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from hub_datasets import CARD, COMMIT, HubDatasets, gsm8k_files
from test_sources import lines_of

# A card that says how much there is to download, as those of large datasets do.
LARGE_CARD = CARD.replace(
    b"---\nconfigs",
    b"---\ndataset_info: {config_name: main, download_size: 2000000000}\nconfigs",
    1,
)
# Reads a source in a process of its own: the libraries take the Hub's address as they are imported.
READ = """
import json, sys
from psr_ray.config import SourceConfig
from psr_ray.data.files import Failures
from psr_ray.data.sources import problem_rows
from psr_ray.errors import PsrError
failures = Failures()
source = SourceConfig(kind="hub", **json.loads(sys.argv[1]))
try:
    rows = list(problem_rows(source, "train", "search", 0, failures))
    print(json.dumps([rows, failures.revisions]))
except PsrError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def hub():
    solved = [{"question": f"What is {i}+1?", "answer": f"x\n#### {i + 1}"} for i in range(20)]
    files = gsm8k_files(lines_of(solved).encode(), lines_of(solved[:1]).encode())
    there = {
        "openai/gsm8k": files,
        "me/closed": files,
        "me/large": files | {"README.md": LARGE_CARD},
    }
    server = HubDatasets(there, gated={"me/closed"})
    yield server
    server.end()


@pytest.fixture
def ask(hub, tmp_path):
    def ask(environment=None, **settings):
        variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
        return subprocess.run(
            [sys.executable, "-c", READ, json.dumps(settings)], capture_output=True, text=True,
            check=False, cwd=ROOT, env=os.environ | variables | (environment or {}), timeout=120,
        )  # fmt: skip

    return ask


def test_a_dataset_is_read_by_its_name_and_again_from_the_cache_without_the_hub(hub, ask):
    done = ask(path="gsm8k", num=5)
    assert done.returncode == 0, done.stderr[-2000:]
    rows, revisions = json.loads(done.stdout)
    assert [(row["problem"], row["answer"]) for row in rows] == [
        (f"What is {i}+1?", str(i + 1)) for i in range(5)
    ]
    assert revisions == {"openai/gsm8k": COMMIT}
    asked = len(hub.requests)
    offline = ask({"HF_HUB_OFFLINE": "1"}, path="gsm8k", num=5)
    assert json.loads(offline.stdout) == [rows, revisions], offline.stderr[-2000:]
    assert len(hub.requests) == asked


@pytest.mark.parametrize(
    ("settings", "environment", "says"),
    [
        ({"path": "me/nothing"}, {}, "me/nothing on the Hub: .*; correct the id, or set HF_TOKEN"),
        ({"path": "me/closed"}, {}, "me/closed on the Hub: .*; correct the id, or set HF_TOKEN"),
        ({"path": "gsm8k", "config": "hard"}, {}, r"Available: \['main'\]; correct `config`"),
        ({"path": "gsm8k", "split": "dev"}, {}, r"'train', 'test'\]\.; correct `config`, `split`"),
        ({"path": "gsm8k", "columns": {"problem": "task"}}, {}, r"no column task \(it has answer, q"),
        ({"path": "gsm8k"}, {"HF_HUB_OFFLINE": "1"}, "offline.*; set HF_ENDPOINT to a mirror, HF_H"),
    ],
    ids=["unknown", "gated", "configuration", "split", "columns", "offline"],
)  # fmt: skip
def test_what_cannot_be_read_from_the_hub_is_one_line_with_a_way_out(
    ask, settings, environment, says
):
    done = ask(environment, **settings)
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert re.search(says, line, re.IGNORECASE), done.stderr[-2000:]


def test_a_large_dataset_is_streamed_and_not_kept(ask, tmp_path):
    done = ask(path="me/large", config="main", num=5)
    assert done.returncode == 0, done.stderr[-2000:]
    rows, revisions = json.loads(done.stdout)
    assert [row["answer"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert revisions == {"me/large": COMMIT}
    assert list((tmp_path / "hf").rglob("*.arrow")) == []
    assert ask(path="gsm8k", num=5).returncode == 0  # a small one is kept
    assert list((tmp_path / "hf").rglob("*.arrow"))
