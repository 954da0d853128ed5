"""What is wrong with a checkpoint or an option is told: what, where, and what to do; and nothing is left."""

from __future__ import annotations

import json
import pickle
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support import archs

import nbloader
from nbloader import CheckpointError, LoadError, OptionError, SourceError
from nbloader._checkpoint.checkpoint import read_checkpoint
from nbloader._libraries.transformers.loading import check_device
from nbloader._system.memory import sample_memory


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return archs.save(archs.build("llama"), tmp_path / "model", shards=3)


def shard(folder: Path) -> Path:
    return next(folder.glob("model-00002-*.safetensors"))


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_header(path: Path, edit: Callable[[dict[str, dict[str, object]]], None]) -> None:
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    edit(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])


def first_tensor(header: dict[str, dict[str, object]]) -> dict[str, object]:
    return header[next(key for key in header if key != "__metadata__")]


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_weights(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()


def missing_shard(folder: Path) -> None:
    shard(folder).unlink()


def truncated_shard(folder: Path) -> None:
    shard(folder).write_bytes(shard(folder).read_bytes()[:-100])


def empty_shard(folder: Path) -> None:
    shard(folder).write_bytes(b"")


def beyond_the_file(folder: Path) -> None:
    edit_header(shard(folder), lambda header: first_tensor(header).update(data_offsets=[0, 10**12]))


def overlapping(folder: Path) -> None:
    edit_header(shard(folder), lambda header: [entry.update(data_offsets=[0, 64]) for entry in header.values()])


def negative(folder: Path) -> None:
    edit_header(shard(folder), lambda header: first_tensor(header).update(data_offsets=[-4, 4]))


def wrong_shape(folder: Path) -> None:
    edit_header(shard(folder), lambda header: first_tensor(header).update(shape=[10**9, 10**9]))


def terabytes(folder: Path) -> None:
    shard(folder).write_bytes((10**13).to_bytes(8, "little") + shard(folder).read_bytes()[8:])


def endless_shape(folder: Path) -> None:
    edit_header(shard(folder), lambda header: first_tensor(header).update(shape=[10**4200] * 60))


def many_dimensions(folder: Path) -> None:
    edit_header(shard(folder), lambda header: first_tensor(header).update(shape=[10**9] * 5000))


def surrogate_index(folder: Path) -> None:
    path = folder / "model.safetensors.index.json"
    path.write_text('{"metadata": {}, "weight_map": {"a": "x\\ud800.safetensors"}}')


def broken_header(folder: Path) -> None:
    shard(folder).write_bytes((5).to_bytes(8, "little") + b"{nope" + b"\0" * 100)


def outside_index(folder: Path) -> None:
    path = folder / "model.safetensors.index.json"
    content = json.loads(path.read_text())
    key = next(iter(content["weight_map"]))
    content["weight_map"][key] = "../../secret.safetensors"
    path.write_text(json.dumps(content))


def absolute_index(folder: Path) -> None:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "/etc/passwd"}}))


def empty_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{}")


def broken_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{")


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "llama",')


def nested_config(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 100_000)


def list_config(folder: Path) -> None:
    (folder / "config.json").write_text("[1]")


def unknown_architecture(folder: Path) -> None:
    edit_config(folder, model_type="lamma", architectures=["LammaForCausalLM"])


def no_model_type(folder: Path) -> None:
    edit_config(folder, model_type=None)


def odd_model_type(folder: Path) -> None:
    edit_config(folder, model_type=["llama"])


def other_shape(folder: Path) -> None:
    edit_config(folder, hidden_size=64)


def adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": ')


CASES = [
    (no_config, "no config.json", "save_pretrained"),
    (no_weights, "no weights", "again"),
    (missing_shard, "model-00002", "incomplete"),
    (truncated_shard, "wrong size", "again"),
    (empty_shard, "is empty", "again"),
    (beyond_the_file, "takes|wrong size|should start at", "again"),
    (overlapping, "overlap", "again"),
    (negative, "data_offsets for tensor", "again"),
    (wrong_shape, "takes", "again"),
    (terabytes, "10,000,000,000,000", "again"),
    (endless_shape, "invalid safetensors header|invalid shape", "again"),
    (many_dimensions, "invalid shape", "again"),
    (surrogate_index, "does not exist|missing", "missing"),
    (broken_header, "invalid safetensors header", "again"),
    (outside_index, "outside the checkpoint: '../../secret", "attack"),
    (absolute_index, "outside the checkpoint: '/etc/passwd'", "attack"),
    (empty_index, "no weight_map", "again"),
    (broken_index, "index.json is not valid JSON", "again"),
    (broken_config, "config.json is not valid JSON", "again"),
    (nested_config, "config.json is not valid JSON", "again"),
    (list_config, "contains a list", "again"),
    (unknown_architecture, "model type 'lamma'", "Did you mean 'llama'"),
    (no_model_type, "has no model_type", "model_type"),
    (odd_model_type, "model type", "transformers"),
    (other_shape, "do not have the shapes", "same checkpoint"),
    (adapter, "an adapter, not a model", "Pass the base model"),
    (broken_tokenizer, "transformers could not load", "complete"),
]


@pytest.mark.parametrize(("damage", "what", "to_do"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_bad_checkpoint(damage: Callable[[Path], None], what: str, to_do: str, folder: Path) -> None:
    damage(folder)
    job = nbloader.start(folder, tokenizer=True if damage is broken_tokenizer else "auto")
    with pytest.raises(CheckpointError, match=what) as info:
        job.result(60)
    assert str(folder) in info.value.message
    assert to_do in info.value.hint
    assert job.state.status == "failed"
    assert job.state.error is not None
    assert (job.state.error.message, job.state.error.hint) == (info.value.message, info.value.hint)
    assert info.value.details


def test_nothing_is_left_running(folder: Path) -> None:
    truncated_shard(folder)
    job = nbloader.start(folder)
    with pytest.raises(CheckpointError):
        job.result(60)
    for thread in threading.enumerate():
        if thread.name.startswith("nbloader"):
            thread.join(30)
            assert not thread.is_alive(), thread


def test_a_folder_with_other_weights_names_them(folder: Path) -> None:
    no_weights(folder)
    (folder / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"model\.gguf"):
        nbloader.load(folder, progress=False)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (open, ("/tmp/nbloader-evil", "w"))


def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    import torch

    folder = archs.save_bin(archs.build("llama"), tmp_path / "bin")
    state = torch.load(folder / "pytorch_model.bin")
    torch.save({**state, "evil": Evil()}, folder / "pytorch_model.bin", pickle_module=pickle)
    Path("/tmp/nbloader-evil").unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="objects that are not tensors"):
        nbloader.load(folder, progress=False)
    assert not Path("/tmp/nbloader-evil").exists()


def test_a_tokenizer_s_settings_lead_nowhere_else(demo_small: Path, tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside.json"
    shutil.copytree(demo_small, folder)
    shutil.move(folder / "tokenizer.json", outside)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_file": str(outside)}))
    with pytest.raises(CheckpointError):
        nbloader.load(folder, progress=False, tokenizer=True)
    assert nbloader.load(folder, progress=False).tokenizer is None


def test_a_small_pickle_takes_little_memory(tmp_path: Path) -> None:
    """The memo of the unpickler in C grows to whatever index a few bytes name."""
    folder = archs.save_bin(archs.build("llama"), tmp_path / "bin")
    bomb = b"\x80\x02}r" + (2**27).to_bytes(4, "little") + b"."
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", bomb)
    before = sample_memory().process
    assert read_checkpoint(folder).tensors == {}
    assert sample_memory().process - before < 200e6


def test_a_file_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(shard(folder)))

    monkeypatch.setattr("nbloader._checkpoint.headers._safetensors_header", refuse)
    with pytest.raises(CheckpointError, match="Permission denied"):
        nbloader.load(folder, progress=False)


@pytest.mark.parametrize("device", ["cuda", "cuda:3", "mps"])
def test_a_device_that_is_not_there(device: str, folder: Path) -> None:
    import torch

    if (torch.cuda if device.startswith("cuda") else torch.backends.mps).is_available():
        pytest.skip("this machine has one")
    with pytest.raises(OptionError, match="cannot be used"):
        nbloader.load(folder, progress=False, device=device)


def test_a_mac_s_gpu_is_counted_where_torch_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "device_count", lambda: 1)
    check_device("mps")


def test_a_token_in_the_wrong_place_is_not_shown() -> None:
    with pytest.raises(OptionError) as info:
        nbloader.start("demo", {"token": "hf_secret"})  # type: ignore[arg-type]
    assert "hf_secret" not in str(info.value)


@pytest.mark.parametrize("size", [0, 3, 100, 5000])
def test_a_truncated_pickle(size: int, tmp_path: Path) -> None:
    folder = archs.save_bin(archs.build("llama"), tmp_path / "bin")
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError) as info:
        nbloader.load(folder, progress=False)
    assert info.value.hint


@pytest.mark.parametrize(
    ("model", "what"),
    [
        ("./nowhere", "There is no folder nowhere"),
        ("/nowhere/at/all", "There is no folder /nowhere/at/all"),
        ("a/b/c", "There is no folder a/b/c"),
        ("bad id!", "neither a folder nor the id"),
        ("a--b", "neither a folder nor the id"),
        ("", "is not the name or path of a model"),
        (None, "is not the name or path of a model"),
        (7, "is not the name or path of a model"),
        (Path("nowhere"), "There is no folder nowhere"),
        ("n" * 5000, "is not a valid path"),
        ("~nobody-of-that-name/model", "is not a valid path"),
        ("a\0b", "is not a valid path|neither"),
    ],
)
def test_no_such_model(model: object, what: str) -> None:
    job = nbloader.start(model)  # type: ignore[arg-type]
    with pytest.raises(SourceError, match=what):
        job.result(60)


def test_a_file_is_no_folder(folder: Path) -> None:
    with pytest.raises(SourceError, match="is a file"):
        nbloader.load(shard(folder), progress=False)


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(OptionError, match="Did you mean 'dtype'"):
        nbloader.start("demo", dtpye="bfloat16")


def test_an_unknown_class_names_the_nearest(folder: Path) -> None:
    with pytest.raises(OptionError, match="Did you mean 'AutoModelForCausalLM'"):
        nbloader.load(folder, progress=False, auto_class="AutoModelForCasualLM")


@pytest.mark.parametrize(
    "choices",
    [
        {"dtype": "bf17"}, {"dtype": 3}, {"device": "gpu"}, {"device": "cpu", "device_map": "auto"},
        {"device_map": "atuo"}, {"revision": 3}, {"token": 5}, {"subfolder": "../up"}, {"subfolder": "/abs"},
        {"auto_class": 4}, {"local_files_only": "yes"}, {"cache_dir": 5},
    ],
)  # fmt: skip
def test_a_value_that_an_option_cannot_take(choices: dict[str, object]) -> None:
    with pytest.raises(OptionError) as info:
        nbloader.start("demo", **choices)
    assert info.value.hint
    assert issubclass(OptionError, LoadError)
