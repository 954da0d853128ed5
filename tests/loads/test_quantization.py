"""Quantization while loading: real loads with the real libraries, against what was planned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import archs

import nbloader
from nbloader import DependencyError, LoadOptions, OptionError
from nbloader._checkpoint.checkpoint import read_checkpoint
from nbloader._load.stages.metadata import stored_bytes
from nbloader._planning.plan import make_plan
from nbloader._planning.quantization import is_quantized, method_of, why_not
from nbloader._planning.sizes import placed_sizes
from nbloader._system.memory import Free

CPU_METHODS = ("8bit", "4bit", "int8")
ARCHITECTURES = ["llama", "gpt2 (tied)", "qwen3", "mixtral (MoE)", "bert", "t5 (encoder-decoder)"]
WIDE = {"hidden_size": 128, "intermediate_size": 256}


def quantized_modules(model: Any) -> Iterator[str]:
    for name, parameter in model.named_parameters():
        if type(parameter).__name__ in ("Params4bit", "Int8Params", "Int8Tensor"):
            yield name


@pytest.mark.parametrize("method", CPU_METHODS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_planned_is_what_is_made(tmp_path: Path, name: str, method: str) -> None:
    folder = archs.save(archs.build(name), tmp_path)
    plan = nbloader.plan(folder, quantization=method)
    job = nbloader.start(folder, quantization=method)
    model = job.result().model
    checkpoint = read_checkpoint(folder)
    planned = {
        key for key, tensor in checkpoint.tensors.items() if is_quantized(key, tensor, checkpoint.config, method)
    }
    assert len(planned) == len(list(quantized_modules(model)))
    held = sum(map(stored_bytes, model.parameters()))
    assert sum(plan.bytes_to_place) == sum(placed_sizes(checkpoint, LoadOptions(quantization=method)).values())
    assert held == sum(plan.bytes_to_place)
    assert job.state.bytes_placed == job.state.bytes_to_place
    assert job.state.summary is not None
    assert method in job.state.summary["dtype"]
    assert plan.placed_as.startswith(f"{method} + ")


def test_a_quantized_model_runs(demo_small: Path) -> None:
    import torch

    for method in CPU_METHODS:
        loaded = nbloader.load(demo_small, progress=False, quantization=method)
        logits = loaded.model(torch.tensor([[1, 2, 3]])).logits
        assert torch.isfinite(logits).all()


def test_a_config_of_transformers_is_taken(demo_small: Path) -> None:
    import transformers

    config = transformers.BitsAndBytesConfig(load_in_8bit=True)
    for given in (config, config.to_dict()):
        assert method_of(given) == "8bit"
        job = nbloader.start(demo_small, quantization=given)
        assert any(quantized_modules(job.result().model))
        assert job.plan is not None
        assert job.plan.quantization == "8bit"
    custom = make_plan(read_checkpoint(demo_small), LoadOptions(quantization={"quant_method": "hqq"}), free=Free(1, {}))
    assert (custom.quantization, custom.verdict) == ("custom", None)


@pytest.mark.parametrize("method", ["8bit", "4bit"])
def test_what_is_quantized_already_loads_as_it_is(tmp_path: Path, demo_small: Path, method: str) -> None:
    nbloader.load(demo_small, progress=False, quantization=method).model.save_pretrained(tmp_path / "done")
    plan = nbloader.plan(tmp_path / "done")
    assert (plan.quantization, plan.dtype) == ("bitsandbytes", None)
    job = nbloader.start(tmp_path / "done")
    model = job.result().model
    assert any(quantized_modules(model))
    assert sum(plan.bytes_to_place) == sum(map(stored_bytes, model.parameters()))
    assert job.state.bytes_placed == job.state.bytes_to_place
    with pytest.raises(OptionError, match="already quantized with bitsandbytes"):
        nbloader.load(tmp_path / "done", progress=False, quantization="int8")
    config = json.loads((tmp_path / "done" / "config.json").read_text())
    assert "already quantized" in why_not("int8", config)


def test_what_is_missing_is_named(demo_small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbloader._planning.quantization.find_spec", lambda name: None)
    with pytest.raises(DependencyError, match="needs torchao, which is not installed") as raised:
        nbloader.load(demo_small, progress=False, quantization="int8")
    assert "pip install torchao" in raised.value.hint
    assert why_not("8bit", {}) == "needs bitsandbytes, which is not installed"


def test_int4_needs_cuda(demo_small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbloader._planning.quantization.has_cuda", lambda: False)
    with pytest.raises(OptionError, match="no CUDA device here"):
        nbloader.load(demo_small, progress=False, quantization="int4")


@pytest.mark.parametrize(
    ("choices", "value"),
    [({"load_in_8bit": True}, "8bit"), ({"load_in_4bit": True}, "4bit"), ({"load_in_8bit": False}, None)],
)
def test_names_of_before_are_understood(choices: dict[str, Any], value: str | None) -> None:
    options = LoadOptions(**choices)
    assert options.quantization == value
    assert [notice.code for notice in options.notices] == ["renamed_option"]


def test_what_would_fit_is_quantized(demo_small: Path) -> None:
    checkpoint = read_checkpoint(demo_small)
    sizes = {method: make_plan(checkpoint, LoadOptions(quantization=method)).needed_memory for method in CPU_METHODS}
    with pytest.raises(nbloader.WontFitError) as raised:
        nbloader.load(demo_small, progress=False, max_memory=checkpoint.bytes - 1)
    fitting = [{"quantization": method} for method in ("8bit", "4bit") if sizes[method] < checkpoint.bytes]
    assert list(raised.value.suggestions[:-2]) == fitting
    assert raised.value.suggestions[-1] == {"force": True}
