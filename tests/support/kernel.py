"""A real ipykernel, driven through jupyter_client."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager


class Notebook:
    """Runs cells one after the other, and keeps what they print."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client

    def run(self, code: str, timeout: float = 120) -> str:
        """Run a cell and return its output; fails where the cell does."""
        output, error = self.finish(self.begin(code), timeout)
        assert error is None, error
        return output

    def begin(self, code: str) -> str:
        """Send a cell and return its message's id."""
        return self.client.execute(code)

    def finish(self, message_id: str, timeout: float = 120) -> tuple[str, str | None]:
        """Wait for a cell; returns what it printed, and the name of its exception."""
        text, error = "", None
        until = time.monotonic() + timeout
        while True:
            message = self.client.get_iopub_msg(timeout=max(0.1, until - time.monotonic()))
            if message["parent_header"].get("msg_id") != message_id:
                continue
            content: dict[str, Any] = message["content"]
            if message["msg_type"] == "stream":
                text += content["text"]
            elif message["msg_type"] == "execute_result":
                text += content["data"].get("text/plain", "")
            elif message["msg_type"] == "error":
                error = f"{content['ename']}: {content['evalue']}"
            elif message["msg_type"] == "status" and content["execution_state"] == "idle":
                return text, error

    def wait_for_print(self, message_id: str, text: str, timeout: float = 120) -> None:
        """Wait until a running cell has printed `text`."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            message = self.client.get_iopub_msg(timeout=max(0.1, until - time.monotonic()))
            if message["parent_header"].get("msg_id") == message_id and text in message["content"].get("text", ""):
                return
        raise TimeoutError(text)


@contextmanager
def notebook() -> Iterator[Notebook]:
    """Start a kernel, and end it."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    try:
        yield Notebook(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
