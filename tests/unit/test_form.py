"""The form of options, and the call that reproduces them."""

from __future__ import annotations

from typing import Any

import pytest

from nbloader import LoadOptions, OptionError
from nbloader._options.as_code import as_code
from nbloader._options.options import ROWS
from nbloader._text.catalogue import texts
from nbloader._views.form import changed_by, fields_of


def fields(options: LoadOptions, is_on_hub: bool = False) -> dict[str, dict[str, Any]]:
    return {field["name"]: field for group in fields_of(options, is_on_hub, {}) for field in group["fields"]}


CASES: list[dict[str, Any]] = [
    {},
    {"dtype": "float32", "use_safetensors": False, "readahead": True, "readers": 4, "force": True},
    {"device": "cpu", "max_memory": "8GB"},
    {"device_map": "auto", "max_memory": {0: "8GiB", "cpu": 1001}, "offload_folder": "off"},
    {"revision": "v1", "subfolder": "part", "variant": "fp16", "cache_dir": "cache", "local_files_only": True},
    {"quantization": "4bit", "adapter": "us/lora", "merge_adapter": True, "trust_remote_code": "0" * 40},
    {"auto_class": "AutoModel", "attn_implementation": "eager", "extra": {"num_labels": 3}},
]


@pytest.mark.parametrize("choices", CASES)
def test_what_a_form_shows_is_what_it_gives_back(choices: dict[str, Any]) -> None:
    options = LoadOptions(**choices)
    shown = {name: field["value"] for name, field in fields(options).items()}
    assert changed_by(options, shown) == options
    formless = LoadOptions(extra=options.extra, trust_remote_code=options.trust_remote_code)
    assert changed_by(formless, shown) == options


@pytest.mark.parametrize("choices", CASES)
def test_the_code_reproduces_the_choice(choices: dict[str, Any]) -> None:
    options = LoadOptions(**choices, token="hf_secret")
    code = as_code('us/"demo"', options)
    assert "hf_secret" not in code
    made: list[tuple[str, LoadOptions]] = []

    class LoaderWidget:
        def __init__(self, model: str, **given: Any) -> None:
            made.append((model, LoadOptions(**given)))

        def show(self) -> LoaderWidget:
            return self

        def result(self) -> tuple[str, str]:
            return "model", "tokenizer"

    names: dict[str, Any] = {"LoaderWidget": LoaderWidget}
    exec(code, names)
    assert (names["model"], names["tokenizer"]) == ("model", "tokenizer")
    assert made == [('us/"demo"', LoadOptions(**choices))]


def test_an_emptied_field_is_the_default() -> None:
    options = LoadOptions(device_map="auto", max_memory="8GB", subfolder="part", readers=3)
    emptied = changed_by(options, {"placement": "", "max_memory": " ", "subfolder": "", "readers": ""})
    assert emptied == LoadOptions()


@pytest.mark.parametrize(
    "said",
    [{"max_memory": "8 potatoes"}, {"readers": "many"}, {"token": "x"}, {"dtype": 3}, {"dtype": "int3"}, {"extra": ""}],
)
def test_what_makes_no_sense_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        changed_by(LoadOptions(), said)


def test_what_code_gave_stays_as_it_is() -> None:
    options = LoadOptions(device_map={"": "cpu"})
    assert fields(options)["placement"]["value"] == "code"
    assert changed_by(options, {"placement": "code", "dtype": "float32"}).device_map == {"": "cpu"}


def test_only_what_applies_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(options: LoadOptions, is_on_hub: bool = False) -> set[str]:
        return {name for name, field in fields(options, is_on_hub).items() if field["why"]}

    hub = {"revision", "cache_dir", "local_files_only"}
    assert closed(LoadOptions()) == {"offload_folder", "merge_adapter", *hub}
    assert closed(LoadOptions(device_map="auto", adapter="lora"), is_on_hub=True) == set()
    without = {"offload_folder", "merge_adapter", "readers"}
    assert closed(LoadOptions(readahead=False, device="cpu"), is_on_hub=True) == without
    monkeypatch.setattr("nbloader._views.form.has_cuda", lambda: False)
    devices = {choice["value"]: choice["why"] for choice in fields(LoadOptions())["placement"]["choices"]}
    assert devices["cuda"] == "no CUDA device here"
    assert devices["auto"] == ""


def test_every_field_and_choice_has_its_texts() -> None:
    for name, field in fields(LoadOptions()).items():
        assert texts()["option"][name]
        assert texts()["option_help"][name]
        for choice in field["choices"]:
            key = f"{name}.{choice['value']}"
            assert key in texts()["choice"] or choice["value"] in ("float16", "float32", "bfloat16"), key
    assert set(texts()["option"]) == set(fields(LoadOptions()))
    assert set(texts()["option_help"]) == {*fields(LoadOptions()), *ROWS}
    assert set(texts()["group"]) == {group["name"] for group in fields_of(LoadOptions(), True, {})}
