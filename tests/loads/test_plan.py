"""What headers and a plan say is what transformers stores, places and holds."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from support import archs
from support.compare import without_place
from support.hub import Hub, Repo
from transformers.integrations.accelerate import _get_device_map

import nbloader
from nbloader import LoadOptions, WontFitError
from nbloader._checkpoint.checkpoint import placing_order, read_checkpoint
from nbloader._planning.placement import _units, place_bytes
from nbloader._planning.plan import make_plan
from nbloader._system.memory import Free

GB = 10**9
SHARD = "model-00002-of-00004.safetensors"


def test_headers_tell_what_transformers_stores(tmp_path: Path) -> None:
    folder = archs.save(archs.build("qwen3_moe (MoE)"), tmp_path, shards=3)
    checkpoint = read_checkpoint(folder)
    stored = {}
    for shard in checkpoint.shards:
        with safe_open(shard.path, "pt") as file:
            stored.update(
                {key: (tuple(file.get_tensor(key).shape), file.get_tensor(key).nbytes) for key in file.keys()}  # noqa: SIM118 - not a dict
            )
    assert {key: (tensor.shape, tensor.bytes) for key, tensor in checkpoint.tensors.items()} == stored
    assert checkpoint.bytes == sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def test_bin_headers_tell_the_same(tmp_path: Path) -> None:
    model = archs.build("llama")
    checkpoint = read_checkpoint(archs.save_bin(model, tmp_path, shards=2))
    expected = {key: (tuple(value.shape), value.nbytes) for key, value in model.state_dict().items()}
    assert {key: (tensor.shape, tensor.bytes) for key, tensor in checkpoint.tensors.items()} == expected
    assert {tensor.dtype for tensor in checkpoint.tensors.values()} == {"F32"}


def test_safetensors_are_preferred_to_bin(tmp_path: Path) -> None:
    archs.save_bin(archs.build("llama"), tmp_path)
    archs.save(archs.build("llama"), tmp_path)
    assert read_checkpoint(tmp_path).format == "safetensors"


def test_a_plan_counts_what_is_in_the_files(demo_small: Path) -> None:
    plan = nbloader.plan(demo_small)
    model = nbloader.load(demo_small, progress=False).model
    assert plan.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert plan.bytes_by_dtype == {"bfloat16": 2 * plan.parameters}
    assert (plan.bytes_to_download, sum(plan.bytes_to_place)) == (0, 2 * plan.parameters)
    assert plan.verdict == "fits"


@pytest.mark.parametrize("fault", ["", "whole"])
def test_bin_files_are_planned_from_both_of_their_ends(hub: Hub, tmp_path: Path, fault: str) -> None:
    folder = archs.save_bin(archs.build("llama"), tmp_path / "bin", shards=2)
    hub.repos["us/bin"] = Repo.of_folder(folder)
    hub.repos["us/bin"].faults = {path.name: [fault] * 9 for path in folder.glob("*.bin")}
    plan = nbloader.plan("us/bin", cache_dir=tmp_path / "cache")
    assert plan.format == "bin"
    assert without_place(plan) == without_place(nbloader.plan(folder))


def test_what_will_not_fit_is_refused_with_what_would(demo_small: Path) -> None:
    size = read_checkpoint(demo_small).bytes
    job = nbloader.start(demo_small, dtype="float32", max_memory=int(1.5 * size))
    with pytest.raises(
        WontFitError, match=r"needs 38\.8 MB of memory at its peak\. max_memory allows 29\.1 MB; .* is free"
    ) as raised:
        job.result()
    smaller, *_, force = zip(raised.value.suggestions, raised.value.needed, strict=True)
    assert (smaller[0], round(smaller[1] / size)) == ({"dtype": "bfloat16"}, 1)
    assert (force[0], round(force[1] / size)) == ({"force": True}, 2)
    assert "With dtype='bfloat16', the model needs 19.4 MB" in raised.value.hint
    assert "Placed" not in {type(event).__name__ for event in job.events}
    again = nbloader.start(demo_small, max_memory=int(1.5 * size), **raised.value.suggestions[0])
    assert str(again.result().model.dtype) == "torch.bfloat16"
    with pytest.raises(WontFitError, match="force=True") as raised:
        nbloader.load(demo_small, progress=False, max_memory=size // 8)
    offload, force = raised.value.suggestions
    assert force == {"force": True}
    job = nbloader.start(demo_small, **offload)
    assert job.result().model is not None
    assert job.state.summary is not None
    assert job.state.summary["device"] == "cpu, disk"
    assert nbloader.load(demo_small, progress=False, max_memory=size // 8, force=True).model is not None


def test_the_plan_is_known_while_the_weights_arrive(demo_repo: Repo, tmp_path: Path) -> None:
    demo_repo.stall = SHARD
    job = nbloader.start("us/demo", cache_dir=tmp_path, dtype="float32")
    assert demo_repo.stalled.wait(30)
    plan = job.plan
    assert plan is not None
    assert job.state.bytes_to_place == sum(plan.bytes_to_place) == 4 * plan.parameters
    demo_repo.release.set()
    job.result()
    assert job.plan is not None
    assert without_place(job.plan) == without_place(plan)


def test_headers_that_cannot_be_had_before_are_read_after(demo_repo: Repo, demo_small: Path, tmp_path: Path) -> None:
    demo_repo.faults[f"{SHARD} head"] = ["html"] * 9
    job = nbloader.start("us/demo", cache_dir=tmp_path)
    job.result()
    assert job.plan is not None
    assert without_place(job.plan) == without_place(nbloader.plan(demo_small))


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2 (tied)", "mixtral (MoE)", "gpt_neox"])
def test_the_kv_cache_takes_what_is_said(tmp_path: Path, name: str) -> None:
    model = archs.build(name)
    plan = nbloader.plan(archs.save(model, tmp_path))
    with torch.inference_mode():
        cache = model(input_ids=torch.ones((1, 17), dtype=torch.long), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert plan.kv_cache is not None
    assert plan.kv_cache.bytes(17) == held


def test_layers_that_slide_keep_their_window(tmp_path: Path) -> None:
    config = {"architectures": ["Gemma3ForCausalLM"], "hidden_size": 8, "num_attention_heads": 2, "head_dim": 4}
    config |= {"num_hidden_layers": 3, "sliding_window": 10}
    config |= {"layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}
    checkpoint = replace(read_checkpoint(archs.save(archs.build("llama"), tmp_path)), config=config)
    cache = make_plan(checkpoint, LoadOptions(dtype="float16")).kv_cache
    assert cache is not None
    assert cache.bytes(100) == (100 + 2 * 10) * 2 * 2 * 4 * 2
    # What attention through a latent keeps is not told by heads.
    latent = replace(checkpoint, config={**config, "kv_lora_rank": 4})
    assert make_plan(latent, LoadOptions(dtype="float16")).kv_cache is None


@pytest.mark.parametrize("name", ["bert", "mamba (state space)", "t5 (encoder-decoder)"])
def test_no_cache_is_made_up(tmp_path: Path, name: str) -> None:
    assert nbloader.plan(archs.save(archs.build(name), tmp_path)).kv_cache is None


def test_experts_that_are_joined_are_copies(tmp_path: Path) -> None:
    folder = archs.save(archs.build("mixtral (MoE)"), tmp_path)
    checkpoint = read_checkpoint(folder)
    experts = sum(tensor.bytes for key, tensor in checkpoint.tensors.items() if ".experts." in key)
    plan = make_plan(checkpoint, LoadOptions(dtype="auto"))
    assert plan.copies
    assert plan.host_memory["files"] == experts
    assert "joining" not in plan.host_memory
    layers = [
        sum(tensor.bytes for key, tensor in checkpoint.tensors.items() if f"layers.{layer}." in key and is_joined(key))
        for layer in range(2)
    ]
    cast = make_plan(checkpoint, LoadOptions(dtype="bfloat16"))
    assert cast.host_memory["joining"] == 2 * max(layers) // 2


def is_joined(key: str) -> bool:
    return ".experts." in key and not key.endswith((".w2.weight", ".down_proj.weight"))


DEEP = {"num_hidden_layers": 12, "n_layer": 12, "num_layers": 8, "num_decoder_layers": 8}


@pytest.mark.parametrize("device_map", ["auto", "sequential", "balanced_low_0"])
@pytest.mark.parametrize(
    "shares",
    [
        {0: 2, "cpu": 1},
        {0: 0.5, "cpu": 1},
        {0: 0.5, "cpu": 0.25},
        {0: 1.02, "cpu": 1},
        {0: 0.35, 1: 1, "cpu": 1},
        {0: 0.35, 1: 0.35, "cpu": 0.1},
        {0: 1, 1: 1, 2: 1},
        {"cpu": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["llama", "gpt2 (tied)", "mixtral (MoE)", "bert", "t5 (encoder-decoder)"])
def test_a_map_is_foreseen_to_a_layer(name: str, shares: Mapping[Any, float], device_map: str) -> None:
    model = archs.build(name, **DEEP)
    tied = set(model.all_tied_weights_keys)
    sizes = {key: value.nbytes for key, value in model.state_dict().items() if key not in tied}
    sizes = {key: sizes[key] for key in placing_order(sizes)}
    total = sum(sizes.values())
    limits = {place: int(share * total) for place, share in shares.items()}
    devices = {f"cuda:{place}": 9 * GB for place in shares if place != "cpu"}
    placed = place_bytes(sizes, LoadOptions(device_map=device_map, max_memory=limits), Free(9 * GB, devices))
    assert placed.devices is not None
    foreseen = Counter({"cpu": placed.cpu, "disk": placed.disk, **placed.devices})
    chosen = chosen_by_transformers(model, device_map, limits, sizes)
    layer = max(_units(sizes).values())
    assert max(abs(foreseen[place] - chosen[place]) for place in {*foreseen, *chosen}) <= 1.2 * layer
    assert foreseen.total() == total


def chosen_by_transformers(
    model: Any, device_map: str, limits: Mapping[Any, int], sizes: Mapping[str, int]
) -> Counter[str]:
    chosen: Counter[str] = Counter()
    modules = _get_device_map(model, device_map, dict(limits), None)
    for key, size in sizes.items():
        place = modules[max((module for module in modules if is_in(key, module)), key=len)]
        chosen[f"cuda:{place}" if isinstance(place, int) else str(place)] += size
    return chosen


def is_in(key: str, module: str) -> bool:
    return module == "" or f"{key}.".startswith(f"{module}.")


def test_what_is_cached_is_not_downloaded_and_not_asked_for(hub: Hub, demo_repo: Repo, tmp_path: Path) -> None:
    nbloader.load("us/demo", progress=False, cache_dir=tmp_path)
    hub.asked.clear()
    assert nbloader.plan("us/demo", cache_dir=tmp_path).bytes_to_download == 0
    assert hub.asked == []
    snapshot = tmp_path / "models--us--demo" / "snapshots" / demo_repo.commit
    (snapshot / SHARD).resolve().unlink()
    (snapshot / SHARD).unlink()
    assert nbloader.plan("us/demo", cache_dir=tmp_path).bytes_to_download == len(demo_repo.files[SHARD])


def test_a_repository_that_will_not_fit_is_not_downloaded(hub: Hub, demo_repo: Repo, tmp_path: Path) -> None:
    hub.ranges.clear()
    with pytest.raises(WontFitError):
        nbloader.load("us/demo", progress=False, cache_dir=tmp_path, max_memory="1MB")
    assert not [name for name, _ in hub.ranges if name.endswith(".safetensors")]


def test_as_many_tensors_as_a_pickle_may_have_are_read(tmp_path: Path) -> None:
    part = torch.zeros(1)
    state = OrderedDict((f"model.layers.{number}.mlp.weight", part.clone()) for number in range(20_000))
    (tmp_path / "config.json").write_text("{}")
    torch.save(state, tmp_path / "pytorch_model.bin")
    tensors = read_checkpoint(tmp_path).tensors
    assert len(tensors) == len(state)
    assert {tensor.shape for tensor in tensors.values()} == {(1,)}
