"""What storage is, what limits it, and how fast it can be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.page_cache import make_cold
from support.slow_storage import SlowStorage

from nbloader._system import storage
from nbloader._system.page_cache import find_missing
from nbloader._system.probe import find_places, probe
from nbloader._system.storage import ThreadWork, read_limits, thread_work, waited_for_files

MB = 10**6


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """A disk that the system numbers 254:0."""
    folder = tmp_path / "disk"
    (folder / "queue").mkdir(parents=True)
    (folder / "dev").write_text("254:0\n")
    monkeypatch.setattr(storage, "_disk", lambda device: folder)
    return os.makedev(254, 0)


def limits(tmp_path: Path, disk: int, own: str, **files: str) -> list[int]:
    root = tmp_path / "cgroup"
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "own").write_text(own)
    return list(read_limits(disk, tmp_path / "own", root))


def test_limits_of_control_groups_are_found_at_every_level(tmp_path: Path, disk: int) -> None:
    told = limits(
        tmp_path, disk, "0::/outer/inner\n",
        outer__inner__io_dot_max="8:0 rbps=1 wbps=max\n254:0 rbps=50000000 wbps=1000 riops=max wiops=max\n",
        outer__io_dot_max="254:0 rbps=20000000 wbps=max riops=max wiops=max\n",
    )  # fmt: skip
    assert told == [50 * MB, 20 * MB]


def test_limits_of_the_first_version_are_found(tmp_path: Path, disk: int) -> None:
    name = "blkio__group__blkio_dot_throttle_dot_read_bps_device"
    assert limits(tmp_path, disk, "7:blkio:/group\n4:memory:/\n", **{name: "254:0 30000000\n"}) == [30 * MB]


def test_without_a_limit_there_is_none(tmp_path: Path, disk: int) -> None:
    assert limits(tmp_path, disk, "0::/group\n", group__io_dot_max="254:0 rbps=max wbps=1\n") == []
    assert limits(tmp_path, disk, "0::/elsewhere\n") == []


@pytest.mark.parametrize(
    ("filesystem", "options", "kind"),
    [
        ("ext4", "rw", "local"),
        ("apfs", "rw", "local"),
        ("nfs4", "rw", "network"),
        ("cifs", "rw", "network"),
        ("NTFS", "rw,remote", "network"),
        ("fuse.sshfs", "rw", "fuse"),
        ("fuseblk", "rw", "local"),
        ("tmpfs", "rw", "memory"),
        ("", "", "unknown"),
    ],
)
def test_the_kind_of_storage_is_told_by_its_file_system(filesystem: str, options: str, kind: str) -> None:
    assert storage._kind_of(filesystem, options) == kind


def test_waiting_for_files_is_what_was_neither_computed_nor_queued() -> None:
    before = ThreadWork(computed=1.0, queued=0.5, read=0, faults=0)
    cold = ThreadWork(computed=3.0, queued=1.0, read=100 * MB, faults=0)
    assert waited_for_files(before, cold, 10.0) == pytest.approx(7.5)
    assert waited_for_files(before, cold._replace(read=0, faults=1000), 10.0) == pytest.approx(7.5)
    assert waited_for_files(before, cold._replace(read=0), 10.0) == 0.0  # it waited for something else
    assert waited_for_files(before, cold, 1.0) == 0.0
    assert waited_for_files(None, cold, 10.0) is None


def test_a_thread_s_work_is_told() -> None:
    before = thread_work()
    assert before is not None
    while True:
        after = thread_work()
        assert after is not None
        if after.computed > before.computed + 0.01:
            break
    assert after.queued >= before.queued


def test_a_probe_tells_the_rate_and_leaves_nothing_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights"
    file.write_bytes(os.urandom(24 * MB))
    make_cold(tmp_path)
    SlowStorage(monkeypatch, tmp_path, rate=40 * MB)
    told = probe([file])
    assert told is not None
    assert told.rate == pytest.approx(40 * MB, rel=0.25)
    assert told.bytes <= 24 * MB
    assert sum(piece.absent for piece in find_missing(file)) > 0.9 * file.stat().st_size


def test_a_probe_keeps_to_its_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(64 * MB))
    SlowStorage(monkeypatch, tmp_path, rate=20 * MB)
    told = probe([file], seconds=0.3)
    assert told is not None
    assert told.bytes < 64 * MB // 3
    bounded = probe([file], most=30 * MB)
    assert bounded is not None
    assert bounded.bytes <= 11 * MB


def test_too_little_tells_no_rate(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(bytes(MB))
    assert probe([tmp_path / "small"]) is None
    assert probe([]) is None


def test_no_other_place_is_on_the_same_disk(tmp_path: Path) -> None:
    own = tmp_path.stat().st_dev
    assert all(folder.stat().st_dev != own for folder, _ in find_places(tmp_path, 1))
