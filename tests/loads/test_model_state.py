"""A loaded model that somebody has changed is not handed out again; one that was only used is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from support import archs
from support.compare import tensor_differences

import nbloader

WIDE = {"hidden_size": 64, "intermediate_size": 128}
IDS = torch.tensor([[1, 2, 3]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archs.save(archs.build("llama", **WIDE), tmp_path_factory.mktemp("llama"))


def train(model: Any) -> None:
    optimizer = torch.optim.AdamW(model.parameters())
    model(IDS, labels=IDS).loss.backward()
    optimizer.step()


def lora(model: Any) -> Any:
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a step of training": train,
    "an adapter": lora,
    "an adapter, merged": lambda model: lora(model).merge_and_unload(),
    "more tokens": lambda model: model.resize_token_embeddings(200),
    "half precision": lambda model: model.half(),
    "a new head": lambda model: setattr(model, "lm_head", torch.nn.Linear(64, 5)),
    "training mode": lambda model: model.train(),
    "frozen weights": lambda model: model.requires_grad_(False),
    "written past the version": lambda model: model.lm_head.weight.data.mul_(2),
    "a norm left out": lambda model: setattr(model.model, "norm", torch.nn.Identity()),
    "weights loaded": lambda model: model.load_state_dict(archs.build("llama", **WIDE).state_dict()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_loaded_afresh(change: str, folder: Path) -> None:
    before = nbloader.load(folder, progress=False).model
    original = {name: value.clone() for name, value in before.state_dict().items()}
    CHANGES[change](before)
    job = nbloader.start(folder)
    model = job.result().model
    assert model is not before
    assert {name for name, value in model.state_dict().items() if not torch.equal(value, original[name])} == set()
    told = [line.arguments["name"] for line in job.state.log if line.code == "changed_since"]
    assert told == [folder.name]
    assert [each.model for each in nbloader.loaded()] == [model]


def test_the_changed_model_stays_with_the_job_that_made_it(folder: Path) -> None:
    first = nbloader.start(folder)
    train(first.result().model)
    nbloader.load(folder, progress=False)
    assert first.result().model.lm_head.weight.grad is not None


def use(model: Any) -> None:
    with torch.no_grad():
        model(IDS)
        model.generate(IDS, max_new_tokens=2, do_sample=False)


@pytest.mark.parametrize("quantization", [None, "8bit", "4bit", "int8"])
def test_a_model_that_was_used_is_the_same(quantization: str | None, folder: Path) -> None:
    before = nbloader.load(folder, progress=False, quantization=quantization).model
    use(before)
    assert nbloader.load(folder, progress=False, quantization=quantization).model is before


@pytest.mark.parametrize("name", archs.ARCHITECTURES)
def test_no_architecture_changes_by_being_looked_at(name: str, tmp_path: Path) -> None:
    folder = archs.save(archs.build(name), tmp_path)
    before = nbloader.load(folder, progress=False).model
    before.state_dict()
    before.num_parameters()
    assert nbloader.load(folder, progress=False).model is before
    assert tensor_differences(before, before) == []
