from __future__ import annotations

from pathlib import Path

from nbloader._system.memory import cgroup_limits, sample_memory

HOST = 10**6


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_the_limits_of_a_group_and_of_those_above_it_count(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("0::/a/b\n")
    root = tmp_path / "root"
    write(root / "a", memory__max=1000, memory__current=900, memory__stat="anon 800\ninactive_file 60\nactive_file 40")
    write(root / "a/b", memory__max="max", memory__current=500, memory__stat="anon 500")
    assert list(cgroup_limits(HOST, tmp_path / "own", root)) == [(1000, 200)]


def test_the_first_version_of_groups_counts_too(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("5:cpu,cpuacct:/x\n4:memory:/docker/x\n")
    group = tmp_path / "root/memory/docker/x"
    write(group, memory__limit_in_bytes=1000, memory__usage_in_bytes=400, memory__stat="inactive_file 100")
    assert list(cgroup_limits(HOST, tmp_path / "own", tmp_path / "root")) == [(1000, 700)]


def test_a_limit_above_the_hosts_memory_is_none(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("0::/a\n")
    write(tmp_path / "root/a", memory__max=HOST, memory__current=1, memory__stat="anon 1")
    assert list(cgroup_limits(HOST, tmp_path / "own", tmp_path / "root")) == []


def test_without_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert list(cgroup_limits(HOST, tmp_path / "nowhere", tmp_path)) == []


def test_what_is_available_is_no_more_than_there_is() -> None:
    memory = sample_memory()
    assert 0 < memory.available <= memory.total
    assert 0 < memory.process < memory.total
