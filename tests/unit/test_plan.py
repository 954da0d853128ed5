"""What a load will move and hold, said before it: from folders, and from a Hub without downloading weights."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.compare import without_place
from support.hub import Hub, Repo

import nbloader
from nbloader import CheckpointError, DownloadError, LoadOptions, LoadPlan, WontFitError
from nbloader._checkpoint.checkpoint import read_checkpoint
from nbloader._cli import run
from nbloader._hub import download
from nbloader._hub.remote_file import open_remote
from nbloader._hub.transfer import BrokenOffError, Reply
from nbloader._planning.plan import check_fit, make_plan
from nbloader._system.memory import Free

MB = 1_000_000
SHARD = "model-00002-of-00004.safetensors"


def test_planning_imports_neither_torch_nor_transformers(demo_small: Path) -> None:
    code = (
        "import sys, nbloader; nbloader.plan(sys.argv[1]);"
        "sys.exit(bool({'torch', 'transformers', 'IPython'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(demo_small)], check=False).returncode == 0


def test_a_repository_is_planned_without_its_weights(
    hub: Hub, demo_repo: Repo, demo_small: Path, tmp_path: Path
) -> None:
    demo_repo.files = {**demo_repo.files, "pytorch_model.bin": bytes(MB), "README.md": b"Hello."}
    hub.asked.clear()
    plan = nbloader.plan("us/demo", cache_dir=tmp_path)
    assert without_place(plan) == without_place(nbloader.plan(demo_small))
    needed = sum(
        len(content) for name, content in demo_repo.files.items() if name not in ("pytorch_model.bin", "README.md")
    )
    brought = {"config.json", "model.safetensors.index.json"}
    assert plan.bytes_to_download == needed - sum(len(demo_repo.files[name]) for name in brought)
    fetched = sum(size for name, size in hub.asked if name.endswith(".safetensors"))
    assert fetched <= 4 * (256 << 10)
    assert {name for name, _ in hub.asked} - brought == {
        name for name in demo_repo.files if name.endswith(".safetensors")
    }


def test_a_part_is_cut_out_of_what_a_server_sends() -> None:
    reply = Reply(0, 10, iter([b"0123", b"4567", b"89"]))
    assert download._taken(reply, 3, 6) == b"345"
    assert next(reply.chunks) == b"89"
    with pytest.raises(BrokenOffError, match="range requests"):
        download._taken(Reply(0, 9 * MB, iter([])), 8 * MB, 9 * MB)
    with pytest.raises(BrokenOffError, match="ended early"):
        download._taken(Reply(0, 10, iter([b"0123"])), 3, 6)


def test_a_remote_file_fetches_nothing_twice() -> None:
    content = bytes(range(256)) * 4000
    fetched: list[tuple[int, int]] = []

    def fetch(begin: int, end: int) -> bytes:
        fetched.append((begin, end))
        return content[begin:end]

    with open_remote(fetch, len(content)) as file:
        for _ in range(2):
            assert (file.seek(-22, io.SEEK_END), file.read()) == (len(content) - 22, content[-22:])
            assert (file.seek(5), file.read(10)) == (5, content[5:15])
        assert file.read() == content[15:]
    assert len(fetched) == 5


@pytest.mark.parametrize("faults", [["whole"], ["cut", "reset"], ["503 1"]])
def test_a_disturbed_plan_is_made_all_the_same(
    demo_repo: Repo, demo_small: Path, tmp_path: Path, faults: list[str]
) -> None:
    demo_repo.faults[f"{SHARD} head"] = faults
    assert without_place(nbloader.plan("us/demo", cache_dir=tmp_path)) == without_place(nbloader.plan(demo_small))


def test_a_plan_that_cannot_be_made_says_why(demo_repo: Repo, tmp_path: Path) -> None:
    demo_repo.faults[f"{SHARD} head"] = ["503 1"] * 9
    with pytest.raises(DownloadError, match="503"):
        nbloader.plan("us/demo", cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("choices", "host", "devices"),
    [
        ({}, {"weights": 1}, {}),
        ({"dtype": "float32"}, {"weights": 2, "files": 1}, {}),
        ({"device": "cuda:1"}, {"weights": 0, "files": 1}, {"cuda:1": 1}),
        ({"device": "cuda", "dtype": "float32"}, {"weights": 0, "files": 1}, {"cuda:0": 2}),
        ({"device_map": {"": 1}}, {"weights": 0, "files": 1}, {"cuda:1": 1}),
        ({"device_map": {"": "cpu"}}, {"weights": 1}, {}),
        ({"device_map": "auto"}, {"weights": 0, "files": 1}, None),
    ],
)
def test_what_is_held_where(
    demo_small: Path,
    choices: dict[str, Any],
    host: dict[str, int],
    devices: dict[str, int] | None,
) -> None:
    checkpoint = read_checkpoint(demo_small)
    plan = make_plan(checkpoint, LoadOptions(**choices))
    unit = checkpoint.bytes
    assert {part: round(size / unit) for part, size in plan.host_memory.items()} == host
    assert plan.copies == (host != {"weights": 1})
    held = plan.device_memory
    assert (held if held is None else {name: round(parts["weights"] / unit) for name, parts in held.items()}) == devices


def test_without_devices_a_map_leaves_on_disk_what_does_not_fit(demo_small: Path) -> None:
    checkpoint = read_checkpoint(demo_small)
    size = checkpoint.bytes

    def made(available: int, **choices: Any) -> LoadPlan:
        return make_plan(checkpoint, LoadOptions(device_map="auto", **choices), free=Free(available, {}))

    whole = made(2 * size)
    assert (whole.device_memory, whole.bytes_to_offload, whole.verdict) == ({}, 0, "fits")
    plan = made(2 * size, max_memory={"cpu": size // 2})
    assert plan.host_memory["weights"] + plan.bytes_to_offload == size
    assert 0 < plan.host_memory["weights"] <= size // 2
    assert (plan.device_memory, plan.verdict, plan.copies) == ({}, "fits", False)


def test_the_verdict_follows_from_what_is_free(demo_small: Path) -> None:
    checkpoint = read_checkpoint(demo_small)

    def verdict(available: int | None, devices: dict[str, int | None] | None = None, **choices: Any) -> str | None:
        free = None if available is None else Free(available, devices or {})
        return make_plan(checkpoint, LoadOptions(**choices), free=free).verdict

    size = checkpoint.bytes
    assert [verdict(free) for free in (2 * size, int(1.05 * size), size - 1)] == ["fits", "tight", "wont_fit"]
    assert verdict(2 * size, dtype="float32") == "tight"
    assert verdict(2 * size, max_memory={"cpu": size // 2}) == "wont_fit"
    assert verdict(2 * size, max_memory=size // 2) == "wont_fit"
    assert verdict(size - 1, {"cuda:0": 2 * size}, device="cuda") == "fits"
    assert verdict(2 * size, {"cuda:0": int(0.95 * size)}, device="cuda") == "wont_fit"
    assert verdict(2 * size, {"cuda:0": 2 * size, "cuda:1": int(1.05 * size)}, device="cuda:1") == "tight"
    assert verdict(2 * size, {"cuda:0": None}, device="cuda") is None
    assert verdict(2 * size, {"cuda:0": 1, "cuda:1": None}, device_map={"model": 0, "lm_head": 1}) == "wont_fit"
    assert verdict(2 * size, {"cuda:0": 2 * size}, device="cuda", adapter="x") == "fits"
    assert (verdict(None), verdict(size, {"cuda:0": None}, device_map="auto")) == (None, None)
    assert verdict(2 * size, {"cuda:0": size // 2}, device_map="auto") == "fits"


def test_what_will_not_fit_on_a_device_is_told_by_its_name(demo_small: Path) -> None:
    checkpoint = read_checkpoint(demo_small)
    size, options = checkpoint.bytes, LoadOptions(device="cuda:1", dtype="float32")
    plan = make_plan(checkpoint, options, free=Free(9 * size, {"cuda:0": 9 * size, "cuda:1": int(1.5 * size)}))
    with pytest.raises(
        WontFitError, match=r"needs 38\.8 MB of the memory of cuda:1 at its peak, and 29\.1 MB is free"
    ) as raised:
        check_fit("it", checkpoint, plan, options)
    *smaller, spread, force = raised.value.suggestions
    assert smaller == [{"dtype": "bfloat16"}, {"quantization": "8bit"}, {"quantization": "4bit"}]
    assert (spread["device_map"], spread["device"], force) == ("auto", None, {"force": True})
    assert "max_memory" not in spread
    assert raised.value.needed[0] == sum(tensor.bytes for tensor in checkpoint.tensors.values())
    check_fit("it", checkpoint, plan, replace(options, force=True))
    quantized = make_plan(checkpoint, replace(options, quantization="4bit"), free=Free(size, {"cuda:1": size}))
    assert quantized.device_memory is not None
    assert quantized.device_memory["cuda:1"]["weights"] == sum(quantized.bytes_to_place)
    inner = [tensor.elements for key, tensor in checkpoint.tensors.items() if "layers" in key]
    assert quantized.device_memory["cuda:1"]["quantization"] == 4 * max(inner)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["architectures", "hidden_size", "num_attention_heads", "num_hidden_layers", "layer_types"])
        | st.sampled_from(["text_config", "num_key_value_heads", "head_dim", "sliding_window", "dtype"]),
        st.none()
        | st.booleans()
        | st.integers(-5, 5)
        | st.text(max_size=3)
        | st.lists(st.integers(), max_size=3)
        | st.just(["LlamaForCausalLM"])
        | st.dictionaries(st.just("hidden_size"), st.integers(), max_size=1),
    )
)
def test_a_config_that_makes_no_sense_breaks_no_plan(demo_small: Path, config: dict[str, Any]) -> None:
    try:
        make_plan(replace(read_checkpoint(demo_small), config=config), LoadOptions())
    except CheckpointError as error:  # as transformers does
        assert "sets the dtype" in error.message or "config.json sets" in error.message  # noqa: PT017


def test_the_command_prints_it(
    demo_small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbloader._analysis.forecast.find_free", lambda: Free(10**9, {"cuda:0": 10**7, "cuda:1": None}))
    assert run(["plan", str(demo_small), "--dtype", "float32", "--context-length", "1000"]) == 0
    told = capsys.readouterr().out
    assert "safetensors, 4 shards" in told
    assert "38.8 MB float32" in told
    assert ": it fits" in told
    assert "1,000 tokens" in told
    assert run(["plan", str(demo_small), "--device-map", "auto"]) == 0
    assert "not known before the load" in capsys.readouterr().out
    assert run(["plan", str(demo_small), "--device", "cuda"]) == 0
    assert "cuda:0 19.4 MB of 10.0 MB (weights 19.4 MB): it will not fit" in capsys.readouterr().out
    assert run(["plan", str(demo_small), "--device-map", "auto", "--max-memory", "6MB"]) == 0
    told = capsys.readouterr().out
    assert "cuda:0" in told
    assert "left on disk" in told
