"""Everything a user may choose about a load: its defaults from the environment, and its validation."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeVar

from nbloader._errors import OptionError, did_you_mean
from nbloader._safety.redaction import keep_secret
from nbloader._text.catalogue import LOCALES, text
from nbloader._text.units import sentences

DTYPES = ("auto", "bfloat16", "float16", "float32")
QUANTIZATIONS = ("8bit", "4bit", "int8", "int4")
KEEPS = ("one", "all")
PREFIX = "NBLOADER_"
MOST_READERS = 64

_DTYPE_ALIASES = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32"}
_QUANTIZATION_ALIASES = {"nf4": "4bit", "8-bit": "8bit", "4-bit": "4bit", "none": None, "": None}
_NUMBER = re.compile(r"[0-9]{1,18}")
_DEVICE = re.compile(r"cpu|mps|(cuda|xpu)(:[0-9]{1,4})?")
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([kmgt]?)(i?)b", re.IGNORECASE)
_MOST_BYTES = 1 << 62
_MOST_SECONDS = 1e9
_LIMITED = re.compile(r"cpu|disk|mps|((cuda|xpu):)?([0-9]{1,4})")
_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}

Made = TypeVar("Made", bound=type)


class Notice(NamedTuple):
    """What the log should say of a choice: a key of the locale files' ``log``, and what fills it."""

    code: str
    name: str
    value: str


def _listening(made: Made) -> Made:
    """Let a class of options take its defaults from the environment, and names that are out of use."""
    generated: Callable[..., None] = made.__init__  # type: ignore[misc]

    @functools.wraps(generated)
    def init(self: Any, **choices: Any) -> None:
        notices: list[Notice] = list(choices.pop("notices", ()))
        choices = _renamed(choices, notices)
        for name in choices:
            if name not in OPTION_NAMES:
                raise OptionError(text("error", "no_option", name=repr(name)), did_you_mean(name, OPTION_NAMES))
        found = _from_environment(choices, notices)
        try:
            values = {name: value for name, (_, value) in found.items()}
            generated(self, **values, **choices, notices=tuple(dict.fromkeys(notices)))
        except OptionError as error:
            variable = next((source for name, (source, _) in found.items() if error.message.startswith(f"{name}=")), "")
            if not variable:
                raise
            raise OptionError(
                error.message, sentences(error.hint, text("hint", "environment", variable=variable))
            ) from None

    made.__init__ = init  # type: ignore[misc]
    return made


@_listening
@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """The choices of one load. What is not chosen is what the environment says, else what ``from_pretrained`` does.

    An option's environment variable is its name in capitals behind ``NBLOADER_``: ``NBLOADER_DTYPE=bfloat16``; a dict
    is given as JSON. ``USE_SAFETENSORS``, ``MAX_MEMORY_GB`` and ``TRANSFORMERS_CACHE`` are understood too.

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
    max_memory
        How much the weights may take of each device: bytes, or text such as ``"8GB"`` (10^9) and ``"8GiB"`` (2^30);
        or a dict from device (``0``, ``"cpu"``) to that. A `device_map` that accelerate works out keeps to it; a load
        that would need more on the CPU is refused.
    offload_folder
        The folder for weights that fit on no device.
    quantization
        Make the weights smaller while they are placed: ``"8bit"`` or ``"4bit"`` (nf4) by bitsandbytes, ``"int8"`` or
        ``"int4"`` by torchao, or a quantization config of transformers (an object, or its dict).
    attn_implementation
        ``"eager"``, ``"sdpa"``, ``"flash_attention_2"``, or another that transformers knows.
    auto_class
        The class that loads the model, by name (``"AutoModelForCausalLM"``) or itself; None takes it from the config.
    tokenizer
        Whether to make the tokenizer (or processor): ``"auto"`` goes on without one that cannot be made, and says why;
        True makes that an error; False leaves it out.
    adapter
        A LoRA adapter to attach by peft: a folder, or the id of a repository.
    merge_adapter
        Merge it into the weights: the model is then one of its own class.
    trust_remote_code
        Whether Python code that the checkpoint brings may run: True for whatever it brings, a commit hash for the code
        of that commit only (of a folder, the digest that RemoteCodeError names).
    revision
        Branch, tag or commit hash on the Hub.
    token
        Access token for the Hub; ``True`` or None for the one that is logged in, ``False`` for none. Never shown.
    cache_dir
        The Hub cache's folder.
    subfolder
        The folder inside the checkpoint that holds the model.
    variant
        Take the weights of this name: ``"fp16"`` for ``model.fp16.safetensors``.
    use_safetensors
        True for safetensors only, False for ``.bin`` only, None for safetensors where there are any.
    local_files_only
        Do not ask the Hub: what is not in the cache is an error.
    readahead
        Whether to read the weights' files in parallel, ahead of placing: ``"auto"`` into the page cache or, where the
        storage does not keep it, into this process's memory; True into the page cache in any case; False not at all.
    readers
        How many reads are under way at once, 1 to 64; None finds the number by measuring.
    stall_seconds
        Seconds without progress after which the panel offers to cancel the load.
    force
        Load although the weights take more memory than is free.
    keep
        ``"one"`` unloads the other models that were loaded before this one's weights are placed, ``"all"`` keeps them.
    locale
        The language of what is said: ``"en"`` or ``"ko"``; None for the browser's or, without one, the environment's
        (``LANG``).
    extra
        Anything else that ``from_pretrained`` takes, by name.

    Raises
    ------
    OptionError
        For an option that does not exist, or a value that it cannot take.
    """

    dtype: str = "auto"
    device: str | None = None
    device_map: str | Mapping[str, Any] | None = None
    max_memory: int | Mapping[int | str, int] | str | None = None
    offload_folder: str | None = None
    quantization: Any = None
    attn_implementation: str | None = None
    auto_class: str | type | None = None
    tokenizer: bool | str = "auto"
    adapter: str | None = None
    merge_adapter: bool = False
    trust_remote_code: bool | str = False
    revision: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    cache_dir: str | None = None
    subfolder: str = ""
    variant: str | None = None
    use_safetensors: bool | None = None
    local_files_only: bool = False
    readahead: bool | str = "auto"
    readers: int | None = None
    stall_seconds: float = 120.0
    force: bool = False
    keep: str = "one"
    locale: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    notices: tuple[Notice, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, taken in _TAKEN.items():
            object.__setattr__(self, name, taken(getattr(self, name)))
        for name, types in _TYPES.items():
            value = getattr(self, name)
            if not isinstance(value, types):
                shown = f"<{type(value).__name__}>" if name == "token" else repr(value)
                raise OptionError(
                    text("error", "wrong_type", name=name, shown=shown), text("hint", "see_help", name=name)
                )
        keep_secret(self.token)
        self._check_quantization()
        self._check_placement()
        self._check_reading()
        self._check_waiting()
        self._check_files()
        _check_extra(self.extra)

    def _check_quantization(self) -> None:
        value = self.quantization
        is_config = "quant_method" in value if isinstance(value, Mapping) else hasattr(value, "quant_method")
        if value is not None and value not in QUANTIZATIONS and not is_config:
            raise OptionError(
                text("error", "no_quantization", value=repr(value)), did_you_mean(str(value), QUANTIZATIONS)
            )

    def _check_placement(self) -> None:
        if self.device is not None and self.device_map is not None:
            raise OptionError(
                text("error", "device_twice", device=repr(self.device), device_map=repr(self.device_map)),
                text("hint", "one_of_them"),
            )
        if self.device is not None and not _DEVICE.fullmatch(self.device):
            raise OptionError(text("error", "no_device", device=repr(self.device)), text("hint", "devices"))
        if isinstance(self.device_map, str) and not (
            self.device_map in DEVICE_MAPS or _DEVICE.fullmatch(self.device_map)
        ):
            raise OptionError(
                text("error", "no_device_map", device_map=repr(self.device_map)),
                did_you_mean(self.device_map, DEVICE_MAPS),
            )

    def _check_reading(self) -> None:
        if self.readahead not in ("auto", True, False):
            raise OptionError(text("error", "no_readahead", readahead=repr(self.readahead)), text("hint", "readahead"))
        is_number = isinstance(self.readers, int) and not isinstance(self.readers, bool)
        if self.readers is not None and not (is_number and 1 <= self.readers <= MOST_READERS):
            raise OptionError(
                text("error", "no_readers", readers=repr(self.readers)), text("hint", "readers", most=MOST_READERS)
            )

    def _check_waiting(self) -> None:
        if isinstance(self.stall_seconds, bool) or not 0 < self.stall_seconds < _MOST_SECONDS:
            raise OptionError(text("error", "no_wait", stall_seconds=repr(self.stall_seconds)), text("hint", "seconds"))

    def _check_files(self) -> None:
        if self.locale is not None and self.locale not in LOCALES:
            raise OptionError(
                text("error", "no_locale", locale=repr(self.locale)), did_you_mean(str(self.locale), LOCALES)
            )
        if self.keep not in KEEPS:
            raise OptionError(text("error", "no_keep", keep=repr(self.keep)), did_you_mean(self.keep, KEEPS))
        if os.path.isabs(self.subfolder) or ".." in re.split(r"[/\\]", self.subfolder):
            raise OptionError(
                text("error", "leaves", subfolder=repr(self.subfolder)),
                text("hint", "inside"),
            )
        if self.tokenizer not in ("auto", True, False):
            raise OptionError(
                text("error", "no_tokenizer_choice", value=repr(self.tokenizer)), text("hint", "readahead")
            )
        if self.merge_adapter and self.adapter is None:
            raise OptionError(text("error", "merge_nothing"), text("hint", "name_adapter"))
        consent = self.trust_remote_code
        if isinstance(consent, str) and not re.fullmatch("[0-9a-f]{40}", consent):
            raise OptionError(text("error", "bad_consent", consent=repr(consent)), text("hint", "consent"))
        if self.variant is not None and not re.fullmatch(r"[\w-]+", self.variant):
            raise OptionError(text("error", "bad_variant", variant=repr(self.variant)), text("hint", "variant"))

    def allows_code(self, commit: str | None) -> bool:
        """Tell whether Python code of this commit (or digest) may run."""
        return self.trust_remote_code is True or (commit is not None and self.trust_remote_code == commit)

    @property
    def placement(self) -> str | Mapping[str, Any] | None:
        """The device map to load with; None leaves everything on the CPU."""
        return self.device if self.device is not None else self.device_map


OPTION_NAMES = tuple(option.name for option in fields(LoadOptions) if option.name != "notices")


def changed_options(options: LoadOptions) -> dict[str, Any]:
    """Return what differs from the defaults of this environment, as plain values; never a token."""
    defaults = LoadOptions()
    changed = {name: getattr(options, name) for name in OPTION_NAMES if name != "token"}
    return {name: _plain(value) for name, value in changed.items() if value != getattr(defaults, name)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, type):
        return value.__name__
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


def merge_options(options: LoadOptions | None, choices: Mapping[str, Any]) -> LoadOptions:
    """Return `options` (or the defaults) with `choices` on top.

    Raises
    ------
    OptionError
        For a choice that is no option, naming the nearest one.
    """
    if options is None:
        return LoadOptions(**choices)
    if not isinstance(options, LoadOptions):
        raise OptionError(
            text("error", "no_options", type=type(options).__name__),
            text("hint", "pass_options"),
        )
    notices = list(options.notices)
    changes = _renamed(choices, notices)
    if _PLACEMENT & changes.keys():  # one of them is said anew, and what the other said is over
        changes = {**dict.fromkeys(_PLACEMENT), **changes}
    return replace(options, **changes, notices=tuple(notices))


def _renamed(choices: Mapping[str, Any], notices: list[Notice]) -> dict[str, Any]:
    """Return the choices under the names in use, and note which had others."""
    renamed = dict(choices)
    for old, new in (("torch_dtype", "dtype"), ("use_auth_token", "token")):
        if old in renamed:
            renamed.setdefault(new, renamed.pop(old))
            notices.append(Notice("renamed_option", old, new))
    for old, name in (("load_in_8bit", "8bit"), ("load_in_4bit", "4bit"), ("quantization_config", "")):
        if old in renamed:
            value = renamed.pop(old)
            if value:
                renamed.setdefault("quantization", name or value)
            notices.append(Notice("renamed_option", old, "quantization"))
    if "low_cpu_mem_usage" in renamed:
        notices.append(Notice("always_on", "low_cpu_mem_usage", str(renamed.pop("low_cpu_mem_usage"))))
    return renamed


def _from_environment(choices: Mapping[str, Any], notices: list[Notice]) -> dict[str, tuple[str, Any]]:
    """Return what the environment chooses where the caller does not: (variable, value) by option."""
    given = {variable: text for variable, text in os.environ.items() if text}
    found: dict[str, tuple[str, Any]] = {}
    for name in OPTION_NAMES:
        variable = PREFIX + name.upper()
        if variable in given:
            found[name] = variable, parse_option(variable, given[variable], name)
    if "USE_SAFETENSORS" in given:
        value = parse_option("USE_SAFETENSORS", given["USE_SAFETENSORS"], "use_safetensors")
        found.setdefault("use_safetensors", ("USE_SAFETENSORS", value))
    if "MAX_MEMORY_GB" in given:
        found.setdefault("max_memory", ("MAX_MEMORY_GB", f"{given['MAX_MEMORY_GB']}GB"))
    if "TRANSFORMERS_CACHE" in given and not {"HF_HOME", "HF_HUB_CACHE"} & given.keys():
        found.setdefault("cache_dir", ("TRANSFORMERS_CACHE", given["TRANSFORMERS_CACHE"]))
        notices.append(Notice("old_cache", "TRANSFORMERS_CACHE", given["TRANSFORMERS_CACHE"]))
    if "LOW_CPU_MEM_USAGE" in given:
        notices.append(Notice("always_on", "LOW_CPU_MEM_USAGE", given["LOW_CPU_MEM_USAGE"]))
    for variable in given:
        name = variable.removeprefix(PREFIX).lower()
        if variable.startswith(PREFIX) and name not in OPTION_NAMES:
            notices += [
                Notice("misspelt", variable, PREFIX + near.upper())
                for near in get_close_matches(name, OPTION_NAMES, 1, 0.75)
            ]
    # What the caller says about devices stands for both of the options that speak of them.
    said = choices.keys() | (_PLACEMENT if _PLACEMENT & choices.keys() else set())
    return {name: value for name, value in found.items() if name not in said}


def parse_option(source: str, value: str, name: str) -> Any:
    """Return what a text means for an option; `source` is what an error names as its origin.

    Raises
    ------
    OptionError
        For a text that begins a JSON object and is none.
    """
    if bool in _TYPES.get(name, ()) and value.lower() in _WORDS:
        return _WORDS[value.lower()]
    if value.startswith("{"):
        try:
            return json.loads(value)
        except ValueError as error:
            raise OptionError(
                text("error", "no_json", source=source, error=str(error)), text("hint", "like_json")
            ) from None
    is_number = name in ("readers", "max_memory", "stall_seconds") and _NUMBER.fullmatch(value)
    return int(value) if is_number else value


def _dtype_name(dtype: object) -> str:
    name = str(dtype).removeprefix("torch.").lower() if dtype is not None else "auto"
    name = _DTYPE_ALIASES.get(name, name)
    if name not in DTYPES:
        raise OptionError(text("error", "no_dtype", dtype=repr(dtype)), did_you_mean(name, DTYPES))
    return name


def _quantization_name(value: Any) -> Any:
    return _QUANTIZATION_ALIASES.get(value.lower(), value.lower()) if isinstance(value, str) else value


def _token(value: Any) -> Any:
    """Return a token without the white space around it that copying brings; never shows it."""
    if isinstance(value, str):
        value = value.strip()
        if not value.isascii() or not value.isprintable() or " " in value:
            raise OptionError(text("error", "bad_token"), text("hint", "copy_token"))
    return value


def _device_name(device: object) -> str | None:
    return None if device is None else str(device)


def _limits(value: Any) -> Any:
    """Return limits of memory in bytes: of each device, or by device as accelerate names it."""
    if not isinstance(value, Mapping):
        return None if value is None else _bytes_of(value, value)
    limits: dict[int | str, int] = {}
    for device, limit in value.items():
        named = _LIMITED.fullmatch(str(device))
        if named is None:
            raise OptionError(text("error", "no_place", value=repr(value), device=repr(device)), text("hint", "places"))
        limits[int(named[3]) if named[3] else str(device)] = _bytes_of(limit, value)
    return limits


def _bytes_of(limit: Any, whole: Any) -> int:
    if isinstance(limit, int) and not isinstance(limit, bool) and 0 < limit < _MOST_BYTES:
        return limit
    found = _SIZE.fullmatch(limit.strip()) if isinstance(limit, str) else None
    if found is None:
        raise OptionError(text("error", "no_limit", whole=repr(whole), limit=repr(limit)), text("hint", "limit"))
    return int(float(found[1]) * (1024 if found[3] else 1000) ** " kmgt".index(found[2].lower() or " "))


def _path(value: Any) -> Any:
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    return os.path.expanduser(value) if isinstance(value, str) else value


def _check_extra(extra: Mapping[str, Any]) -> None:
    for name in extra:
        if name in OPTION_NAMES or name in _OURS:
            raise OptionError(
                text("error", "not_extra", name=repr(name)),
                text("hint", _OURS[name]) if name in _OURS else text("hint", "give_itself", name=name),
            )


_TAKEN: dict[str, Callable[[Any], Any]] = {
    "dtype": _dtype_name, "quantization": _quantization_name, "device": _device_name, "max_memory": _limits,
    "cache_dir": _path, "offload_folder": _path, "adapter": _path, "token": _token,
}  # fmt: skip
_TYPES: dict[str, tuple[type, ...]] = {
    "device_map": (str, Mapping, type(None)),
    "offload_folder": (str, type(None)),
    "attn_implementation": (str, type(None)),
    "auto_class": (str, type, type(None)),
    "tokenizer": (bool, str),
    "adapter": (str, type(None)),
    "merge_adapter": (bool,),
    "trust_remote_code": (bool, str),
    "revision": (str, type(None)),
    "token": (str, bool, type(None)),
    "cache_dir": (str, type(None)),
    "subfolder": (str,),
    "variant": (str, type(None)),
    "use_safetensors": (bool, type(None)),
    "local_files_only": (bool,),
    "readahead": (bool, str),
    "stall_seconds": (int, float),
    "force": (bool,),
    "extra": (Mapping,),
}
_PLACEMENT = {"device", "device_map"}
_OURS = {
    "config": "own_config",
    "weights_only": "safe_pickles",
    "output_loading_info": "log_says",
    "state_dict": "own_weights",
}
