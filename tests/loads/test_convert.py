"""A checkpoint's pickles become safetensors, once, and whatever happens nothing is lost."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.hub import Hub, Repo
from support.pickles import as_pickle, tensors_of

import nbloader
from nbloader import CheckpointError, LoadOptions, OptionError, _convert
from nbloader._convert import convert
from nbloader._system import own_files

ROUNDS = int(os.environ.get("NBLOADER_TEST_ROUNDS", 40)) // 10


@pytest.fixture
def pickled(demo_small: Path, tmp_path: Path) -> Path:
    """The small demo checkpoint as one pickle."""
    return as_pickle(demo_small, tmp_path / "pickled")


def test_what_is_written_is_what_was_read(pickled: Path, demo_small: Path) -> None:
    os.chmod(pickled / "pytorch_model.bin", 0o640)
    made = convert(pickled, LoadOptions())
    wanted = tensors_of(demo_small)
    assert [file.name for file in made.files] == ["model.safetensors"]
    assert made.tensors == len(wanted)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in tensors_of(pickled).items())
    assert (pickled / "model.safetensors").stat().st_mode & 0o777 == 0o640
    assert (pickled / "pytorch_model.bin").is_file()
    assert not list(pickled.glob(".nbloader-*"))


def test_later_loads_take_it(pickled: Path) -> None:
    before = nbloader.start(pickled)
    before.result()
    convert(pickled, LoadOptions())
    after = nbloader.start(pickled)
    after.result()
    assert (before.state.format, after.state.format) == ("bin", "safetensors")


def test_shards_are_read_and_written(pickled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    whole = torch.load(pickled / "pytorch_model.bin")
    names = list(whole)
    halves = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    (pickled / "pytorch_model.bin").unlink()
    for file, held in halves.items():
        torch.save({name: whole[name] for name in held}, pickled / file)
    weight_map = {name: file for file, held in halves.items() for name in held}
    (pickled / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    from huggingface_hub import save_torch_state_dict

    monkeypatch.setattr(
        "huggingface_hub.save_torch_state_dict",
        lambda *args, **kwargs: save_torch_state_dict(*args, max_shard_size="5MB", **kwargs),
    )
    made = convert(pickled, LoadOptions())
    assert len(made.files) > 3
    assert made.files[-1].name == "model.safetensors.index.json"
    assert all(torch.equal(tensor, whole[name]) for name, tensor in tensors_of(pickled).items())
    assert nbloader.load(pickled, progress=False).model is not None


def test_names_that_share_their_memory_each_keep_what_they_had(pickled: Path) -> None:
    whole = torch.load(pickled / "pytorch_model.bin")
    whole["lm_head.weight"] = whole["model.embed_tokens.weight"]
    whole["model.norm.weight"] = torch.arange(64.0).reshape(2, 32)[:, ::2].t()
    torch.save(whole, pickled / "pytorch_model.bin")
    convert(pickled, LoadOptions())
    written = tensors_of(pickled)
    assert all(torch.equal(written[name], tensor) for name, tensor in whole.items())


def test_a_pickle_that_would_run_code_is_refused(pickled: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (os.system, ("touch /tmp/nbloader-evil",))

    torch.save({"weight": torch.ones(2), "evil": Evil()}, pickled / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"GLOBAL posix\.system"):
        convert(pickled, LoadOptions())
    assert not Path("/tmp/nbloader-evil").exists()
    assert sorted(path.name for path in pickled.iterdir() if "safetensors" in path.name or path.is_dir()) == []


def test_what_is_no_tensor_is_refused(pickled: Path) -> None:
    torch.save({"weight": torch.ones(2), "epoch": 3}, pickled / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="'epoch' is a int"):
        convert(pickled, LoadOptions())


@pytest.mark.parametrize("content", [[torch.ones(2)], torch.ones(2), {0: torch.ones(2)}])
@pytest.mark.parametrize("is_zip", [True, False])
def test_tensors_without_names_are_refused(pickled: Path, content: Any, is_zip: bool) -> None:
    torch.save(content, pickled / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(CheckpointError, match=f"contains a {type(content).__name__}"):
        convert(pickled, LoadOptions())


def test_what_was_written_wrongly_does_not_stay(pickled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = _convert.save_tensors

    def save_wrongly(tensors: dict[str, torch.Tensor], folder: Path) -> None:
        name = next(iter(tensors))
        save({**tensors, name: tensors[name] + 1}, folder)

    monkeypatch.setattr(_convert, "save_tensors", save_wrongly)
    with pytest.raises(CheckpointError, match="differs from the original"):
        convert(pickled, LoadOptions())
    assert [path.name for path in pickled.iterdir() if "safetensors" in path.name or path.is_dir()] == []


def draft_of(process: int, folder: Path, began: float = 0.0, machine: str = "") -> Path:
    """Make what a conversion by this process has written so far."""
    draft = folder / f".nbloader-convert-{process}-{began:.2f}-{machine or own_files.machine()}-0123abcd"
    draft.mkdir()
    (draft / "model.safetensors").write_bytes(b"half")
    return draft


def test_a_conversion_that_was_killed_leaves_nothing_to_the_next(pickled: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = draft_of(ended.pid, pickled)
    assert nbloader.load(pickled, progress=False).model is not None
    convert(pickled, LoadOptions())
    assert not left.exists()
    left = draft_of(ended.pid, pickled)
    with pytest.raises(CheckpointError, match="has safetensors already"):
        convert(pickled, LoadOptions())
    assert not left.exists()


def test_two_at_once_leave_each_other_alone(pickled: Path, demo_small: Path) -> None:
    alive = os.getppid()
    # The other one runs in another container, where the number is somebody else's.
    others = draft_of(alive, pickled, own_files._began(alive) or 0.0), draft_of(2**22, pickled, 0.0, "elsewhere")
    convert(pickled, LoadOptions())
    assert all(other.is_dir() for other in others)
    assert tensors_of(pickled).keys() == tensors_of(demo_small).keys()


def test_slices_of_a_tensor_are_written_by_themselves(pickled: Path) -> None:
    whole = torch.load(pickled / "pytorch_model.bin")
    joined = torch.arange(30.0)
    whole |= {"q": joined[:10], "k": joined[10:20], "v": joined[20:]}
    for is_zip in (True, False):
        torch.save(whole, pickled / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
        made = convert(pickled, LoadOptions())
        assert torch.equal(tensors_of(pickled)["k"], joined[10:20])
        for file in made.files:
            file.unlink()


@pytest.mark.parametrize("is_zip", [True, False])
def test_what_safetensors_cannot_hold_is_refused(pickled: Path, is_zip: bool) -> None:
    held = {"weight": torch.ones(2).to_sparse()}
    torch.save(held, pickled / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(CheckpointError, match="could not be converted: NotImplementedError"):
        convert(pickled, LoadOptions())
    assert [path.name for path in pickled.iterdir() if "safetensors" in path.name or path.is_dir()] == []


def test_pickles_without_tensors_are_refused(pickled: Path) -> None:
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="contain no tensors"):
        convert(pickled, LoadOptions())


def test_there_is_nothing_to_convert(demo_small: Path) -> None:
    with pytest.raises(CheckpointError, match="has safetensors already"):
        convert(demo_small, LoadOptions())


def test_a_variant_is_refused(pickled: Path) -> None:
    with pytest.raises(OptionError, match="variant='fp16'"):
        convert(pickled, LoadOptions(variant="fp16"))


def test_a_full_disk_is_told_before_anything_is_written(pickled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = torch.load(pickled / "pytorch_model.bin")
    size = sum(tensor.nbytes for tensor in whole.values())
    # What shares its memory in the pickle takes it twice in safetensors.
    torch.save({**whole, **{f"{name}.tied": tensor for name, tensor in whole.items()}}, pickled / "pytorch_model.bin")
    usage = shutil.disk_usage(pickled)._replace(free=int(1.5 * size))
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match=r"has .* free"):
        convert(pickled, LoadOptions())


def test_a_repository_is_converted_in_the_cache(hub: Hub, pickled: Path) -> None:
    hub.repos["test/pickled"] = Repo.of_folder(pickled)
    made = convert("test/pickled", LoadOptions())
    assert "snapshots" in made.files[0].parts
    online = nbloader.start("test/pickled")
    online.result()
    assert (online.state.format, online.state.bytes_to_download) == ("safetensors", 0)
    offline = nbloader.start("test/pickled", local_files_only=True, reload=True)
    offline.result()
    assert offline.state.format == "safetensors"


def test_the_hub_s_own_safetensors_come_before_what_was_made(hub: Hub, pickled: Path, demo_small: Path) -> None:
    hub.repos["test/late"] = Repo.of_folder(pickled)
    convert("test/late", LoadOptions())
    hub.repos["test/late"].move(Repo.of_folder(demo_small).files)
    job = nbloader.start("test/late")
    job.result()
    assert len(job.state.shards) == 4


KILLED = """
import sys
import nbloader
from nbloader import LoadOptions
from nbloader._convert import convert
print("begins", flush=True)
nbloader.load("us/pickled", cache_dir=sys.argv[1], progress=False)
convert("us/pickled", LoadOptions(cache_dir=sys.argv[1]))
nbloader.load("us/pickled", cache_dir=sys.argv[1], progress=False, reload=True)
"""


def test_two_processes_that_are_killed_at_any_moment_leave_nothing_wrong(
    pickled: Path, demo_small: Path, hub: Hub, tmp_path: Path
) -> None:
    hub.repos["us/pickled"] = Repo.of_folder(pickled)
    cache, wanted = tmp_path / "cache", tensors_of(demo_small)
    chance = random.Random(7)
    for round_ in range(ROUNDS):
        if round_ % 3 == 0:
            shutil.rmtree(cache, ignore_errors=True)
        arguments = [sys.executable, "-c", KILLED, str(cache)]
        both = [subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) for _ in range(2)]
        for process in both:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begins\n"
        with suppress(subprocess.TimeoutExpired):
            both[0].wait(chance.uniform(0.0, 6.0))
        for process in both:
            process.kill()
            process.wait()
        whole = [path for path in cache.rglob("*.safetensors") if not path.parent.name.startswith(".")]
        assert all(torch.equal(value, wanted[name]) for path in whole for name, value in load_file(path).items())
        model = nbloader.load("us/pickled", cache_dir=str(cache), progress=False, reload=True).model
        held = model.state_dict()
        assert all(torch.equal(held[name], value) for name, value in wanted.items())
    with suppress(CheckpointError):  # where it has been converted
        convert("us/pickled", LoadOptions(cache_dir=str(cache)))
    assert not list(cache.rglob(".nbloader-convert-*"))
    assert not list(cache.rglob("*.incomplete"))
