"""The built wheel in an environment of its own, with dependencies that are there, runs the notebook."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


SMALLER = {
    "import psr_ray": "import psr_ray; print(psr_ray.__file__)",
    "num=800": "num=128", "num=200": "num=24", "num: 40": "num: 16",
    "num_search_problems: 20": "num_search_problems: 6",
    "num_iterations=1": 'num_iterations=1", "engine.num_engines=[1, 1]", "sft.num_workers=1", '
    '"dpo.num_workers=1',
}  # fmt: skip
# What the environment's Python runs: its kernel is of the same environment.
NOTEBOOK = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT / "scripts")!r})
from run_notebook import NOTEBOOK, executed
smaller = {SMALLER!r}
assert all(old in NOTEBOOK.read_text() for old in smaller)
for cell in executed(Path.cwd(), smaller).cells:
    print(cell.get("outputs"))
"""


def test_the_wheel_runs_the_notebook_from_another_folder(tmp_path):
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

    printed = do(python, "-c", NOTEBOOK, cwd=here)
    assert packages in printed
    assert "pairs from" in printed
    assert (here / "runs" / "notebook" / "report.html").is_file()
    assert "M2" in do(venv / "bin" / "psr-ray", "report", "runs/notebook", cwd=here)
    done = do(python, ROOT / "jobs" / "build_seed.py", "--help", cwd=here)
    assert "ift" in done
