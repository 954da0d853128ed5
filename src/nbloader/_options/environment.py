"""Options from environment variables and from text, and the former names of options."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from nbloader._errors import OptionError
from nbloader._text.catalogue import text

PREFIX = "NBLOADER_"

_NUMBER = re.compile(r"[0-9]{1,18}")
_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}

Types = Mapping[str, tuple[type, ...]]
"""The types that each option accepts."""


class Notice(NamedTuple):
    """A line for the log about an option: a key of the locale files' ``log``, and the values that fill it."""

    code: str
    name: str
    value: str


def parse_option(source: str, value: str, types: tuple[type, ...]) -> Any:
    """Return the value of a text for an option of these types; `source` names where the text came from, for errors.

    Raises
    ------
    OptionError
        If the option accepts a JSON object, and the text begins like one but is not valid JSON.
    """
    if bool in types and value.lower() in _WORDS:
        return _WORDS[value.lower()]
    if value.startswith("{") and (Mapping in types or not types):
        try:
            return json.loads(value)
        except ValueError as error:
            raise OptionError(
                text("error", "invalid_json_option", source=source, error=str(error)), text("hint", "like_json")
            ) from None
    return int(value) if int in types and _NUMBER.fullmatch(value) else value


def renamed(choices: Mapping[str, Any], notices: list[Notice]) -> dict[str, Any]:
    """Return the choices under the current names of their options, and add a notice for each former name."""
    found = dict(choices)
    for old, new in (("torch_dtype", "dtype"), ("use_auth_token", "token")):
        if old in found:
            found.setdefault(new, found.pop(old))
            notices.append(Notice("renamed_option", old, new))
    for old, name in (("load_in_8bit", "8bit"), ("load_in_4bit", "4bit"), ("quantization_config", "")):
        if old in found:
            value = found.pop(old)
            if value:
                found.setdefault("quantization", name or value)
            notices.append(Notice("renamed_option", old, "quantization"))
    if "low_cpu_mem_usage" in found:
        notices.append(Notice("always_on", "low_cpu_mem_usage", str(found.pop("low_cpu_mem_usage"))))
    return found


def is_on(variable: str) -> bool:
    """Return whether a switch is on: it is, unless the environment turns it off."""
    return _WORDS.get(os.environ.get(variable, "").lower(), True)


def from_environment(types: Types, chosen: Collection[str], notices: list[Notice]) -> dict[str, tuple[str, Any]]:
    """Return the options from the environment that are not in `chosen`: (variable, value) by option."""
    given = {variable: text for variable, text in os.environ.items() if text}
    found: dict[str, tuple[str, Any]] = {}
    for name in types:
        variable = PREFIX + name.upper()
        if variable in given:
            found[name] = variable, parse_option(variable, given[variable], types[name])
    if "USE_SAFETENSORS" in given:
        value = parse_option("USE_SAFETENSORS", given["USE_SAFETENSORS"], types["use_safetensors"])
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
        if variable.startswith(PREFIX) and name not in types:
            notices += [
                Notice("misspelt", variable, PREFIX + near.upper()) for near in get_close_matches(name, types, 1, 0.75)
            ]
    return {name: value for name, value in found.items() if name not in chosen}
