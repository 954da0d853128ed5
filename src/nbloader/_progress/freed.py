"""What unloading a model freed, and which references keep the model alive."""

from __future__ import annotations

from typing import NamedTuple

from nbloader._system.memory import Memory
from nbloader._text.catalogue import text
from nbloader._text.units import sentences, size_text


class Holder(NamedTuple):
    """A reference to a model: a name such as ``model`` or ``Out[3]``, and the kind of place that holds it.

    `kind` is ``"name"`` (a global of the notebook or script), ``"output"`` (a cell output that the notebook keeps),
    ``"error"`` (the last traceback), ``"function"`` (a local of a running function) or ``"unknown"``.
    """

    name: str
    kind: str

    def __str__(self) -> str:
        return text("holder", self.kind, name=self.name)


class Freed(NamedTuple):
    """What unloading freed: memory before and after, the remaining references, and the model that needed the room.

    ::

        freed = nbloader.unload()
        print(freed.host, "bytes;", freed)
    """

    before: Memory
    after: Memory
    holders: tuple[Holder, ...] = ()
    successor: str = ""

    @property
    def host(self) -> int:
        """Bytes of host memory that this process has freed, including mapped weights."""
        return max(0, self.before.process - self.after.process)

    @property
    def devices(self) -> dict[str, int]:
        """Bytes that were freed on each accelerator that this process uses."""
        used = {device.name: device.used for device in self.after.accelerators}
        return {device.name: max(0, device.used - used.get(device.name, 0)) for device in self.before.accelerators}

    def __str__(self) -> str:
        places = {text("detail", "host"): self.host, **self.devices}
        given = [text("detail", "of_memory", size=size_text(size), name=name) for name, size in places.items()]
        return sentences(text("detail", "given_back", sizes=", ".join(given)), *map(str, self.holders))
