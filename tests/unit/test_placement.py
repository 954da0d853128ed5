"""Where weights will go, and what is free there."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from nbloader import LoadOptions
from nbloader._planning.placement import place_bytes
from nbloader._system import nvml
from nbloader._system.memory import Free, find_free, free_devices

GB = 10**9


def test_a_map_of_ones_own_is_followed() -> None:
    sizes = {"model.layers.0.w": 1, "model.layers.1.w": 2, "model.layers.10.w": 4, "lm_head.w": 8}
    own = {"model": 0, "model.layers.1": "cpu", "lm_head": "disk"}
    assert place_bytes(sizes, LoadOptions(device_map=own), None) == (2, {"cuda:0": 5}, 8)
    assert place_bytes(sizes, LoadOptions(device_map={"model.layers": 0}), None).devices is None


@pytest.mark.parametrize(
    ("devices", "choices", "placed"),
    [
        ({}, {}, (100, {}, 0)),
        ({"cuda:0": 112}, {}, (0, {"cuda:0": 100}, 0)),
        # A tenth of a single device is kept free.
        ({"cuda:0": 110}, {}, (40, {"cuda:0": 60}, 0)),
        ({"cuda:0": 110}, {"device_map": "sequential"}, (0, {"cuda:0": 100}, 0)),
        ({"cuda:0": 112, "cuda:1": 112}, {"max_memory": {1: 200}}, (0, {"cuda:1": 100}, 0)),
        ({"cuda:0": 112}, {"max_memory": {"cpu": 200}}, (100, {}, 0)),
        ({"cuda:0": None}, {}, (0, None, 0)),
        ({"cuda:0": None}, {"max_memory": 200}, (0, {"cuda:0": 100}, 0)),
        # The GPU's memory is the host's: what it cannot take goes to disk.
        ({"mps": 100}, {}, (0, {"mps": 100}, 0)),
        ({"mps": 60}, {}, (0, {"mps": 40}, 60)),
        # What is quantized cannot be divided between a device and the CPU.
        ({"cuda:0": 126}, {"quantization": "8bit"}, (0, {"cuda:0": 100}, 0)),
        ({"cuda:0": 110}, {"quantization": "8bit"}, (0, None, 0)),
    ],
)
def test_what_is_free_decides(
    devices: dict[str, int | None], choices: dict[str, Any], placed: tuple[int, dict[str, int] | None, int]
) -> None:
    sizes = {f"layers.{number}.w": 20 for number in range(5)}
    options = LoadOptions(**{"device_map": "auto", **choices})
    assert place_bytes(sizes, options, Free(1000, devices)) == placed


class Driver:
    """Stands in for NVIDIA's driver, which needs a device: three of them, of which CUDA sees what it is told."""

    NVML_DEVICE_MIG_ENABLE = 1

    class NVMLError(Exception):
        """What the driver raises."""

    def __init__(self) -> None:
        self.totals = [80 * GB, 80 * GB, 80 * GB]
        self.divided: set[int] = set()
        self.inits = 0
        self.is_gone = False

    def nvmlInit(self) -> None:
        self.inits += 1

    def nvmlDeviceGetCount(self) -> int:
        if self.is_gone:
            raise self.NVMLError
        return len(self.totals)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        return index

    def nvmlDeviceGetHandleByUUID(self, name: str) -> Any:
        if name != "MIG-7":
            raise self.NVMLError
        return name

    def nvmlDeviceGetUUID(self, index: int) -> str:
        return f"GPU-{index}abc"

    def nvmlDeviceGetMigMode(self, device: Any) -> list[int]:
        if device == "MIG-7":
            raise self.NVMLError
        return [int(device in self.divided), 0]

    def nvmlDeviceGetMemoryInfo(self, device: Any) -> Any:
        if device == "MIG-7":
            return SimpleNamespace(total=10 * GB, free=7 * GB)
        return SimpleNamespace(total=self.totals[device], free=self.totals[device] - device * GB)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", made)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)
    nvml._nvml.cache_clear()
    yield made
    nvml._nvml.cache_clear()


@pytest.mark.parametrize(
    ("visible", "free"),
    [
        (None, [80, 79, 78]),
        ("2,0", [78, 80]),
        ("GPU-1a, 0", [79, 80]),
        ("1,7,0", [79]),
        ("", []),
        ("-1", []),
        ("MIG-7", [7]),
        ("MIG-8", []),
    ],
)
def test_a_device_is_asked_without_torch(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, visible: str | None, free: list[int]
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert free_devices() == {f"cuda:{index}": size * GB for index, size in enumerate(free)}
    assert find_free().devices == free_devices()
    assert driver.inits == 1


def test_what_is_not_known_of_devices_is_not_made_up(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.divided = {1}
    assert free_devices() == {"cuda:0": 80 * GB, "cuda:1": None, "cuda:2": 78 * GB}
    driver.divided = set()
    driver.totals[2] = 16 * GB
    assert list(free_devices().values()) == [None] * 3
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert free_devices()["cuda:2"] == 14 * GB
    driver.is_gone = True
    assert free_devices() == {}


def test_torch_knows_which_devices_there_are(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(
        device_count=lambda: 2,
        is_initialized=lambda: True,
        memory_reserved=lambda index: 5 * GB,
        memory_allocated=lambda index: 3 * GB,
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert free_devices() == {"cuda:0": 82 * GB, "cuda:1": 81 * GB}
    driver.is_gone = True  # a device of another maker
    assert free_devices() == {"cuda:0": None, "cuda:1": None}
    cuda.device_count = lambda: 0
    assert free_devices() == {}


def test_a_machine_without_a_driver_has_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    nvml._nvml.cache_clear()
    assert nvml.free_bytes() == []
    nvml._nvml.cache_clear()


def test_an_apple_gpu_has_the_memory_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert free_devices().keys() == {"mps"}
    assert find_free().host > 0
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert free_devices() == {}
