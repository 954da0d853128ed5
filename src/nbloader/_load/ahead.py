"""Import the libraries before a load needs them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from nbloader._libraries.output import captured
from nbloader._libraries.transformers.loading import import_libraries
from nbloader._options.environment import is_on
from nbloader._system.garbage import rare_collections
from nbloader._system.threads import make_thread

SWITCH = "NBLOADER_IMPORT_AHEAD"
"""The environment variable that turns this off, by ``0``, ``false``, ``no`` or ``off``."""

_logger = logging.getLogger(__name__)
_begun = threading.Event()


def import_ahead(then: Callable[[], None]) -> None:
    """Import torch and transformers in the background, once in a process; call `then` when they are there.

    If the import fails, the load that needs the libraries raises the error.
    """
    if _begun.is_set() or not is_on(SWITCH):
        return
    _begun.set()
    make_thread(_import, "nbloader-imports", then).start()


def _import(then: Callable[[], None]) -> None:
    with suppress(Exception), captured(lambda level, line: _logger.debug("%s", line)), rare_collections():
        import_libraries()
    then()
