"""The control groups of this process, with which a container or a scheduler limits it (Linux)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

OWN = Path("/proc/self/cgroup")
ROOT = Path("/sys/fs/cgroup")


def control_groups(controller: str, own: Path = OWN, root: Path = ROOT) -> Iterator[tuple[Path, bool]]:
    """Yield the folder of each control group of this process, the innermost first, and whether it is of version 2.

    For version 1, only the groups of one controller, such as ``"memory"``.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html and https://docs.kernel.org/admin-guide/cgroup-v1/.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return  # not Linux
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", controller):
            continue
        top = root if controllers == "" else root / controller
        folder = top / path.lstrip("/")
        for group in (folder, *folder.parents):
            if not group.is_relative_to(top):
                break
            yield group, controllers == ""
