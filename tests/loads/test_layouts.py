"""Folders and files that are not checkpoints are recognised, and the call that would work is named.

Plain ``from_pretrained`` refuses each of them, too.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from support import archs
from support.compare import differences, tensor_differences
from support.hub import Hub, Repo
from support.layouts import (
    both,
    holding,
    indexed,
    llama,
    moved,
    pickled,
    renamed,
    scripted,
    sharded,
    untyped,
    without,
    zipped,
)

import nbloader
from nbloader import CheckpointError, LoadError, SourceError

W = "model.safetensors"
CONFIG = "config.json"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 133466304\n"
PAGE = b"<!DOCTYPE html><html><body>Sign in to continue</body></html>"
MODULES = json.dumps([{"idx": 0, "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]).encode()
ADAPTER = json.dumps({"base_model_name_or_path": "org/base", "peft_type": "LORA"}).encode()

# name: (what is done to a folder with a Llama, what is found, what to do)
STRANGE: dict[str, tuple[Any, str, str]] = {
    "empty index": (without(W), "has no weights", "download"),
    "original safetensors": (renamed(W, "consolidated.safetensors"), "the model's authors", "convert the weights"),
    "original pth": (holding("consolidated.00.pth", b"x"), "format of the model's authors", "convert the weights"),
    "model.pt": (holding("model.pt", b"x"), r"does not look for: model\.pt", "rename the file to pytorch_model.bin"),
    "another name": (renamed(W, "weights.safetensors"), "look for: weights", "rename the file to model.safetensors"),
    "variant": (renamed(W, "model.fp16.safetensors"), "weights of a variant: model.fp16", 'variant="fp16"'),
    "variant in shards, as of late": (renamed(W, "model-00001-of-00002.fp16.safetensors"), "of a variant", '"fp16"'),
    "variant in shards": (renamed(W, "model.fp16-00001-of-00002.safetensors"), "of a variant", 'variant="fp16"'),
    "gguf": (holding("model-Q4_K_M.gguf", b"GGUF"), "only GGUF weights", 'gguf_file="model-Q4_K_M.gguf"'),
    "gguf alone": (both(holding("m.gguf", b"GGUF"), without(CONFIG)), "only GGUF weights", 'gguf_file="m.gguf"'),
    "onnx": (holding("onnx/model.onnx", b"x"), "only ONNX weights: onnx/model.onnx", "optimum"),
    "tensorflow": (holding("tf_model.h5", b"x"), "only weights of another framework: tf_model.h5", "safetensors"),
    "flax": (holding("flax_model.msgpack", b"x"), "only weights of another framework", "safetensors"),
    "distributed": (holding("__0_0.distcp", b"x"), "torch distributed checkpoint", "dcp_to_torch"),
    "zero": (holding("zero_to_fp32.py", b"x"), "DeepSpeed ZeRO", "python zero_to_fp32.py"),
    "zero's steps": (holding("global_step10/mp_rank_00_model_states.pt", b"x"), "DeepSpeed ZeRO", "zero_to_fp32"),
    "trainer": (moved("checkpoint-500", "checkpoint-1000"), "folder of a Trainer", 'subfolder="checkpoint-1000"'),
    "trainer of adapters": (
        both(without(CONFIG), holding("checkpoint-20/adapter_config.json", ADAPTER)),
        "1 step subfolders contain adapters",
        'LoaderWidget("org/base", adapter=',
    ),
    "sentence-transformers": (
        both(moved("0_Transformer"), holding("modules.json", MODULES)),
        "sentence-transformers model",
        'subfolder="0_Transformer"',
    ),
    "diffusers": (
        both(moved("text_encoder", "unet"), holding("model_index.json", b"{}")),
        "diffusers pipeline.*text_encoder, unet",
        "DiffusionPipeline",
    ),
    "adapter": (
        both(without(CONFIG), holding("adapter_config.json", ADAPTER)),
        'holds an adapter, not a model. It was made for "org/base"',
        'LoaderWidget("org/base", adapter=',
    ),
    "adapter of nobody": (
        both(without(CONFIG), holding("adapter_config.json", b"{}")),
        "does not name its base model",
        "adapter=",
    ),
    "one folder deeper": (moved("model"), 'There is one in: model', 'subfolder="model"'),
    "one shard of two": (renamed(W, "model-00002-of-00002.safetensors"), "1 of 2 shards", "incomplete"),
    "index without metadata": (indexed(), 'has no "metadata"', "delete the index"),
    "index with null metadata": (indexed(metadata=None), 'has no "metadata"', "delete the index"),
    "page as safetensors": (holding(W, PAGE), "contains an HTML page", "with a token"),
    "page as bin": (holding("pytorch_model.bin", PAGE), "contains an HTML page", "with a token"),
    "pointer as safetensors": (holding(W, POINTER), "Git LFS pointer", "git lfs pull"),
    "pointer as bin": (holding("pytorch_model.bin", POINTER), "Git LFS pointer", "git lfs pull"),
    "pointer as config": (holding(CONFIG, POINTER), "Git LFS pointer", "git lfs pull"),
    "gzip": (zipped, "contains a gzip archive", "gzip -dc"),
    "safetensors as bin": (renamed(W, "pytorch_model.bin"), "contains safetensors", "file to model.safetensors"),
    "bin as safetensors": (
        both(pickled(lambda state: state), renamed("pytorch_model.bin", W)),
        "pickle or zip file from torch.save",
        "Rename the file to pytorch_model.bin",
    ),
    "TorchScript": (scripted, "TorchScript program", "torch.jit.load"),
    "nested": (
        both(untyped, pickled(lambda state: {"state_dict": state})),
        "nests its tensors under 'state_dict'",
        "inner dict",
    ),
    "nested and more": (
        both(untyped, pickled(lambda state: {"epoch": 3, "model": state})),
        "under 'model'",
        "inner dict",
    ),
    "a list": (pickled(lambda state: list(state.values())), "contains a list, not a state dict", "state_dict"),
    "one tensor": (
        pickled(lambda state: next(iter(state.values()))),
        "contains a Tensor, not a state dict",
        "state_dict",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_not_a_checkpoint_is_recognised(name: str, tmp_path: Path) -> None:
    change, found, todo = STRANGE[name]
    change(llama(tmp_path))
    with pytest.raises(Exception):  # noqa: B017, PT011 - plain loading refuses in many ways
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    for look in (nbloader.plan, lambda folder: nbloader.load(folder, progress=False)):
        with pytest.raises(CheckpointError, match=found) as raised:
            look(tmp_path)
        assert todo in raised.value.hint


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize("count", [1, 3])
def test_shards_without_an_index_are_loaded(count: int, ending: str, tmp_path: Path) -> None:
    sharded(count, ending)(llama(tmp_path))
    plan = nbloader.plan(tmp_path)
    job = nbloader.start(tmp_path)
    assert tensor_differences(job.result().model, archs.build("llama")) == []
    assert len(plan.bytes_to_read) == count
    assert job.state.bytes_placed == sum(plan.bytes_to_place) > 0


@pytest.mark.parametrize("name", ["gguf", "trainer", "adapter", "variant", "sentence-transformers"])
def test_a_repository_is_recognised_by_its_names(hub: Hub, name: str, tmp_path: Path) -> None:
    change, found, todo = STRANGE[name]
    change(llama(tmp_path))
    hub.repos["org/strange"] = Repo.of_folder(tmp_path)
    with pytest.raises(CheckpointError, match=found) as raised:
        nbloader.load("org/strange", progress=False)
    assert todo in raised.value.hint
    assert not any(path.endswith(("safetensors", "gguf")) for _, path in hub.requests)


def test_a_cache_is_recognised(hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    hub.repos["org/model"] = Repo.of_folder(demo_small)
    nbloader.load("org/model", progress=False, cache_dir=str(tmp_path))
    with pytest.raises(CheckpointError, match='checkpoint of the repository "org/model"') as raised:
        nbloader.plan(tmp_path / "models--org--model")
    assert 'LoaderWidget("org/model")' in raised.value.hint
    with pytest.raises(CheckpointError, match=r"is a Hub cache.*org/model") as raised:
        nbloader.plan(tmp_path)
    assert 'LoaderWidget("org/model", cache_dir=' in raised.value.hint


def test_a_folder_that_hides_a_repository_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.makedirs("gpt2")
    os.makedirs("org/name")
    for model in ("gpt2", "org/name"):
        with pytest.raises(SourceError, match=f'so "{model}" means that folder, not the repository'):
            nbloader.plan(model)


@pytest.mark.parametrize(
    "pasted",
    [
        "https://huggingface.co/us/demo",
        "https://huggingface.co/us/demo/",
        "huggingface.co/us/demo?library=transformers",
        "hf.co/us/demo",
        "https://huggingface.co/us/demo/tree/v2",
        "https://huggingface.co/us/demo/blob/v2/config.json#L3",
        "{url}/us/demo",
        "us/demo@v2",
        "us/demo/",
    ],
)
def test_an_id_as_people_paste_it(pasted: str, hub: Hub, demo_small: Path, tmp_path: Path) -> None:
    hub.repos["us/demo"] = Repo.of_folder(demo_small, branches=("main", "v2"))
    job = nbloader.start(pasted.format(url=hub.url), cache_dir=tmp_path)
    job.result(60)
    assert (job.state.name, job.state.commit) == ("us/demo", hub.repos["us/demo"].commit)
    branch = "v2" if "v2" in pasted else "main"
    assert (tmp_path / "models--us--demo/refs" / branch).read_text() == job.state.commit


@pytest.mark.parametrize(
    ("pasted", "choices"),
    [("https://hf.co/us/demo", {"revision": "v2"}), ("https://hf.co/us/demo/tree/v2/sub", {"subfolder": "sub"})],
)
def test_options_say_what_a_pasted_id_leaves_open(
    pasted: str, choices: dict[str, str], hub: Hub, demo_small: Path, tmp_path: Path
) -> None:
    hub.repos["us/demo"] = Repo.of_folder(demo_small, f"{choices['subfolder']}/" if "subfolder" in choices else "")
    hub.repos["us/demo"].branches = ("v2",)
    job = nbloader.start(pasted, cache_dir=tmp_path, **choices)
    job.result(60)
    assert (tmp_path / "models--us--demo/refs/v2").read_text() == job.state.commit


@pytest.mark.parametrize(
    ("model", "choices", "call"),
    [
        ("http://hub.local:8080/owner/name/blob/v2/config.json", {}, '"owner/name", revision="v2"'),
        ("https://example.com/owner/name", {}, '"owner/name"'),
        ("https://hf.co/owner/name/tree/main/unet", {}, '"owner/name", revision="main", subfolder="unet"'),
        ("owner/name@v2", {"revision": "v3"}, '"owner/name", revision="v2"'),
        ("name@0123abc", {"revision": "main"}, '"name", revision="0123abc"'),
    ],
)
def test_an_address_that_says_more_than_an_id_is_told_as_what_it_is(
    model: str, choices: dict[str, str], call: str
) -> None:
    with pytest.raises(SourceError, match="is not the id of a repository") as raised:
        nbloader.plan(model, **choices)
    assert f"LoaderWidget({call})" in raised.value.hint


def test_a_cache_in_the_home_folder_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    options = nbloader.LoadOptions(cache_dir="~/cache", offload_folder="~/off")
    assert (options.cache_dir, options.offload_folder) == (f"{tmp_path}/cache", f"{tmp_path}/off")


def test_empty_weights_of_zero_3_are_told_without_a_report(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = llama(tmp_path)
    save_file({key: torch.empty(0) for key in load_file(folder / W)}, folder / W, {"format": "pt"})
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with pytest.raises(CheckpointError, match=r"are empty, .* DeepSpeed ZeRO-3"):
            nbloader.load(folder, progress=False)
    finally:
        transformers.logging.set_verbosity(level)


def test_what_a_config_is_refused_for_is_said_to_the_end(tmp_path: Path) -> None:
    folder = llama(tmp_path)
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "vocab_size": "128"}))
    with pytest.raises(LoadError, match=r"field 'vocab_size': .*expected int, got str"):
        nbloader.load(folder, progress=False)


def test_an_adapter_beside_a_model_is_attached_planned_and_counted(tmp_path: Path) -> None:
    folder = archs.save(archs.build("llama"), tmp_path / "model", shards=2)
    adapter = archs.make_adapter(folder, tmp_path / "adapter", str(folder))
    for path in adapter.glob("adapter_*"):
        shutil.copy(path, folder)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
    plan = nbloader.plan(folder)
    job = nbloader.start(folder)
    assert differences(job.result().model, plain) == []
    size = (folder / "adapter_model.safetensors").stat().st_size
    assert plan.adapter_bytes == plan.host_memory["adapter"] == size
    state = job.state
    assert [line.code for line in state.log if line.code == "adapter_beside"] == ["adapter_beside"]
    assert state.shards[-1].name == "adapter_model.safetensors"
    assert 0 < state.shards[-1].bytes_placed <= size
    assert (state.bytes_placed, state.bytes_read) == (state.bytes_to_place, state.bytes_to_read)


def test_an_adapter_beside_a_model_of_the_hub_comes_with_it(hub: Hub, tmp_path: Path) -> None:
    folder = archs.save(archs.build("llama"), tmp_path / "model")
    adapter = archs.make_adapter(folder, tmp_path / "adapter", str(folder))
    for path in adapter.glob("adapter_*"):
        shutil.copy(path, folder)
    hub.repos["org/both"] = Repo.of_folder(folder)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert tensor_differences(nbloader.load("org/both", progress=False).model, plain) == []


def test_an_adapter_config_beside_a_model_without_its_weights_is_refused(tmp_path: Path) -> None:
    folder = llama(tmp_path)
    (folder / "adapter_config.json").write_bytes(ADAPTER)
    with pytest.raises(CheckpointError, match=r"weights, adapter_model.safetensors, are missing"):
        nbloader.plan(folder)
