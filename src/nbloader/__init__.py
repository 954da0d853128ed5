"""nbloader loads Hugging Face transformers checkpoints in a notebook, in the background, with true progress."""

from nbloader import events
from nbloader._analysis.diagnose import diagnose
from nbloader._analysis.diagnosis import Diagnosis, Remedy
from nbloader._api import download, load, plan, preload, start
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
from nbloader._options.environment import Notice
from nbloader._options.options import LoadOptions
from nbloader._planning.kv_cache import KVCache
from nbloader._planning.load_plan import LoadPlan, Room
from nbloader._progress.freed import Freed, Holder
from nbloader._progress.state import Download, ErrorInfo, LoadState, LogLine, Question, Sample, Shard, Stage
from nbloader._registry.loaded_model import LoadedModel
from nbloader._registry.models import loaded, unload
from nbloader._system.memory import Accelerator, Memory
from nbloader._system.probe import Probe
from nbloader._system.storage import Storage

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
    "Accelerator",
    "CheckpointError",
    "DependencyError",
    "Diagnosis",
    "Download",
    "DownloadError",
    "ErrorInfo",
    "Freed",
    "Holder",
    "KVCache",
    "LoadCancelled",
    "LoadError",
    "LoadJob",
    "LoadOptions",
    "LoadPlan",
    "LoadState",
    "Loaded",
    "LoadedModel",
    "LoaderWidget",
    "LogLine",
    "Memory",
    "Notice",
    "OptionError",
    "Probe",
    "Question",
    "Remedy",
    "RemoteCodeError",
    "Room",
    "Sample",
    "Shard",
    "SourceError",
    "Stage",
    "Storage",
    "WontFitError",
    "demo_checkpoint",
    "diagnose",
    "download",
    "events",
    "load",
    "loaded",
    "plan",
    "preload",
    "start",
    "unload",
]
