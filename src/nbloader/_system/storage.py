"""The storage of a path: its kind, its limits, how much of it was read, and how fast it can be read."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from nbloader._system.control_groups import OWN, ROOT, control_groups
from nbloader._system.page_cache import kernel_readahead

_NETWORK = re.compile(
    r"^(nfs\d?|cifs|smb\d?|smbfs|afpfs|9p|ceph|lustre|beegfs|glusterfs|gpfs|webdav|davfs|afs|ncpfs|virtiofs)$"
)
_IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
_COLD_READS = 8 << 20  # bytes that a thread read from storage, or …
_COLD_FAULTS = 64  # … pages that it waited for; with less, its files were in memory


@dataclass(frozen=True)
class Storage:
    """The storage of a path.

    Parameters
    ----------
    path
        The path, with links resolved.
    mount
        The mount point of its file system.
    filesystem
        The type of the file system, as the system names it, such as ``"ext4"`` or ``"nfs4"``.
    device
        The device that is mounted there.
    kind
        ``"local"``, ``"network"``, ``"fuse"``, ``"memory"`` or ``"unknown"``. A FUSE file system runs in user space,
        and is usually a network file system.
    is_rotational
        Whether it is a rotating disk; None if the system does not say.
    read_ahead
        Bytes that the kernel reads ahead; 0 if it does not say.
    linked_from
        The folder that the path was given in, if it goes through a link; None if it does not.
    limit
        Bytes a second that this process's control group may read from it; None if no limit is known.
    free
        Bytes that are free there.
    """

    path: Path
    mount: str
    filesystem: str
    device: str
    kind: str
    is_rotational: bool | None
    read_ahead: int
    limit: int | None
    free: int
    linked_from: Path | None = None


class DiskCount(NamedTuple):
    """Bytes read since a fixed time: `disk` from one disk by all processes, `own` from all storage by this process."""

    disk: int
    own: int


class ThreadWork(NamedTuple):
    """The work of a thread since it began.

    `computed` is its CPU time in seconds, and `queued` the seconds that it waited for a free CPU. `read` counts bytes
    that it read from storage, and `faults` pages that it waited for.
    """

    computed: float
    queued: float
    read: int
    faults: int


def find_storage(path: Path) -> Storage:
    """Return the storage of a path.

    Raises
    ------
    OSError
        If there is no such path.
    """
    real = path.resolve(strict=True)
    found = max(_mounts(real), key=lambda mount: len(mount.mountpoint), default=None)
    filesystem = found.fstype if found is not None else ""
    return Storage(
        path=real,
        mount=found.mountpoint if found is not None else real.anchor,
        filesystem=filesystem,
        device=found.device if found is not None else "",
        kind=_kind_of(filesystem, found.opts if found is not None else ""),
        is_rotational=_is_rotational(real),
        read_ahead=kernel_readahead(real),
        limit=min(read_limits(os.stat(real).st_dev), default=None),
        free=psutil.disk_usage(str(real)).free,
        linked_from=path.parent if path.parent.resolve() != Path(os.path.abspath(path.parent)) else None,
    )


def _mounts(path: Path) -> Iterator[Any]:
    for mount in psutil.disk_partitions(all=True):
        if path.is_relative_to(mount.mountpoint):
            yield mount


def _kind_of(filesystem: str, options: str) -> str:
    if filesystem.startswith("fuse"):
        return "local" if filesystem == "fuseblk" else "fuse"
    if _NETWORK.match(filesystem) or "remote" in options.split(","):
        return "network"
    if filesystem in _IN_MEMORY:
        return "memory"
    return "local" if filesystem else "unknown"


def _disk(device: int) -> Path | None:
    """Return the sysfs folder of the disk that holds a partition, on Linux; None if there is none."""
    folder = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    for found in (folder, folder.resolve().parent):
        if (found / "queue").is_dir():
            return found.resolve()
    return None


def _is_rotational(path: Path) -> bool | None:
    if sys.platform == "linux":
        disk = _disk(os.stat(path).st_dev)
        with suppress(OSError):
            if disk is not None:
                return (disk / "queue/rotational").read_text().strip() == "1"
    return None


def read_limits(device: int, own: Path = OWN, root: Path = ROOT) -> Iterator[int]:
    """Yield the read limits of a device, in bytes a second, from the control groups of this process.

    Source: cgroup v2, https://docs.kernel.org/admin-guide/cgroup-v2.html (``io.max``), and v1,
    https://docs.kernel.org/admin-guide/cgroup-v1/blkio-controller.html.
    """
    disk = _disk(device) if sys.platform == "linux" else None
    if disk is None:
        return
    with suppress(OSError):
        number = (disk / "dev").read_text().strip()
        for group, is_second in control_groups("blkio", own, root):
            yield from _limits_in(group / ("io.max" if is_second else "blkio.throttle.read_bps_device"), number)


def _limits_in(path: Path, number: str) -> Iterator[int]:
    with suppress(OSError):
        for line in path.read_text().splitlines():
            named, *limits = line.split()
            if named == number:
                told = [
                    limit.removeprefix("rbps=") for limit in limits if limit.startswith("rbps=") or "=" not in limit
                ]
                yield from (int(limit) for limit in told if limit.isdigit())


def count_reads(path: Path) -> DiskCount | None:
    """Return the bytes read so far from the disk of `path`, and by this process; None if the system does not say."""
    with suppress(OSError, AttributeError, KeyError):
        disk = _disk(os.stat(path).st_dev) if sys.platform == "linux" else None
        if disk is not None:
            counters = psutil.disk_io_counters(perdisk=True, nowrap=False)
            return DiskCount(counters[disk.name].read_bytes, psutil.Process().io_counters().read_bytes)
    return None


def thread_work() -> ThreadWork | None:
    """Return the work of the calling thread so far; None if the system does not say.

    Source: https://docs.kernel.org/scheduler/sched-stats.html and https://docs.kernel.org/filesystems/proc.html.
    """
    with suppress(OSError, ValueError, IndexError):
        own = Path("/proc/thread-self")
        computed, queued, _ = (own / "schedstat").read_text().split()
        faults = (own / "stat").read_text().rpartition(")")[2].split()[9]
        counts = dict(line.split(": ") for line in (own / "io").read_text().splitlines())
        return ThreadWork(int(computed) / 1e9, int(queued) / 1e9, int(counts["read_bytes"]), int(faults))
    return None


def waited_for_files(before: ThreadWork | None, after: ThreadWork | None, seconds: float) -> float | None:
    """Return how many seconds a thread waited for files that were not in memory, between two measurements.

    None if not known. The wait is the time in which the thread neither computed nor waited for a CPU. It is 0 if the
    thread read almost nothing from storage: then it waited for something else.
    """
    if before is None or after is None:
        return None
    if after.read - before.read < _COLD_READS and after.faults - before.faults < _COLD_FAULTS:
        return 0.0
    return max(0.0, seconds - (after.computed - before.computed) - (after.queued - before.queued))
