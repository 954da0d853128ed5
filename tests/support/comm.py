"""A comm that records what is sent, where a notebook's would send it on."""

from __future__ import annotations

import time
from typing import Any

from comm.base_comm import BaseComm


class RecordingComm(BaseComm):
    """Keeps (seconds, message type, data) of each message; `broken` makes it fail instead."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.messages: list[tuple[float, str, dict[str, Any]]] = []
        self.broken = False
        super().__init__(*args, **kwargs)

    def publish_msg(self, msg_type: str, data: Any = None, **rest: Any) -> None:
        if self.broken:
            raise RuntimeError("the notebook is closed")
        self.messages.append((time.monotonic(), msg_type, data or {}))

    def _reply_subshell_for(self, data: Any, default: Any) -> str:
        return "the shell that last published"

    def states(self, trait: str = "_state") -> list[Any]:
        """The values of a trait that were sent, in order."""
        updates = [data.get("state", {}) for _, kind, data in self.messages if kind == "comm_msg"]
        return [update[trait] for update in updates if trait in update]

    def click(self, content: Any) -> None:
        """Send what the front end would."""
        self.handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})
