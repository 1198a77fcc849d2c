"""A complete run as a Ray job.

    RAY_ADDRESS=http://HEAD:8265 ray job submit --working-dir . --runtime-env runtime_env.yaml -- \
        python jobs/run.py --config configs/qwen2.5-math-7b.yaml --set runs_dir=s3://BUCKET/runs

The same as `psr-ray run`: submit it again to resume.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from psr_ray.cli import app

if __name__ == "__main__":
    app(["run", *sys.argv[1:]])
