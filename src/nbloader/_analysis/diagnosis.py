"""The diagnosis of a load: where its time went, and what would make it faster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from nbloader._system.probe import LEAST_BYTES, Probe
from nbloader._system.storage import Storage
from nbloader._text.catalogue import text
from nbloader._text.units import columns, seconds_text, sentences, size_text, span_text, types_text

_MOSTLY = 0.5  # share of the time that is most of it
AT_LIMIT = 0.8  # share of what storage delivers; above it, only faster storage helps


@dataclass(frozen=True)
class Remedy:
    """A change that would make a load faster.

    Parameters
    ----------
    code
        The kind of remedy: a key of the locale files' ``remedy``.
    seconds
        The seconds that it saves, estimated from the figures in `arguments`.
    arguments
        The values that fill its text.
    lines
        The code to run, ready to copy.
    """

    code: str
    seconds: float
    arguments: Mapping[str, str] = field(default_factory=dict)
    lines: str = ""

    def __str__(self) -> str:
        return text("remedy", self.code, saved=seconds_text(self.seconds), **self.arguments)


@dataclass(frozen=True)
class Diagnosis:
    """Where the time of a load went, what was read, and what would make the load faster.

    Sizes are in bytes, times in seconds, rates in bytes a second. A value that was not measured is None.

    Parameters
    ----------
    name
        The name of what is loaded.
    seconds
        How long the load took; None before a load.
    parts
        The seconds by cause (`nbloader._progress.events.PARTS`); they add up to `seconds`.
    format
        ``"safetensors"`` or ``"bin"``.
    files
        The number of weight files.
    bytes
        Their size.
    resident
        How many of these bytes were in memory when the load began.
    dtypes
        The size of the tensors in the files, by type.
    dtype
        The types of the weights in memory; empty if they are the same as in the files.
    storage
        The storage that the files are on; None if that cannot be found out.
    rate
        The rate at which the files were read.
    probe
        The rate that a short probe measured.
    others
        The bytes that other processes read from the same disk during the load.
    available
        The memory that was free when the load began.
    remedies
        What would make the load faster, the largest saving first.
    memory_limit
        The memory that a control group (a container) allows this process; None if it may use all of the host's.
    memory_pressure
        The share of the last minute in which processes of this host waited for memory.
    to_download
        The bytes that are not on this machine yet; only before a load.
    expected
        The least and the most seconds that the load should take, judging by earlier ones; only before a load.
    """

    name: str
    seconds: float | None
    parts: Mapping[str, float]
    format: str
    files: tuple[str, ...]
    bytes: int
    resident: int
    dtypes: Mapping[str, int]
    dtype: str
    storage: Storage | None
    rate: float | None = None
    probe: Probe | None = None
    others: int | None = None
    available: int | None = None
    remedies: tuple[Remedy, ...] = ()
    expected: tuple[float, float] | None = None
    to_download: int = 0
    memory_limit: int | None = None
    memory_pressure: float | None = None

    @property
    def verdict(self) -> str:
        """The first remedy or, if there is none, a sentence that says so."""
        if self.remedies:
            return str(self.remedies[0])
        if self.seconds is None:
            return self._expectation()
        if self.rate is not None and self.probe is not None and self.rate >= AT_LIMIT * self.probe.rate:
            return text("diagnosis", "at_limit", share=f"{100 * min(1, self.rate / self.probe.rate):.0f}")
        most = max(self.parts, key=lambda part: self.parts[part])
        share = f"{100 * self.parts[most] / self.seconds:.0f}"
        if most == "imports" and self.parts[most] >= _MOSTLY * self.seconds:
            return text("diagnosis", "imports", share=share)
        largest = text("diagnosis", "largest", part=text("part", most), share=share)
        if self.bytes - self.resident < LEAST_BYTES:
            resident = f"{100 * self.resident / max(1, self.bytes):.0f}"
            return sentences(text("diagnosis", "warm", resident=resident), largest)
        return sentences(text("diagnosis", "healthy"), largest)

    def _expectation(self) -> str:
        if self.to_download:
            return text("diagnosis", "will_download", size=size_text(self.to_download))
        absent = self.bytes - self.resident
        if absent < LEAST_BYTES:
            return text("diagnosis", "will_find", size=size_text(self.resident))
        if self.probe is not None:
            return text(
                "diagnosis",
                "will_read",
                size=size_text(absent),
                rate=size_text(self.probe.rate),
                seconds=seconds_text(absent / self.probe.rate),
            )
        return text("diagnosis", "will_read_untold", size=size_text(absent))

    @property
    def facts(self) -> Mapping[str, str]:
        """What was read, and from where: one line for each figure, by the keys of the locale files' ``fact``."""
        facts = {
            "weights": text(
                "diagnosis",
                "weights",
                format=self.format,
                count=len(self.files),
                size=size_text(self.bytes),
                names=", ".join(self.files[:2]) + (", …" if len(self.files) > 2 else ""),
            ),
            "types": (types_text(self.dtypes) or text("diagnosis", "no_header"))
            + (f" → {self.dtype}" if self.dtype else ""),
            "memory" if self.seconds is not None else "memory_now": text(
                "diagnosis", "resident", share=f"{100 * self.resident / self.bytes if self.bytes else 100:.0f}"
            ),
        }
        if self.available is not None:
            facts["free"] = size_text(self.available)
        if self.memory_limit is not None:
            facts["memory_limit"] = size_text(self.memory_limit)
        if self.memory_pressure is not None and round(100 * self.memory_pressure):
            facts["pressure"] = text("diagnosis", "pressure", share=f"{100 * self.memory_pressure:.0f}")
        storage = self.storage
        if storage is not None:
            facts["path"] = str(storage.path)
            if storage.linked_from is not None:
                facts["link"] = str(storage.linked_from)
            facts["storage"] = ", ".join(_storage_words(storage))
        if self.rate is not None:
            facts["rate"] = text("diagnosis", "rate", rate=size_text(self.rate))
        if self.probe is not None:
            facts["probe"] = text(
                "diagnosis", "probe", rate=size_text(self.probe.rate), size=size_text(self.probe.bytes)
            )
        if self.others is not None and self.others >= LEAST_BYTES:
            facts["others"] = text("diagnosis", "others", size=size_text(self.others))
        if self.expected is not None:
            facts["time"] = span_text(*map(seconds_text, self.expected))
        return facts

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.verdict}"]
        if self.seconds:
            shown = {name: seconds for name, seconds in self.parts.items() if name == "other" or round(seconds, 2)}
            shares = {name: f"{took:8.2f} s  {100 * took / self.seconds:3.0f} %" for name, took in shown.items()}
            lines += columns("part", shares)
        lines += columns("fact", self.facts)
        for number, remedy in enumerate(self.remedies, 1):
            lines += [f"{number}. {remedy}", *(f"     {line}" for line in remedy.lines.splitlines())]
        return "\n".join(lines)


def _storage_words(storage: Storage) -> Iterator[str]:
    yield f"{storage.filesystem or '?'} ({text('storage', storage.kind)})"
    yield text("diagnosis", "mounted", mount=storage.mount)
    if storage.is_rotational is not None:
        yield text("storage", "rotational" if storage.is_rotational else "solid")
    if storage.read_ahead:
        yield f"read_ahead_kb {storage.read_ahead >> 10}"
    if storage.limit is not None:
        yield text("diagnosis", "limited", rate=size_text(storage.limit))
