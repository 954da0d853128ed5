from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nbloader import CheckpointError, LoadOptions
from nbloader._checkpoint.checkpoint import read_checkpoint
from nbloader._planning.plan import make_plan


def test_the_plan_counts_what_a_cast_places(demo_small: Path) -> None:
    checkpoint = read_checkpoint(demo_small)
    plain = make_plan(checkpoint, LoadOptions())
    cast = make_plan(checkpoint, LoadOptions(dtype="float32"))
    assert not plain.copies
    assert cast.copies
    assert sum(cast.bytes_to_place) == 2 * sum(plain.bytes_to_place) == 4 * plain.parameters
    assert plain.bytes_to_read == tuple(shard.bytes for shard in checkpoint.shards)
    assert cast.peak_memory > plain.peak_memory


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a Git LFS pointer"),
        (b"", "is empty"),
    ],
)
def test_what_a_copy_has_left_out_is_told(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=told):
        read_checkpoint(tmp_path)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_no_header_does_anything_but_load_or_be_refused(data: st.DataObject, demo_small: Path) -> None:
    original = (demo_small / "model-00001-of-00004.safetensors").read_bytes()[:4000]
    position = data.draw(st.integers(0, len(original) - 1))
    mutated = original[:position] + data.draw(st.binary(max_size=12)) + original[position:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text('{"model_type": "llama"}')
        (folder / "model.safetensors").write_bytes(mutated)
        with pytest.raises(CheckpointError):
            read_checkpoint(folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(header=st.dictionaries(st.text(max_size=5), JSON | st.fixed_dictionaries(
    {"dtype": JSON, "shape": JSON, "data_offsets": JSON}), max_size=3), size=st.integers(0, 64))  # fmt: skip
def test_any_json_for_a_header_is_read_or_refused(header: dict[str, object], size: int) -> None:
    text = json.dumps(header).encode()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * size)
        try:
            checkpoint = read_checkpoint(folder)
        except CheckpointError:
            return
        assert sum(tensor.bytes for tensor in checkpoint.tensors.values()) == size


@settings(max_examples=200, deadline=None)
@given(weight_map=JSON)
def test_any_index_is_read_or_refused(weight_map: object) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(CheckpointError):
            read_checkpoint(folder)
