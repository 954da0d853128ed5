"""What may be chosen, how it is checked, where its defaults come from, and what reaches from_pretrained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nbloader
from nbloader import CheckpointError, LoadOptions, OptionError
from nbloader._options.options import ROWS, merge_options


def codes(options: LoadOptions) -> list[tuple[str, str]]:
    return [(notice.code, notice.name) for notice in options.notices]


def test_without_choices_and_environment_it_is_what_from_pretrained_does() -> None:
    options = LoadOptions()
    assert (options.dtype, options.placement, options.extra, options.notices) == ("auto", None, {}, ())


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("dtype", "bf16", "bfloat16"),
        ("device", "cuda:1", "cuda:1"),
        ("device_map", '{"": "cpu"}', {"": "cpu"}),
        ("max_memory", "8GB", 8 * 10**9),
        ("max_memory", '{"0": "8GiB", "cpu": 1000}', {0: 8 * 2**30, "cpu": 1000}),
        ("offload_folder", "off", "off"),
        ("quantization", "NF4", "4bit"),
        ("attn_implementation", "eager", "eager"),
        ("auto_class", "AutoModel", "AutoModel"),
        ("adapter", "lora", "lora"),
        ("merge_adapter", "no", False),
        ("trust_remote_code", "yes", True),
        ("trust_remote_code", "0123456789" * 4, "0123456789" * 4),
        ("revision", "1", "1"),
        ("token", "hf_secret", "hf_secret"),
        ("token", "false", False),
        ("cache_dir", "cache", "cache"),
        ("subfolder", "part", "part"),
        ("variant", "fp16", "fp16"),
        ("use_safetensors", "no", False),
        ("local_files_only", "1", True),
        ("tokenizer", "auto", "auto"),
        ("tokenizer", "off", False),
        ("readahead", "auto", "auto"),
        ("readahead", "off", False),
        ("readers", "4", 4),
        ("stall_seconds", "30", 30),
        ("force", "yes", True),
        ("keep", "all", "all"),
        ("locale", "ko", "ko"),
        ("extra", '{"num_labels": 3}', {"num_labels": 3}),
    ],
)
def test_the_environment_sets_defaults(monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: Any) -> None:
    monkeypatch.setenv(f"NBLOADER_{name.upper()}", text)
    assert getattr(LoadOptions(), name) == value


def test_every_option_has_a_variable_that_is_tested() -> None:
    (mark,) = (mark for mark in test_the_environment_sets_defaults.pytestmark if mark.name == "parametrize")  # type: ignore[attr-defined]
    assert {case[0] for case in mark.args[1]} == set(ROWS)


def test_what_the_caller_says_stands_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBLOADER_DTYPE", "float16")
    monkeypatch.setenv("NBLOADER_DEVICE", "cuda")
    options = LoadOptions(dtype="float32", device_map="auto")
    assert (options.dtype, options.device, options.device_map) == ("float32", None, "auto")
    assert LoadOptions(readers=2).dtype == "float16"


def test_a_wrong_value_names_the_variable_that_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBLOADER_READERS", "many")
    with pytest.raises(OptionError, match="NBLOADER_READERS"):
        LoadOptions()
    monkeypatch.setenv("NBLOADER_READERS", "3")
    monkeypatch.setenv("NBLOADER_EXTRA", "{not json")
    with pytest.raises(OptionError, match="NBLOADER_EXTRA is not valid JSON"):
        LoadOptions()


def test_variables_of_other_tools_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("USE_SAFETENSORS", "true")
    monkeypatch.setenv("MAX_MEMORY_GB", "7.5")
    monkeypatch.setenv("TRANSFORMERS_CACHE", "/old/cache")
    monkeypatch.setenv("LOW_CPU_MEM_USAGE", "1")
    options = LoadOptions()
    assert (options.use_safetensors, options.max_memory) == (True, 7_500_000_000)
    assert options.cache_dir == "/old/cache"
    assert codes(options) == [("old_cache", "TRANSFORMERS_CACHE"), ("always_on", "LOW_CPU_MEM_USAGE")]
    monkeypatch.setenv("HF_HOME", "/new")
    assert LoadOptions().cache_dir is None
    monkeypatch.setenv("NBLOADER_USE_SAFETENSORS", "false")
    assert LoadOptions().use_safetensors is False


def test_a_misspelt_variable_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBLOADER_DTPYE", "float16")
    monkeypatch.setenv("NBLOADER_BROWSER", "chromium")
    (notice,) = LoadOptions().notices
    assert (notice.code, notice.name, notice.value) == ("misspelt", "NBLOADER_DTPYE", "NBLOADER_DTYPE")


def test_names_out_of_use_are_taken_and_said() -> None:
    options = merge_options(None, {"torch_dtype": "float16", "low_cpu_mem_usage": True, "use_auth_token": "hf_secret"})
    assert (options.dtype, options.token) == ("float16", "hf_secret")
    said = [("renamed_option", "torch_dtype"), ("renamed_option", "use_auth_token"), ("always_on", "low_cpu_mem_usage")]
    assert codes(options) == said
    assert codes(merge_options(options, {"torch_dtype": "float32"})) == said
    assert "secret" not in repr(options) + repr(options.notices)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(OptionError, match="Did you mean 'attn_implementation'"):
        LoadOptions(atn_implementation="eager")  # type: ignore[call-arg]
    with pytest.raises(OptionError, match="Did you mean 'dtype'"):
        merge_options(LoadOptions(), {"dtyp": "float16"})


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"max_memory": "lots"}, "'lots'"),
        ({"max_memory": {"tpu": "1GB"}}, "'tpu'"),
        ({"max_memory": -1}, "-1"),
        ({"variant": "../fp16"}, "not a valid part of a file name"),
        ({"use_safetensors": "maybe"}, "wrong type"),
        ({"extra": {"dtype": "float16"}}, "dtype"),
        ({"extra": {"config": {}}}, "config"),
        ({"trust_remote_code": "main"}, "is not a commit hash"),
        ({"extra": {"trust_remote_code": True}}, "Pass trust_remote_code= directly"),
        ({"extra": {"weights_only": False}}, "always loaded with weights_only=True"),
        ({"extra": [1]}, "wrong type"),
        ({"device": "cpu", "device_map": "auto"}, "cannot be used together"),
        ({"token": 5}, "token=<int> has the wrong type"),
        ({"token": "hf_a b"}, "characters that a token cannot have"),
    ],
)
def test_values_that_cannot_be_are_refused(choice: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        LoadOptions(**choice)


def test_a_new_place_takes_the_old_ones() -> None:
    options = merge_options(LoadOptions(device="cpu"), {"device_map": "auto"})
    assert (options.device, options.device_map) == (None, "auto")
    assert merge_options(options, {"device": "cpu"}).placement == "cpu"
    assert merge_options(options, {"dtype": "float16"}).device_map == "auto"


def test_options_are_values() -> None:
    assert LoadOptions(dtype="bf16") == LoadOptions(dtype="bfloat16")
    assert replace(LoadOptions(dtype="float16"), readers=2).dtype == "float16"


@pytest.mark.parametrize("choices", [{"variant": "int8"}, {"use_safetensors": False}])
def test_weights_that_are_not_there_are_told_from_those_that_are(demo_small: Path, choices: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"has no weights for .*model-00001-of-00004\.safetensors"):
        nbloader.load(demo_small, progress=False, **choices)
