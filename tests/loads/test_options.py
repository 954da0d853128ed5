"""What the options say is what a load does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import archs
from support.compare import differences

import nbloader
from nbloader import OptionError
from nbloader._text.catalogue import text


def test_the_log_explains_them(demo_small: Path) -> None:
    job = nbloader.start(demo_small, torch_dtype="float32", low_cpu_mem_usage=False)
    assert str(job.result().model.dtype) == "torch.float32"
    assert [line.code for line in job.state.log][:2] == ["renamed_option", "always_on"]


def test_attention_and_extra_reach_the_model(demo_small: Path) -> None:
    model = nbloader.load(demo_small, progress=False, attn_implementation="eager", extra={"num_hidden_layers": 2}).model
    assert model.config._attn_implementation == "eager"
    assert len(model.model.layers) == 2


@pytest.mark.parametrize(
    ("choices", "said"),
    [({"attn_implementation": "magic"}, "attn_implementation"), ({"extra": {"nonsense": 1}}, "nonsense")],
)
def test_what_transformers_does_not_take_is_told(demo_small: Path, choices: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        nbloader.load(demo_small, progress=False, **choices)


def test_a_limit_and_a_folder_for_the_rest(demo_small: Path, tmp_path: Path) -> None:
    job = nbloader.start(demo_small, device_map="auto", max_memory={"cpu": "5MB"}, offload_folder=tmp_path)
    assert {"cpu", "disk"} == set(job.result().model.hf_device_map.values())


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Three models in one folder: as safetensors, as .bin, and as safetensors in a variant."""
    model = archs.build("llama")
    model.save_pretrained(tmp_path, variant="fp16")
    model.lm_head.weight.data += 1
    archs.save_bin(model, tmp_path, shards=1)
    model.lm_head.weight.data += 1
    archs.save(model, tmp_path, shards=3)
    return tmp_path


@pytest.mark.parametrize(
    ("choices", "named"),
    [
        ({}, "model-*.safetensors"),
        ({"use_safetensors": False}, "pytorch_model.bin"),
        ({"variant": "fp16"}, "model.fp16.safetensors"),
    ],
)
def test_which_weights_are_loaded(mixed: Path, choices: dict[str, Any], named: str) -> None:
    job = nbloader.start(mixed, **choices)
    loaded = job.result().model
    assert [shard.name for shard in job.state.shards] == sorted(path.name for path in mixed.glob(named))
    assert differences(loaded, type(loaded).from_pretrained(mixed, **choices)) == []


def test_a_load_speaks_the_language_that_was_chosen(demo_small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    told: list[Any] = []
    nbloader.load(demo_small, progress=False, reload=True, locale="ko", progress_callback=told.append)
    assert told[0]["message"] == "토크나이저 로드 중…"
    assert told[-1]["message"] == "준비 완료"
    assert "모델을 cpu로 이동" in [step["message"] for step in told]
    assert text("status", "ready") == "Ready"  # and only the load
