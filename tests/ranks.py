"""Workers of a gloo group, for tests of what training workers do together.

    python ranks.py MODULE FUNCTION FOLDER NUM_WORKERS [ARGUMENT …]

calls ``FUNCTION(worker, folder, *ARGUMENTS)`` of a test module in each; prints what they return as JSON.
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

from conftest import ROOT


def in_ranks(function, folder, num_workers, *arguments):
    """What each worker's call of a test module's function returned, by rank."""
    folder.mkdir(exist_ok=True)
    name = function.__module__, function.__name__
    command = [sys.executable, str(Path(__file__)), *name, str(folder), str(num_workers)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def begin(rank, module, function, folder, num_workers, arguments):
    import torch
    import torch.distributed as dist

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_workers)}
    os.environ |= {"DS_ACCELERATOR": "cpu"}
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting-{os.getppid()}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=num_workers)
    from psr_ray.training.job import Worker

    worker = Worker(rank, num_workers, torch.device("cpu"))
    found = getattr(importlib.import_module(module), function)(worker, folder, *arguments)
    (folder / f"returned-{rank}").write_text(json.dumps(found))
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    # A thread that waits for the interpreter while it ends is unwound by pthread_exit; in C++ code that
    # must not throw that is an abort ("terminate called without an active exception").
    os._exit(0)


if __name__ == "__main__":
    from torch.multiprocessing import spawn

    module, function, folder, num = *sys.argv[1:3], Path(sys.argv[3]), int(sys.argv[4])
    spawn(begin, (module, function, folder, num, sys.argv[5:]), nprocs=num)
    print(
        json.dumps([json.loads((folder / f"returned-{rank}").read_text()) for rank in range(num)])
    )
