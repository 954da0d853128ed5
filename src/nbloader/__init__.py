"""nbloader loads Hugging Face transformers checkpoints in a notebook, in the background, with true progress."""

from nbloader._demo import demo_checkpoint
from nbloader._diagnosis import Diagnosis, diagnose
from nbloader._errors import (
    CheckpointError,
    DependencyError,
    DownloadError,
    LoadCancelled,
    LoadError,
    OptionError,
    RemoteCodeError,
    SourceError,
    WontFitError,
)
from nbloader._job import Loaded, LoadJob
from nbloader._load import load, plan, preload, start
from nbloader._options import LoadOptions
from nbloader._plan import LoadPlan
from nbloader._resident import loaded, unload
from nbloader._state import LoadState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nbloader.widget import LoaderWidget


def __getattr__(name: str) -> object:
    # Only a notebook needs the widget, and importing ipywidgets takes as long as all the rest.
    if name == "LoaderWidget":
        from nbloader.widget import LoaderWidget

        return LoaderWidget
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "CheckpointError",
    "DependencyError",
    "Diagnosis",
    "DownloadError",
    "LoadCancelled",
    "LoadError",
    "LoadJob",
    "LoadOptions",
    "LoadPlan",
    "LoadState",
    "Loaded",
    "LoaderWidget",
    "OptionError",
    "RemoteCodeError",
    "SourceError",
    "WontFitError",
    "demo_checkpoint",
    "diagnose",
    "load",
    "loaded",
    "plan",
    "preload",
    "start",
    "unload",
]
