"""The built wheel in an environment of its own, with dependencies that are there."""

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


# The demo, made small.
SMALL = (
    "num_iterations=0", "data.ift.num=64", "data.eft.num=128", "data.eft_solutions=null",
    "data.train=[{num: 12}]", "data.judge.num=12", "data.heldout.num=12", "data.hard=null",
    "judge={mode: verdict, min_lead: 0}", "engine.num_engines=[1, 1]", "sft.num_workers=1",
    "evaluation={max_tokens: 128, num_search_problems: 6, num_samples: 2, num_probes: 0}",
)  # fmt: skip


def test_the_wheel_runs_the_demo_from_another_folder(tmp_path):
    source, venv, here = tmp_path / "source", tmp_path / "venv", tmp_path / "here"
    source.mkdir()
    here.mkdir()
    for name in ("psr_ray", "actors", "jobs"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)

    def do(*command, **settings):
        done = subprocess.run(
            [*map(str, command)],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
            **settings,
        )
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
        return done.stdout

    build = ("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path)
    do(sys.executable, "-m", "pip", *build, source)
    [wheel] = tmp_path.glob("*.whl")
    do(sys.executable, "-m", "venv", "--without-pip", venv)
    python = venv / "bin" / "python"
    do(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel)
    # a path alone: the editable install there is a file of its own, and not read
    packages = do(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    found = do(
        python, "-c", "import psr_ray, actors; print(psr_ray.__file__, actors.__file__)", cwd=here
    )
    assert all(path.startswith(packages) for path in found.split())

    settings = [part for setting in SMALL for part in ("--set", setting)]
    do(venv / "bin" / "psr-ray", "demo", *settings, cwd=here)
    summary = json.loads((here / "runs" / "demo" / "summary.json").read_text())
    assert [entry["name"] for entry in summary["models"]] == ["M0", "M1"]
    assert (here / "runs" / "demo" / "report.html").is_file()
    done = do(python, ROOT / "jobs" / "build_seed.py", "--help", cwd=here)
    assert "ift" in done
