"""Checkpoints that are stored quantized, and types that a config does not tell: the plan says what the load does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from support import archs, stored
from support.compare import differences
from torchao.quantization import Int8WeightOnlyConfig
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

import nbloader
from nbloader import CheckpointError, DependencyError, LoadError, OptionError
from nbloader._load.stages.metadata import stored_bytes
from nbloader._planning.stored import KINDS, find_stored

BITSANDBYTES = transformers.BitsAndBytesConfig
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
MADE: dict[str, Callable[[Path], Path]] = {
    "fp8": stored.fp8,
    "fp8, one scale for each of four": lambda folder: stored.fp8(folder, block=64),
    "fp8 of no type": lambda folder: stored.fp8(folder, dtype=None),
    "mxfp8": lambda folder: stored.fp8(folder, "mxfp8"),
    "mxfp4": stored.mxfp4,
    "mxfp4 of no type": lambda folder: stored.mxfp4(folder, dtype=None),
    "8bit": lambda folder: stored.saved(folder, BITSANDBYTES(load_in_8bit=True)),
    "nf4": lambda folder: stored.saved(folder, BITSANDBYTES(**NF4)),
    "nf4 twice": lambda folder: stored.saved(folder, BITSANDBYTES(**NF4, bnb_4bit_use_double_quant=True)),
    "torchao": lambda folder: stored.saved(folder, transformers.TorchAoConfig(Int8WeightOnlyConfig(version=2))),
    "both flags false": lambda folder: stored.named(folder, {"quant_method": "bitsandbytes", "load_in_4bit": False}),
    "a method that nobody knows": lambda folder: stored.named(folder, {"quant_method": "mystery"}),
    "the wrong case": lambda folder: stored.named(folder, {"quant_method": "FP8"}),
    "metal": stored.metal,
    "gguf": lambda folder: stored.named(folder, {"quant_method": "gguf"}),
    "null": lambda folder: stored.named(folder, None),
}


def held(model: Any) -> int:
    """Return what a model's parameters take, and its buffers but those that are in no file."""
    lasting = model.state_dict(keep_vars=True).keys()
    buffers = sum(buffer.nbytes for name, buffer in model.named_buffers() if name in lasting)
    return sum(map(stored_bytes, model.parameters())) + buffers


@pytest.mark.parametrize("dtype", ["auto", "float32", "float16"])
@pytest.mark.parametrize("name", MADE)
def test_the_plan_says_what_the_load_does(name: str, dtype: str, tmp_path: Path) -> None:
    folder = MADE[name](tmp_path)
    chosen: dict[str, Any] = {"dtype": dtype, **({"device_map": "cpu"} if name == "metal" else {})}
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, **chosen)
    plan = nbloader.plan(folder, **chosen)
    job = nbloader.start(folder, **chosen)
    model = job.result().model
    state = job.state
    assert differences(model, plain) == []
    # Norms of gpt-oss stay in float32 where the rest is float16: only the class knows.
    assert sum(plan.bytes_to_place) == pytest.approx(held(model), rel=0.002)
    assert state.bytes_placed == state.bytes_to_place == sum(plan.bytes_to_place)
    assert state.summary is not None
    assert state.summary["dtype"].split(" + ")[0] == (plan.quantization or plan.dtype)
    types = {parameter.dtype for parameter in model.parameters()}
    assert plan.quantization is not None or getattr(torch, plan.dtype or "") in types


@pytest.mark.parametrize("make", [stored.fp8, stored.mxfp4])
def test_what_is_dequantized_is_told_and_counted(make: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = make(tmp_path)
    plan = nbloader.plan(folder)
    files = sum(plan.bytes_to_read)
    assert plan.dequantized == json.loads((folder / "config.json").read_text())["quantization_config"]["quant_method"]
    assert (plan.quantization, plan.dtype) == (None, "bfloat16")
    assert plan.host_memory["weights"] > 1.5 * files
    assert plan.host_memory["dequantization"] > 0
    with pytest.raises(nbloader.WontFitError):
        nbloader.load(folder, progress=False, max_memory=files)
    log = nbloader.start(folder).result() and nbloader.start(folder, reload=True)
    log.result()
    assert [line.arguments["method"] for line in log.state.log if line.code == "dequantized"] == [plan.dequantized]


def test_a_stored_quantization_may_be_given_up_where_transformers_can(tmp_path: Path) -> None:
    folder = stored.mxfp4(tmp_path)
    asked = transformers.Mxfp4Config(dequantize=True)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, quantization_config=asked)
    assert differences(nbloader.load(folder, quantization=asked, progress=False).model, plain) == []
    assert nbloader.plan(folder, quantization=asked).dequantized == "mxfp4"
    with pytest.raises(OptionError, match="already quantized with mxfp4"):
        nbloader.plan(folder, quantization="8bit")


def test_what_transformers_does_not_heed_can_be_quantized(tmp_path: Path) -> None:
    folder = stored.named(tmp_path, {"quant_method": "bitsandbytes", "load_in_8bit": False})
    plan = nbloader.plan(folder, quantization="8bit")
    model = nbloader.load(folder, quantization="8bit", progress=False).model
    assert (plan.quantization, sum(plan.bytes_to_place)) == ("8bit", held(model))


def test_every_method_of_transformers_is_known() -> None:
    theirs = {name: kind.__name__ for name, kind in AUTO_QUANTIZATION_CONFIG_MAPPING.items()}
    ours = {name: kind.config_class for name, kind in KINDS.items()}
    assert theirs.items() <= ours.items()  # an older transformers has fewer


@pytest.mark.parametrize("method", sorted(AUTO_QUANTIZATION_CONFIG_MAPPING))
def test_what_plain_refuses_unread_is_refused_by_the_plan(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    safe_open: Any = transformers.modeling_utils.safe_open
    monkeypatch.setattr("transformers.modeling_utils.safe_open", lambda *a, **k: opened.append(a) or safe_open(*a, **k))
    if method.startswith("bitsandbytes"):
        settings = {"quant_method": "bitsandbytes", f"load_in_{method.removeprefix('bitsandbytes_')}": True}
    elif method == "torchao":
        settings = transformers.TorchAoConfig(Int8WeightOnlyConfig(version=2)).to_dict()
    else:
        settings = {"quant_method": method, "bits": 4, "group_size": 128}
    folder = stored.named(tmp_path, settings)
    try:
        transformers.AutoModelForCausalLM.from_pretrained(folder)
    except Exception:
        with pytest.raises((CheckpointError, DependencyError, OptionError)):
            # torchao reads its own record of the file before a weight.
            nbloader.load(folder, progress=False) if opened or method == "torchao" else nbloader.plan(folder)
        return
    assert find_stored(json.loads((folder / "config.json").read_text())) is not None
    nbloader.load(folder, progress=False)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"load_in_8bit": False},
        {"quant_method": None},
        {"quant_method": ["fp8"]},
        {"load_in_8bit": True, "load_in_4bit": True},
    ],
)
def test_a_quantization_without_a_method_is_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = stored.named(tmp_path, settings)
    with pytest.raises((ValueError, TypeError)):
        transformers.AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(CheckpointError, match="does not name exactly one quantization method"):
        nbloader.plan(folder)


def test_the_text_models_own_quantization_counts(tmp_path: Path) -> None:
    folder = archs.save(archs.build("llava (vision-language)"), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DependencyError, match="needs packages that are not installed: optimum gptqmodel"):
        nbloader.plan(folder)


def mixed(folder: Path, first: torch.dtype, **settings: Any) -> Path:
    """Write a Llama whose first tensor by name is of another type than the rest."""
    config, tensors = stored.llama()
    tensors["lm_head.weight"] = tensors["lm_head.weight"].to(first)
    return stored.write(folder, config, tensors, **{"dtype": None, "torch_dtype": None, **settings})


@pytest.mark.parametrize(
    "settings",
    [
        {"dtype": "bfloat16"},
        {"dtype": "float16"},
        {"dtype": "half"},
        {"dtype": "float"},
        {"dtype": "double"},
        {"torch_dtype": "float16"},
        {"dtype": {"": "float16"}},
        {},
    ],
    ids=str,
)
@pytest.mark.parametrize("first", [torch.float32, torch.float16, torch.int8], ids=str)
def test_the_type_is_the_one_that_transformers_finds(
    settings: dict[str, Any], first: torch.dtype, tmp_path: Path
) -> None:
    folder = mixed(tmp_path, first, **settings)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    plan = nbloader.plan(folder)
    model = nbloader.load(folder, progress=False).model
    assert differences(model, plain) == []
    assert (f"torch.{plan.dtype}", sum(plan.bytes_to_place)) == (str(plain.dtype), held(plain))


def test_the_parts_types_do_not_count(tmp_path: Path) -> None:
    folder = archs.save(archs.build("llava (vision-language)"), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config.pop("dtype")
    config["text_config"]["dtype"] = config["vision_config"]["dtype"] = "float16"
    (folder / "config.json").write_text(json.dumps(config))
    plain = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
    plan = nbloader.plan(folder)
    assert differences(nbloader.load(folder, progress=False).model, plain) == []
    assert (f"torch.{plan.dtype}", sum(plan.bytes_to_place)) == (str(plain.dtype), held(plain))


@pytest.mark.parametrize("dtype", ["torch.bfloat16", "bf16", "auto", "", "BFloat16", 16, "int8", "float8_e4m3fn"])
def test_a_type_that_torch_has_not_is_refused(dtype: Any, tmp_path: Path) -> None:
    folder = mixed(tmp_path, torch.bfloat16, dtype=dtype)
    with pytest.raises((AttributeError, ValueError, TypeError)):
        transformers.AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(LoadError, match="sets the dtype"):
        nbloader.plan(folder)
