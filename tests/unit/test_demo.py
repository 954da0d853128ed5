from __future__ import annotations

from pathlib import Path

import pytest

from nbloader import LoadCancelled, OptionError, demo_checkpoint


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


@pytest.mark.parametrize(("wanted", "shards"), [("1MB", 1), ("5MB", 3), ("20MB", 7), (3_000_000, 2)])
def test_the_size_and_the_shards_are_as_asked(wanted: str | int, shards: int, tmp_path: Path) -> None:
    folder = demo_checkpoint(wanted, shards, cache_dir=tmp_path)
    total = wanted if isinstance(wanted, int) else int(wanted.removesuffix("MB")) * 10**6
    assert size(folder) == pytest.approx(total, rel=0.1)
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    assert len(sizes) == shards
    assert max(sizes) < 2 * min(sizes)


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for seed, where in ((0, "a"), (0, "b"), (1, "c")):
        folder = demo_checkpoint("1MB", 2, seed=seed, cache_dir=tmp_path / where)
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_it_is_written_once(tmp_path: Path) -> None:
    folder = demo_checkpoint("1MB", 2, cache_dir=tmp_path)
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert demo_checkpoint("1MB", 2, cache_dir=tmp_path) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times


def test_writing_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 5:
            raise LoadCancelled("enough")

    with pytest.raises(LoadCancelled):
        demo_checkpoint("5MB", 2, cache_dir=tmp_path, check_cancelled=check)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", ["", "12", "1TB", "-1GB", 5, 1.5e9, "10KB", None])
def test_a_size_that_cannot_be_made(size: object) -> None:
    with pytest.raises(OptionError, match="size"):
        demo_checkpoint(size)  # type: ignore[arg-type]


@pytest.mark.parametrize("shards", [0, -1, 10_000, "4"])
def test_a_number_of_shards_that_cannot_be_made(shards: object, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="shards"):
        demo_checkpoint("1MB", shards, cache_dir=tmp_path)  # type: ignore[arg-type]
