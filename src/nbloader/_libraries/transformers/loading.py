"""Load a model with transformers, and ask the library what a load needs to know first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbloader._errors import CheckpointError, LoadError, OptionError
from nbloader._libraries import isolation
from nbloader._libraries.transformers.errors import as_load_error
from nbloader._libraries.transformers.one_thread import isolated, original_tie_weights
from nbloader._libraries.transformers.watching import OtherThreads, Watcher, waiting, watched
from nbloader._system.modules import imported
from nbloader._text.catalogue import text

if TYPE_CHECKING:
    from nbloader._options.options import LoadOptions


def import_libraries() -> str:
    """Import torch and transformers, and return their names and versions as text."""
    import torch
    import transformers
    import transformers.models.auto.modeling_auto

    original_tie_weights()
    return f"transformers {transformers.__version__}, torch {torch.__version__}"


def ambient_device() -> str | None:
    """Return this thread's default device for new tensors; None if it is the CPU, or torch is not imported.

    ``torch.set_default_device`` and ``with torch.device(...)`` apply to one thread.
    """
    torch = imported("torch")
    if torch is None:
        return None
    device = str(torch.empty(0).device)  # torch 2.7's get_default_device() does not see the ``with``
    return None if device == "cpu" else device


def check_device(device: str | None) -> None:
    """Refuse a device that the installed torch does not support, or that this machine does not have.

    Raises
    ------
    OptionError
        If the device cannot be used; the message says why.
    """
    import torch

    kind, _, index = (device or "cpu").partition(":")
    backend: Any = {"cuda": torch.cuda, "xpu": torch.xpu, "mps": torch.backends.mps}.get(kind)
    if backend is None:
        return
    if not backend.is_available():
        raise OptionError(
            text("error", "device_unusable", device=repr(device), version=torch.__version__, kind=kind),
            text("hint", "leave_device"),
        )
    count = torch.mps.device_count() if kind == "mps" else backend.device_count()
    if index and int(index) >= count:
        raise OptionError(
            text("error", "device_not_found", device=repr(device), count=count, kind=kind),
            text("hint", "use_first", kind=kind),
        )


def model_arguments(options: LoadOptions, allows_code: bool) -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` for the chosen options; the others keep its defaults."""
    placement = options.placement
    limits = options.max_memory
    if isinstance(limits, int):
        import torch

        # Older torch can count devices only if there is a driver.
        count = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
        limits = {**dict.fromkeys(range(count), limits), "cpu": limits}
    chosen = {
        "device_map": dict(placement) if isinstance(placement, Mapping) else placement,
        "max_memory": dict(limits) if isinstance(limits, Mapping) else None,
        "offload_folder": options.offload_folder,
        "attn_implementation": options.attn_implementation,
        "variant": options.variant,
        "use_safetensors": options.use_safetensors,
        "trust_remote_code": allows_code,
        "quantization_config": _quantization_config(options),
    }
    return {"dtype": options.dtype, **{name: value for name, value in chosen.items() if value is not None}}


def _quantization_config(options: LoadOptions) -> Any:
    """Return transformers' config for a quantization that is given by name; return any other value unchanged."""
    import torch
    import transformers

    name = options.quantization
    if name in ("8bit", "4bit"):
        import bitsandbytes  # noqa: F401 - imported here, so that the import does not count as placing
    if name == "8bit":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    if name == "4bit":
        compute = torch.bfloat16 if options.dtype == "auto" else getattr(torch, options.dtype)
        return transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute
        )
    if name in ("int8", "int4"):
        from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

        return transformers.TorchAoConfig(Int8WeightOnlyConfig(version=2) if name == "int8" else Int4WeightOnlyConfig())
    return dict(name) if isinstance(name, Mapping) else name


def load_model(
    folder: Path,
    model_class: Any,
    config: Any,
    arguments: Mapping[str, Any],
    watcher: Watcher,
    shards: Sequence[str] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Return the loaded model and transformers' loading info: missing, unexpected and mismatched keys.

    `arguments` are passed to ``from_pretrained``, in addition to the folder and `config`. `shards` are the paths of
    shards without an index.

    Raises
    ------
    LoadError
        If transformers fails; the message explains why.
    """
    warnings: list[str] = []
    strangers = OtherThreads(watcher.on_stranger)
    noting = replace(watcher, on_warning=warnings.append)
    info: dict[str, Any] = {}
    with (
        as_load_error(folder, info),
        watched(noting, strangers.note),
        waiting(watcher),
        isolated(strangers.note, watcher.check_cancelled),
        _accounting(info),
        _shards_given(shards),
        _interruptible(watcher.check_cancelled),
    ):
        model = model_class.from_pretrained(str(folder), config=config, **arguments)
    vars(model).pop("tie_weights", None)
    _check_whole(model, folder, strangers.seen)
    for warning in warnings:
        # The caller gets the content of this report as data.
        if "LOAD REPORT" not in warning:
            watcher.on_warning(warning)
    return model, info


@contextlib.contextmanager
def _interruptible(check_cancelled: Callable[[], None]) -> Iterator[None]:
    """Check for cancellation each time this thread creates a module of the model."""
    from torch.nn import Module

    begin: Any = vars(Module)["__init__"]

    def init(module: Any, *args: Any, **kwargs: Any) -> None:
        check_cancelled()
        begin(module, *args, **kwargs)

    with isolation.patched_on_this_thread(Module, "__init__", init):
        yield


@contextlib.contextmanager
def _shards_given(shards: Sequence[str] | None) -> Iterator[None]:
    """Patch transformers on this thread so that it loads these files without an index; do nothing for None.

    Raises
    ------
    CheckpointError
        If this version of transformers does not have the function to patch.
    """
    if shards is None:
        yield
        return
    from transformers import modeling_utils

    if not hasattr(modeling_utils, "_get_resolved_checkpoint_files"):
        raise CheckpointError(text("error", "no_shard_index", name=Path(shards[0]).name), text("hint", "make_index"))
    given: tuple[list[str], dict[str, Any]] = list(shards), {"weight_map": {}}
    with isolation.patched_on_this_thread(
        modeling_utils, "_get_resolved_checkpoint_files", lambda *args, **kwargs: given
    ):
        yield


@contextlib.contextmanager
def _accounting(info: dict[str, Any]) -> Iterator[None]:
    """Fill `info` with the missing, unexpected and mismatched keys that transformers found.

    A patch is needed because not all model classes accept ``output_loading_info``.
    """
    from transformers import modeling_utils
    from transformers.integrations import peft

    def noting(report: Callable[..., Any]) -> Callable[..., Any]:
        def report_noting(*args: Any, **kwargs: Any) -> Any:
            for name, found in vars(kwargs.get("loading_info", object)).items():
                info[name] = type(found)([*info.get(name, ()), *found]) if isinstance(found, set) else found
            return report(*args, **kwargs)

        return report_noting

    # transformers calls the second one for an adapter in the model's folder.
    reports = [(module, "log_state_dict_report") for module in (modeling_utils, peft)]
    found = [(module, name, noting(getattr(module, name))) for module, name in reports if hasattr(module, name)]
    with isolation.all_patched_on_this_thread(found):
        yield


def _check_whole(model: Any, folder: Path, strangers: set[str]) -> None:
    """Refuse a model with weights that were not loaded, unless a device map offloaded some of them."""
    lost = [name for name, value in model.named_parameters() if value.is_meta]
    if not lost or len(set(getattr(model, "hf_device_map", {}).values())) > 1:
        return
    known: dict[str, Any] = {"count": len(lost), "folder": folder, "name": lost[0]}
    if strangers:
        others = ", ".join(sorted(strangers))
        raise LoadError(
            text("error", "concurrent_load_conflict", **known, others=others), text("hint", "again_in_turn")
        )
    raise LoadError(text("error", "weights_not_loaded", **known), text("hint", "report_weights"))


def name_model(model: Any, repo_id: str, commit: str | None) -> None:
    """Name a model that was loaded from the cache folder as if it had been loaded by its repository id."""
    model.config.name_or_path = model.name_or_path = repo_id
    model.config._commit_hash = commit
