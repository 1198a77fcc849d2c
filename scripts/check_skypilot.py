"""skypilot/run.yaml read by SkyPilot's own loader, which has its own environment: its pins are not ours.

make check-skypilot
"""

from pathlib import Path

import sky
import yaml

ROOT = Path(__file__).resolve().parent.parent

config = yaml.safe_load((ROOT / "skypilot" / "run.yaml").read_text())
task = sky.Task.from_yaml_config(
    config,
    env_overrides=[("RUNS_DIR", "s3://bucket/runs")],
    secrets_overrides=[("RAY_AUTH_TOKEN", "token")],
)
print(f"SkyPilot {sky.__version__} takes skypilot/run.yaml: {task.resources}")
