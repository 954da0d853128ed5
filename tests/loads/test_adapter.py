"""Adapters: real ones, made by peft, attached and merged; and those that do not belong."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
import torch
from support import archs
from support.archs import make_adapter
from support.hub import Hub, Repo

import nbloader
from nbloader import CheckpointError, DependencyError, LoadJob, LoadOptions, OptionError, SourceError
from nbloader._progress.events import Asked
from nbloader._views.workbench import Workbench

IDS = torch.tensor([[1, 2, 3, 4]])


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return archs.save(archs.build("llama"), tmp_path / "base")


@pytest.fixture
def lora(base: Path, tmp_path: Path) -> Path:
    return make_adapter(base, tmp_path / "lora", str(base))


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS).logits  # type: ignore[no-any-return]


def expected(base: Path, lora: Path) -> torch.Tensor:
    import peft
    import transformers

    return logits(peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), str(lora)))


def test_it_is_attached_as_peft_does(base: Path, lora: Path) -> None:
    job = nbloader.start(base, adapter=lora)
    model = job.result().model
    assert type(model).__name__ == "PeftModelForCausalLM"
    assert torch.equal(logits(model), expected(base, lora))
    assert not torch.equal(logits(model), logits(nbloader.load(base, progress=False).model))
    assert not model.training


def test_its_bytes_are_a_stage_of_their_own(base: Path, lora: Path) -> None:
    job = nbloader.start(base, adapter=str(lora))
    job.result()
    size = (lora / "adapter_model.safetensors").stat().st_size
    shard = job.state.shards[-1]
    assert (shard.name, shard.bytes) == ("adapter_model.safetensors", size)
    assert (shard.bytes_read, shard.bytes_placed) == (size, size)
    assert [stage.name for stage in job.state.stages if stage.ended is not None][-2:] == ["adapter", "metadata"]
    assert job.plan is not None
    assert (job.plan.adapter_bytes, job.plan.host_memory["adapter"]) == (size, size)
    assert job.state.bytes_done == job.state.bytes_to_do


def test_without_one_there_is_no_such_stage(base: Path) -> None:
    job = nbloader.start(base)
    job.result()
    assert "adapter" not in {stage.name for stage in job.state.stages}


def test_a_merged_one_leaves_a_model_of_its_own_class(base: Path, lora: Path) -> None:
    before = (base / "model.safetensors").read_bytes()
    job = nbloader.start(base, adapter=lora, merge_adapter=True)
    model = job.result().model
    assert type(model).__name__ == "LlamaForCausalLM"
    assert torch.allclose(logits(model), expected(base, lora), atol=1e-4)
    assert (base / "model.safetensors").read_bytes() == before
    assert job.plan is not None
    assert job.plan.host_memory["merge"] > 0


@pytest.mark.parametrize("method", ["4bit", "8bit", "int8"])
def test_a_quantized_base_takes_one(demo_small: Path, tmp_path: Path, method: str) -> None:
    lora = make_adapter(demo_small, tmp_path / "lora", rank=2)
    model = nbloader.load(demo_small, progress=False, adapter=lora, quantization=method).model
    assert torch.isfinite(logits(model)).all()


def test_one_in_bin_files_is_taken(base: Path, lora: Path) -> None:
    from safetensors.torch import load_file

    wanted = expected(base, lora)
    file = lora / "adapter_model.safetensors"
    torch.save(load_file(file), lora / "adapter_model.bin")
    file.unlink()
    assert torch.equal(logits(nbloader.load(base, progress=False, adapter=lora).model), wanted)


def test_one_on_the_hub_is_downloaded_and_cached(hub: Hub, base: Path, lora: Path, tmp_path: Path) -> None:
    hub.repos["us/base"] = Repo.of_folder(base)
    hub.repos["us/lora"] = Repo.of_folder(lora)
    choices: dict[str, Any] = {"adapter": "us/lora", "cache_dir": tmp_path / "cache", "force": True}
    plan = nbloader.plan("us/base", **choices)
    size = (lora / "adapter_model.safetensors").stat().st_size
    assert plan.bytes_to_download == nbloader.plan("us/base", cache_dir=tmp_path / "cache").bytes_to_download + size
    job = nbloader.start("us/base", **choices)
    assert torch.equal(logits(job.result().model), expected(base, lora))
    assert job.state.bytes_downloaded == job.state.bytes_to_download
    assert job.state.downloads[-1].bytes_downloaded == size
    again = nbloader.start("us/base", **choices, local_files_only=True)
    assert torch.equal(logits(again.result().model), expected(base, lora))
    assert again.state.bytes_to_download == 0


def test_waiting_for_it_is_told(hub: Hub, base: Path, tmp_path: Path) -> None:
    large = make_adapter(base, tmp_path / "large", str(base), rank=256)
    hub.repos["us/lora"] = Repo.of_folder(large, faults={"adapter_model.safetensors": ["503 0"]})
    job = nbloader.start(base, adapter="us/lora", cache_dir=tmp_path / "cache")
    job.result()
    waits = [line for line in job.state.log if line.code == "download_waits"]
    assert ["adapter_model.safetensors" in str(line.arguments) for line in waits] == [True]


def test_a_form_asks_for_it_once(hub: Hub, base: Path, lora: Path, tmp_path: Path) -> None:
    hub.repos["us/base"] = Repo.of_folder(base)
    hub.repos["us/lora"] = Repo.of_folder(lora)
    views: Queue[Mapping[str, Any]] = Queue()
    bench = Workbench("us/base", views.put)
    chosen = LoadOptions(adapter="us/lora", cache_dir=tmp_path / "cache", force=True)

    def planned(options: LoadOptions) -> str:
        bench.change(options)
        view = views.get(timeout=30)
        while view["planning"]:
            view = views.get(timeout=30)
        assert view["error"] is None
        parts = re.search(r"\(.*\)", dict(view["plan"]["lines"])["Host memory"])
        assert parts is not None
        return parts[0]

    first = planned(chosen)
    hub.requests.clear()
    assert ["adapter" in planned(replace(chosen, merge_adapter=merged)) for merged in (True, False)]
    assert hub.requests == []
    assert "adapter" not in planned(replace(chosen, adapter=None))
    assert planned(chosen) == first
    hub.requests.clear()
    bench.forget()
    assert planned(chosen) == first
    assert [path for _, path in hub.requests if "lora" in path]


def test_one_for_another_architecture_is_refused_with_both_names(base: Path, tmp_path: Path) -> None:
    other = archs.save(archs.build("gpt_neox"), tmp_path / "other")
    lora = make_adapter(other, tmp_path / "lora", "us/neox")
    job = nbloader.start(base, adapter=lora)
    with pytest.raises(CheckpointError, match=r"'us/neox'.* does not fit .*base.*the model has no module"):
        job.result()
    assert job.state.bytes_placed == 0
    with pytest.raises(CheckpointError, match="does not fit"):
        nbloader.plan(base, adapter=lora)


def test_one_for_other_shapes_is_refused(base: Path, tmp_path: Path, demo_small: Path) -> None:
    lora = make_adapter(demo_small, tmp_path / "lora", "us/demo")
    with pytest.raises(CheckpointError, match=r"'us/demo'.* does not fit .* has shape"):
        nbloader.load(base, progress=False, adapter=lora)


def test_one_for_another_repository_is_asked_about(hub: Hub, base: Path, tmp_path: Path) -> None:
    hub.repos["us/base"] = Repo.of_folder(base)
    lora = make_adapter(base, tmp_path / "lora", "us/base-instruct")
    choices: dict[str, Any] = {"adapter": str(lora), "cache_dir": tmp_path / "cache"}
    with pytest.raises(CheckpointError, match="made for 'us/base-instruct', not for 'us/base'") as raised:
        nbloader.load("us/base", progress=False, **choices)
    assert raised.value.suggestions == ({"force": True},)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    job = LoadJob("us/base", LoadOptions(**choices), can_ask=lambda: True)
    job.subscribe(lambda event: job.answer(event.choices[0][0]) if isinstance(event, Asked) else None)
    job.start().result()
    assert [line.code for line in job.state.log if line.level == "warning"] == ["other_base"]


def test_a_name_that_cannot_be_compared_is_told(base: Path, tmp_path: Path) -> None:
    lora = make_adapter(base, tmp_path / "lora", "us/some-model")
    job = nbloader.start(base, adapter=lora)
    job.result()
    (line,) = [line for line in job.state.log if line.code == "other_base"]
    assert line.arguments["base"] == "us/some-model"


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda lora: (lora / "adapter_config.json").unlink(), "not a peft adapter: it has no adapter_config.json"),
        (lambda lora: (lora / "adapter_model.safetensors").unlink(), "it has no adapter_model.safetensors"),
        (lambda lora: (lora / "adapter_config.json").write_text("{"), "not valid JSON"),
        (lambda lora: (lora / "adapter_config.json").write_text('{"peft_type": "NEW"}'), "could not be attached"),
        (lambda lora: cut(lora / "adapter_model.safetensors"), "adapter_model.safetensors"),
    ],
)
def test_a_broken_one_says_what_is_wrong(base: Path, lora: Path, break_it: Any, says: str) -> None:
    break_it(lora)
    with pytest.raises(CheckpointError, match=says):
        nbloader.load(base, progress=False, adapter=lora)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("side", ["A", "B"])
def test_one_that_lacks_tensors_is_refused(base: Path, lora: Path, side: str) -> None:
    from safetensors.torch import load_file, save_file

    file = lora / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop(next(key for key in tensors if f"lora_{side}" in key))
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match="only one of lora_A and lora_B"):
        nbloader.load(base, progress=False, adapter=lora)


def test_one_that_lacks_a_module_is_refused(base: Path, lora: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = lora / "adapter_model.safetensors"
    tensors = {key: value for key, value in load_file(file).items() if "layers.1.self_attn.q_proj" not in key}
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match="lacks 2 tensors"):
        nbloader.load(base, progress=False, adapter=lora)


def test_what_is_tied_is_not_merged(tmp_path: Path) -> None:
    base = archs.save(archs.build("gemma (tied)"), tmp_path / "base")
    lora = make_adapter(base, tmp_path / "lora")
    config = json.loads((lora / "adapter_config.json").read_text())
    (lora / "adapter_config.json").write_text(json.dumps({**config, "target_modules": ["lm_head"]}))
    from safetensors.torch import load_file, save_file

    hidden, words = archs.TEXT["hidden_size"], archs.TEXT["vocab_size"]
    file = lora / "adapter_model.safetensors"
    assert load_file(file)
    sides = {"A": torch.zeros(4, hidden), "B": torch.zeros(words, 4)}
    save_file({f"base_model.model.lm_head.lora_{side}.weight": value for side, value in sides.items()}, file)
    with pytest.raises(CheckpointError, match="tied to another weight"):
        nbloader.load(base, progress=False, adapter=lora, merge_adapter=True)


def test_nothing_there_and_nothing_installed(base: Path, lora: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="neither a folder nor the id"):
        nbloader.load(base, progress=False, adapter="../nothing/here")
    with pytest.raises(SourceError, match="us/nothing"):
        nbloader.load(base, progress=False, adapter="us/nothing")
    with pytest.raises(OptionError, match="requires an adapter"):
        LoadOptions(merge_adapter=True)
    monkeypatch.setattr("nbloader._libraries.peft.find_spec", lambda name: None)
    with pytest.raises(DependencyError, match="needs peft"):
        nbloader.load(base, progress=False, adapter=lora)
