"""Checkpoints in a store: each worker sends and reads its own part, while training goes on."""

import time

import pytest
import torch
from conftest import ROOT, TINY
from ranks import in_ranks
from stores import BUCKET, Store

from psr_ray.config.file import load_config
from psr_ray.storage.locations import location
from psr_ray.training.job import LATEST, TrainingJob

pytestmark = pytest.mark.slow


@pytest.fixture
def store(tmp_path):
    found = Store(tmp_path / "store.log")
    with found.used():
        yield found
    found.end()


def save_and_restore(worker, folder, zero, dtype, name):
    """Save a policy after one step and after two, change it, restore it: the files that this worker
    read, whether a checkpoint had its name before its upload had ended, the steps done and by how
    much the restored weights differ from the saved ones."""
    import deepspeed

    import psr_ray.training.checkpoint as module
    from psr_ray.training.engine import build_engine

    out = location(f"s3://{BUCKET}/{name}")
    settings = (
        f"dpo.zero_stage={zero}",
        f"dpo.num_workers={worker.num_workers}",
        f"model.dtype={dtype}",
    )
    config = load_config(ROOT / "configs" / "smoke.yaml", settings)
    job = TrainingJob(
        kind="dpo", config=config, model=str(TINY), stage="dpo", run_dir=folder, out=out, data=folder,
        preferences=folder,
    )  # fmt: skip
    engine, policy = build_engine(job)

    def weights():
        parts = list(policy.parameters())
        with deepspeed.zero.GatheredParameters(parts, enabled=zero == "3"):
            return [part.detach().clone() for part in parts]

    def step():
        parts = list(policy.parameters())
        loss = (
            sum(part.sum() for part in parts)
            if zero != "3"
            else policy(torch.tensor([[1, 2]])).logits.sum()
        )
        engine.backward(loss)
        engine.step()

    def slowly(*arguments):
        time.sleep(1)
        return uploaded(*arguments)

    uploaded, module.upload = module.upload, slowly
    checkpoints = module.Checkpoints(out, engine, job.training, worker, [])
    step()
    checkpoints.save(1)
    checkpoints.poll()
    early = (out / "checkpoints" / LATEST).exists()
    while checkpoints.saving is not None:  # as steps pass
        time.sleep(0.1)
        checkpoints.poll()
    worker.wait()  # the first worker names it
    named = (out / "checkpoints" / LATEST).exists()
    step()
    saved = weights()
    checkpoints.save(2)
    checkpoints.finish()
    worker.wait()
    step()
    read, files = [], module.store_of(out)[0]
    get_file = files.get_file

    def noted(path, *arguments, **options):
        read.append(path.rpartition("/")[2])
        return get_file(path, *arguments, **options)

    files.get_file = noted
    done = checkpoints.restore()
    difference = max((a - b).abs().max().item() for a, b in zip(saved, weights(), strict=True))
    return {
        "early": early,
        "named": named,
        "read": sorted(read),
        "done": done,
        "difference": difference,
    }


@pytest.mark.parametrize(("zero", "dtype"), [(0, "float32"), (2, "bfloat16"), (3, "float32")])
def test_each_worker_reads_its_own_part_and_sends_it_beside_the_training(
    store, tmp_path, monkeypatch, zero, dtype
):
    monkeypatch.setenv("PSR_RAY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "part-999999999-left").mkdir(parents=True)  # of a worker that was killed
    found = in_ranks(save_and_restore, tmp_path / "ranks", 2, zero, dtype, f"run-{zero}")
    assert not list((tmp_path / "cache").glob("part-*"))
    for rank, worker in enumerate(found):
        assert not worker["early"]
        assert worker["named"]
        assert worker["done"] == 2
        assert worker["difference"] == 0
        others = [name for name in worker["read"] if f"zero_pp_rank_{1 - rank}_" in name]
        assert not others
    read = [name for worker in found for name in worker["read"]]
    assert len(read) == len(set(read))  # what is of all workers once a machine
    assert len(read) == {0: 1, 2: 3, 3: 4}[zero]
    folder = location(f"s3://{BUCKET}/run-{zero}/checkpoints")
    assert [path.name for path in folder.glob("step-*")] == ["step-2"]
