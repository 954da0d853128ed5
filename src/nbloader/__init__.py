"""nbloader loads Hugging Face transformers checkpoints in a notebook, in the background, with true progress."""

from nbloader._analysis.diagnose import diagnose
from nbloader._analysis.diagnosis import Diagnosis
from nbloader._api import load, plan, preload, start
from nbloader._checkpoint.demo import demo_checkpoint
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
from nbloader._load.ending import Loaded
from nbloader._load.job import LoadJob
from nbloader._options.options import LoadOptions
from nbloader._planning.plan import LoadPlan
from nbloader._progress.state import LoadState
from nbloader._registry.models import loaded, unload

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
