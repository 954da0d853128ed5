"""Headers that a stranger wrote: read or refused, without running anything, within 100 MB of memory."""

from __future__ import annotations

import io
import json
import ntpath
import os
import pickle
import pickletools
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbloader import CheckpointError
from nbloader._checkpoint.checkpoint import Checkpoint, read_checkpoint
from nbloader._safety import untrusted
from nbloader._safety.untrusted import MOST_MEMORY, is_inside

START = b"\x80\x04"


def checkpoint(folder: Path) -> Path:
    (folder / "config.json").write_text("{}")
    return folder


def with_header(folder: Path, text: bytes, rest: bytes = b"") -> Path:
    (checkpoint(folder) / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + rest)
    return folder


def with_pickle(folder: Path, pickled: bytes, storages: int = 0) -> Path:
    with zipfile.ZipFile(checkpoint(folder) / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for number in range(storages):
            archive.writestr(f"archive/data/{number}", b"")
    return folder


def peak_of(read: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        read()
    except CheckpointError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


def read_or_refused(folder: Path, refused: bool, name: str = "") -> None:
    """Read a checkpoint; one that takes too much memory has to be refused, by an error that has `name` in it."""
    if not refused:
        read_checkpoint(folder)
        return
    with pytest.raises(CheckpointError, match="more than 100 MB") as info:
        read_checkpoint(folder)
    assert name in str(info.value)


def listed(item: bytes) -> Callable[[int], bytes]:
    return lambda count: b"[" + item * count + b"0]"


HEADERS: dict[str, Callable[[int], bytes]] = {
    "lists": listed(b"[],"),
    "dicts": listed(b"{},"),
    "filled": listed(b'{"a":0},'),
    "deep": listed(b"[" * 90 + b"]" * 90 + b","),
    "texts": listed(b'"ab",'),
    "wide": lambda count: '["\N{GRINNING FACE}'.encode() + b"a" * (10 * count) + b'"]',
    "one": lambda count: b'["' + b"a" * (20 * count) + b'"]',
    "keys": lambda count: json.dumps(dict.fromkeys(map(str, range(count)), 0)).encode(),
    "numbers": lambda count: json.dumps([{str(number): 0} for number in range(count // 2)]).encode(),
}


def is_too_large(text: bytes) -> bool:
    try:
        untrusted.parse_json(io.BytesIO(text), len(text))
    except untrusted.TooLargeError:
        return True
    return False


def at_the_limit(kind: str) -> bytes:
    """Return the longest header of a kind, about, that is not refused for the memory that it could take."""
    least, most = 0, 1_000
    while not is_too_large(HEADERS[kind](most)):
        least, most = most, 2 * most
    while most - least > 500:
        count = (least + most) // 2
        if is_too_large(HEADERS[kind](count)):
            most = count
        else:
            least = count
    return HEADERS[kind](least)


@pytest.fixture
def a_tenth(monkeypatch: pytest.MonkeyPatch) -> float:
    """Let headers take a tenth of what they may; returns that, and what reading takes besides."""
    for name in ("MOST_MEMORY", "_FOR_PICKLE"):
        monkeypatch.setattr(untrusted, name, getattr(untrusted, name) // 10)
    return MOST_MEMORY / 10 + 500_000


@pytest.mark.parametrize("kind", HEADERS)
def test_no_header_takes_more_than_it_may(kind: str, tmp_path: Path, a_tenth: float) -> None:
    folder = with_header(tmp_path, at_the_limit(kind))
    assert MOST_MEMORY / 50 < peak_of(lambda: read_checkpoint(folder)) < a_tenth


@pytest.mark.parametrize("kind", ["filled", "numbers"])
def test_no_header_takes_more_than_100_mb(kind: str, tmp_path: Path) -> None:
    folder = with_header(tmp_path, at_the_limit(kind))
    assert MOST_MEMORY / 3 < peak_of(lambda: read_checkpoint(folder)) < MOST_MEMORY


PICKLES: dict[str, tuple[bytes, bytes]] = {
    "lists": (b"", b"]"),
    "dicts": (b"", b"}"),
    "sets": (b"", b"\x8f"),
    "frozen sets": (b"", b"(\x91"),
    "marks": (b"", b"("),
    "memo": (b"]", b"\x94"),
    "floats": (b"", b"G" + b"\0" * 8),
    "texts": (b"", b"\x8c\x02ab"),
    "wide texts": (b"X" + (4).to_bytes(4, "little") + "\N{GRINNING FACE}".encode(), b"\x8c\x02ab"),
    "byte arrays": (b"", b"\x96" + bytes(8)),
    "nested": (b"N", b"\x85"),
    "stubs": (b"ctorch._utils\n_rebuild_tensor_v2\n\x94", b"h\0)R"),
    "inert": (b"cos\nsystem\n\x94", b"h\0)R"),
    "ordered": (b"ccollections\nOrderedDict\n\x94", b"h\0)R"),
    "storages": (b"", b"(X\x07\0\0\0storageX\x05\0\0\0FloatX\x01\0\0\x000tQ"),
}


def program(kind: str, most: int) -> bytes:
    """Return a pickle that takes nearly as many operations as are read, where memory for `most` bytes is left."""
    first, item = PICKLES[kind]
    operations = sum(1 for _ in pickletools.genops(item + b"."))
    count = (most - 10_000) // (75 * operations + 5 * len(item))
    return START + first + item * count + b"."


@pytest.mark.parametrize("kind", PICKLES)
def test_no_pickle_takes_more_than_it_may(kind: str, tmp_path: Path, a_tenth: float) -> None:
    folder = with_pickle(tmp_path, program(kind, untrusted._FOR_PICKLE))
    assert peak_of(lambda: read_checkpoint(folder)) < a_tenth


@pytest.mark.parametrize("kind", PICKLES)
def test_a_longer_one_is_refused(kind: str, tmp_path: Path, a_tenth: float) -> None:
    folder = with_pickle(tmp_path, program(kind, 2 * untrusted._FOR_PICKLE))
    with pytest.raises(CheckpointError, match=r"more than 100 MB|no such operation"):
        read_checkpoint(folder)


def test_no_pickle_takes_more_than_100_mb(tmp_path: Path) -> None:
    folder = with_pickle(tmp_path, program("dicts", untrusted._FOR_PICKLE))
    assert MOST_MEMORY / 3 < peak_of(lambda: read_checkpoint(folder)) < MOST_MEMORY


@pytest.mark.parametrize("storages", [30_000, 60_000])
def test_no_directory_of_a_zip_takes_more_than_100_mb(storages: int, tmp_path: Path) -> None:
    folder = with_pickle(tmp_path, START + b"}.", storages)
    assert peak_of(lambda: read_or_refused(folder, storages > 50_000)) < MOST_MEMORY


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_no_json_file_takes_more_than_100_mb(name: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path)
    (folder / name).write_bytes(listed(b"{},")(2_000_000))
    assert peak_of(lambda: read_or_refused(folder, True, name)) < MOST_MEMORY


def test_a_length_that_is_told_takes_nothing(tmp_path: Path) -> None:
    """Neither a header's nor a byte array's own account of its length is believed."""
    with open(with_header(tmp_path, b"{}") / "model.safetensors", "r+b") as file:
        file.write((10**10).to_bytes(8, "little"))
        file.truncate(2 * 10**10)  # a hole, which takes no room on disk
    assert peak_of(lambda: read_checkpoint(tmp_path)) < 1_000_000
    (tmp_path / "model.safetensors").unlink()
    folder = with_pickle(tmp_path, START + b"\x96" + (10**10).to_bytes(8, "little") + b".")
    assert peak_of(lambda: read_checkpoint(folder)) < 1_000_000


def test_what_is_nested_deeply_is_never_hashed(tmp_path: Path) -> None:
    """Python's hash of a tuple in tuples in tuples overflows the stack of the process."""
    deep = b"N" + b"\x85" * 500_000
    for pickled in (b"}" + deep + b"Ns.", b"}(" + deep + b"Nu.", b"(" + deep + b"Nd.", b"\x8f(" + deep + b"\x90."):
        with suppress(CheckpointError):  # a set is no state dict
            assert read_checkpoint(with_pickle(tmp_path, START + pickled)).tensors == {}
    with pytest.raises(CheckpointError):
        read_checkpoint(with_pickle(tmp_path, START + b"(" + deep + b"\x91" + b"0" * 9))


def test_as_many_tensors_as_a_file_may_have_are_read(tmp_path: Path) -> None:
    shape = {"dtype": "BF16", "shape": [1, 1]}
    names = [f"model.layers.{number}.mlp.experts.100.down_proj.weight" for number in range(60_000)]
    header = {name: {**shape, "data_offsets": [2 * at, 2 * at + 2]} for at, name in enumerate(names)}
    folder = with_header(tmp_path, json.dumps(header).encode(), bytes(2 * len(names)))
    read: list[Checkpoint] = []
    assert peak_of(lambda: read.append(read_checkpoint(folder))) < MOST_MEMORY
    assert len(read[0].tensors) == len(names)


def test_a_zip_that_spans_disks_is_refused(tmp_path: Path) -> None:
    folder = with_pickle(tmp_path, START + b"}.")
    path = folder / "pytorch_model.bin"
    whole = path.read_bytes()
    end = whole.rindex(b"PK\5\6")
    locator = b"PK\6\7" + bytes(12) + (2).to_bytes(4, "little")
    path.write_bytes(whole[:end] + bytes(56) + locator + whole[end:])
    with pytest.raises(CheckpointError, match="multiple disks"):
        read_checkpoint(folder)


OPCODES = st.sampled_from([*(bytes([code]) for code in range(256)), b"ctorch._utils\n_rebuild_tensor_v2\n"])
PROGRAM = st.lists(st.binary(max_size=6) | OPCODES, max_size=60).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(said=PROGRAM)
def test_any_pickle_is_read_or_refused(said: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = with_pickle(tmp_path_factory.mktemp("any"), START + said)
    try:
        read_checkpoint(folder)
    except CheckpointError:
        return


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_zip_is_read_or_refused(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = with_pickle(tmp_path_factory.mktemp("any"), pickle.dumps({"a": 1}), 2)
    whole = bytearray((folder / "pytorch_model.bin").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    (folder / "pytorch_model.bin").write_bytes(whole)
    try:
        read_checkpoint(folder)
    except CheckpointError:
        return


@given(st.lists(st.sampled_from(["..", ".", "", "/", "\\", "C:", "c", "model.bin", "\0", "a:b", "~"]), max_size=6))
def test_names_that_are_taken_stay_in_the_folder_on_every_system(parts: list[str]) -> None:
    name = "".join(parts)
    if is_inside(name):
        for path in (os.path, ntpath):
            there = path.normpath(path.join("folder", name))
            assert there.replace("\\", "/").startswith("folder/")
        assert "\0" not in name


@pytest.mark.parametrize("name", ["model.bin", "w/model.bin", "./model.bin", "a..b/~", ".hidden", "w/..bin"])
def test_names_of_files_are_taken(name: str) -> None:
    assert is_inside(name)


@pytest.mark.parametrize(
    "name", [None, 1, b"model.bin", ["model.bin"], "n" * 1001, "", ".", "w/", "/etc/passwd", "w//m"]
)
def test_what_names_no_file_is_not_taken(name: object) -> None:
    assert not is_inside(name)
