"""A home for tests: caches of their own, and a Hub on loopback in place of the real one."""

from __future__ import annotations

import os
import tempfile

from support.hub import Hub


def move_in(hub: Hub) -> tempfile.TemporaryDirectory[str]:
    """Have this process, and those that it starts, live in a new folder and ask `hub`; returns the folder.

    It has to be called before huggingface_hub is imported, which reads these once.
    """
    home = tempfile.TemporaryDirectory(prefix="nbloader-tests-", ignore_cleanup_errors=True)
    os.environ["HF_ENDPOINT"] = hub.url
    os.environ["HF_HOME"] = home.name
    os.environ["HF_XET_CLIENT_RETRY_BASE_DELAY"] = "10ms"
    os.environ["XDG_STATE_HOME"] = f"{home.name}/state"
    os.environ["XDG_CACHE_HOME"] = os.environ.get("NBLOADER_TEST_CACHE", home.name)
    os.environ["LC_MESSAGES"] = "C"  # what is said is English, whoever runs the tests
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "LC_ALL"):
        os.environ.pop(name, None)
    return home
