"""The one door to transformers. Importing it imports neither transformers nor torch: its functions do, when called."""

from __future__ import annotations

import os

# Tokenizers warns at every fork after its threads have run; it reads this when it first works, so before any import.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
