"""Everything a user may choose about a load, and its validation."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from nbloader._errors import OptionError, did_you_mean
from nbloader._pace import MOST_READERS

DTYPES = ("auto", "bfloat16", "float16", "float32")
_DTYPE_ALIASES = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32"}
_DEVICE = re.compile(r"cpu|mps|(cuda|xpu)(:\d+)?")
_DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """The choices of one load. Unset choices are what ``from_pretrained`` does.

    Parameters
    ----------
    dtype
        The parameters' type in memory: ``"auto"`` (as the checkpoint says), ``"bfloat16"``, ``"float16"`` or
        ``"float32"``; a ``torch.dtype`` is taken too.
    device
        Where the whole model goes: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``. Not together with `device_map`.
    device_map
        ``"auto"``, ``"balanced"``, ``"balanced_low_0"``, ``"sequential"``, a device, or a dict from module name to
        device, as accelerate takes them.
    revision
        Branch, tag or commit hash on the Hub.
    token
        Access token for the Hub; ``True`` or None for the one that is logged in, ``False`` for none. Never shown.
    cache_dir
        The Hub cache's folder.
    subfolder
        The folder inside the checkpoint that holds the model.
    auto_class
        The class that loads the model, by name (``"AutoModelForCausalLM"``) or itself; None takes it from the config.
    local_files_only
        Do not ask the Hub: what is not in the cache is an error.
    readahead
        Whether to read the weights' files in parallel, ahead of placing: ``"auto"`` into the page cache or, where the
        storage does not keep it, into this process's memory; True into the page cache in any case; False not at all.
    readers
        How many reads are under way at once, 1 to 64; None finds the number by measuring.

    Raises
    ------
    OptionError
        For a value that the option cannot take.
    """

    dtype: str = "auto"
    device: str | None = None
    device_map: str | Mapping[str, Any] | None = None
    revision: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    cache_dir: str | None = None
    subfolder: str = ""
    auto_class: str | type | None = None
    local_files_only: bool = False
    readahead: bool | str = "auto"
    readers: int | None = None

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        set_field(self, "dtype", _dtype_name(self.dtype))
        set_field(self, "device", None if self.device is None else str(self.device))
        if isinstance(self.cache_dir, os.PathLike):
            set_field(self, "cache_dir", os.fspath(self.cache_dir))
        self._check_placement()
        self._check_texts()
        _check_subfolder(self.subfolder)
        self._check_reading()

    def _check_placement(self) -> None:
        if self.device is not None and self.device_map is not None:
            raise OptionError(
                f"device={self.device!r} and device_map={self.device_map!r} were both given.",
                "Give one of them: device puts the whole model on one device, device_map spreads it.",
            )
        if self.device is not None and not _DEVICE.fullmatch(self.device):
            raise OptionError(f"device={self.device!r} is not a device.", "Use 'cpu', 'cuda', 'cuda:0' or 'mps'.")
        if isinstance(self.device_map, str) and not (
            self.device_map in _DEVICE_MAPS or _DEVICE.fullmatch(self.device_map)
        ):
            raise OptionError(
                f"device_map={self.device_map!r} is not a device map.", did_you_mean(self.device_map, _DEVICE_MAPS)
            )

    def _check_reading(self) -> None:
        if self.readahead not in ("auto", True, False):
            raise OptionError(f"readahead={self.readahead!r} is not a choice.", "Use 'auto', True or False.")
        is_number = isinstance(self.readers, int) and not isinstance(self.readers, bool)
        if self.readers is not None and not (is_number and 1 <= self.readers <= MOST_READERS):
            raise OptionError(
                f"readers={self.readers!r} is no number of readers.", f"Give 1 to {MOST_READERS}, or leave it out."
            )

    def _check_texts(self) -> None:
        expected: dict[str, Any] = {
            "revision": (str, type(None)),
            "cache_dir": (str, type(None)),
            "token": (str, bool, type(None)),
            "subfolder": str,
            "auto_class": (str, type, type(None)),
            "local_files_only": bool,
            "device_map": (str, Mapping, type(None)),
        }
        for name, types in expected.items():
            value = getattr(self, name)
            if not isinstance(value, types):
                shown = "a value of type " + type(value).__name__ if name == "token" else repr(value)
                raise OptionError(f"{name}={shown} has the wrong type.", f"See help(LoadOptions) for {name}.")

    @property
    def placement(self) -> str | Mapping[str, Any] | None:
        """The device map to load with; None leaves everything on the CPU."""
        return self.device if self.device is not None else self.device_map


OPTION_NAMES = tuple(option.name for option in fields(LoadOptions))


def merge_options(options: LoadOptions | None, choices: Mapping[str, Any]) -> LoadOptions:
    """Return `options` (or the defaults) with `choices` on top.

    Raises
    ------
    OptionError
        For a choice that is no option, naming the nearest one.
    """
    if options is not None and not isinstance(options, LoadOptions):
        raise OptionError(
            f"options= got a {type(options).__name__}, not a LoadOptions.",
            "Pass LoadOptions(...), or the choices as keyword arguments.",
        )
    for name in choices:
        if name not in OPTION_NAMES:
            raise OptionError(f"There is no option {name!r}.", did_you_mean(name, OPTION_NAMES))
    return replace(options or LoadOptions(), **choices)


def _dtype_name(dtype: object) -> str:
    name = str(dtype).removeprefix("torch.").lower() if dtype is not None else "auto"
    name = _DTYPE_ALIASES.get(name, name)
    if name not in DTYPES:
        raise OptionError(f"dtype={dtype!r} is not a type that weights can be loaded as.", did_you_mean(name, DTYPES))
    return name


def _check_subfolder(subfolder: str) -> None:
    if os.path.isabs(subfolder) or ".." in re.split(r"[/\\]", subfolder):
        raise OptionError(
            f"subfolder={subfolder!r} leaves the checkpoint.", "Name a folder inside it, such as 'text_encoder'."
        )
