"""The mean of a run's models, which may judge in their place."""

import huggingface_hub
import pytest
import torch
from conftest import TINY
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from psr_ray.errors import PsrError
from psr_ray.training.average import write_average, write_means


def written(folder, shift):
    """The embedded model with all weights moved, in several files."""
    model = AutoModelForCausalLM.from_pretrained(TINY)
    with torch.no_grad():
        for weights in model.parameters():
            weights += shift
    model.save_pretrained(folder, max_shard_size="1MB")
    return str(folder)


def weights_of(folder):
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


def test_the_means_of_models_are_made_one_by_one_and_old_ones_go(tmp_path):
    models = [written(tmp_path / str(shift), shift) for shift in (0.0, 1.0, 5.0, 0.0)]
    means = [tmp_path / name for name in ("two", "three", "four")]
    write_means(models[:2], means[:1])
    write_means(models[:3], means[:2])
    first, mean = weights_of(tmp_path / "0.0"), weights_of(tmp_path / "three")
    assert first.keys() == mean.keys()
    for name, value in mean.items():
        torch.testing.assert_close(value, first[name] + 2.0, rtol=0, atol=1e-5)
    AutoModelForCausalLM.from_pretrained(tmp_path / "three")

    write_means(models, means)
    assert [mean.exists() for mean in means] == [False, True, True]
    mean = weights_of(means[2])["model.norm.weight"]
    torch.testing.assert_close(mean, first["model.norm.weight"] + 1.5, rtol=0, atol=1e-5)
    write_means(models[:2], means[:1])  # a round done again
    assert means[0].exists()


def test_the_first_model_may_be_one_of_the_hubs(tmp_path, monkeypatch):
    there = tmp_path / "hub" / "models--lab--tiny"
    written(there / "snapshots" / ("0" * 40), 1.0)
    (there / "refs").mkdir()
    (there / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    newest = written(tmp_path / "newest", 0.0)
    write_means(["lab/tiny", newest], [tmp_path / "mean"])
    name, mean, first = "model.norm.weight", tmp_path / "mean", tmp_path / "newest"
    torch.testing.assert_close(weights_of(mean)[name], weights_of(first)[name] + 0.5)


def test_a_folder_without_the_same_weights_is_named(tmp_path):
    newest = written(tmp_path / "model", 0.0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        PsrError, match=r"empty: no model\..*, which .*model has: method\.judge average"
    ):
        write_average(str(tmp_path / "empty"), newest, 2, tmp_path / "out")
