"""The interface to transformers. transformers and torch are imported only when its functions are called."""

from __future__ import annotations

import os

# tokenizers warns at each fork after it used threads. It reads this variable on first use, so set it before any import.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
