"""The tokenizer: left out, or not to be had, and the model all the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers
from support import archs
from support.hub import Hub, Repo

import nbloader
from nbloader import CheckpointError, LoadError, OptionError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 1334663\n"


def lacks_tiktoken(folder: Path) -> None:
    (folder / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


def lacks_mistral_common(folder: Path) -> None:
    (folder / "tekken.json").write_text(json.dumps({"config": {"pattern": "."}, "vocab": []}))


def lacks_fugashi(folder: Path) -> None:
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n")
    settings = {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def is_pointer(folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(POINTER)


def is_cut(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": "1.0", "mod')


def lacks_protobuf(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "tiktoken": (lacks_tiktoken, "pip install tiktoken"),
    "protobuf": (lacks_protobuf, "pip install protobuf"),
    "mistral-common": (lacks_mistral_common, "pip install mistral-common"),
    "fugashi": (lacks_fugashi, "fugashi"),
    "a pointer": (is_pointer, "git lfs pull"),
    "cut": (is_cut, "tokenizer.json|JSON|EOF"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_tokenizer_that_cannot_be_made_does_not_keep_the_model(name: str, tmp_path: Path) -> None:
    make, todo = WRONG[name]
    folder = archs.save(archs.build("bert" if name == "fugashi" else "llama"), tmp_path)
    make(folder)
    with pytest.raises(Exception):  # noqa: B017, PT011 - it raises what it likes
        transformers.AutoTokenizer.from_pretrained(folder)
    job = nbloader.start(folder)
    model, tokenizer = job.result()
    assert (model is not None, tokenizer) == (True, None)
    told = [line for line in job.state.log if line.code == "tokenizer_failed"]
    assert [line.level for line in told] == ["warning"]
    assert any(part in str(told[0].arguments["reason"]) for part in todo.split("|"))
    stage = next(stage for stage in job.state.stages if stage.name == "tokenizer")
    assert stage.detail.startswith("none: ")
    with pytest.raises(LoadError) as raised:
        nbloader.load(folder, progress=False, tokenizer=True, reload=True)
    assert str(raised.value.message) in str(told[0].arguments["reason"])


def test_a_processor_that_cannot_be_made_leaves_the_tokenizer(demo_small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(demo_small, folder)
    (folder / "preprocessor_config.json").write_bytes(POINTER)
    job = nbloader.start(folder)
    assert job.result().tokenizer is not None
    assert [line.level for line in job.state.log if line.code == "transformers_says"] == ["warning"]


def test_a_tokenizer_can_be_left_out(demo_small: Path) -> None:
    job = nbloader.start(demo_small, tokenizer=False)
    assert job.result().tokenizer is None
    assert [line.code for line in job.state.log if "tokenizer" in line.code] == ["tokenizer_left_out"]
    assert nbloader.load(demo_small, progress=False).tokenizer is not None


def test_a_tokenizer_that_is_left_out_is_not_downloaded(hub: Hub, demo_small: Path) -> None:
    hub.repos["org/model"] = Repo.of_folder(demo_small)
    assert nbloader.load("org/model", progress=False, tokenizer=False).tokenizer is None
    assert not any("tokenizer" in path for _, path in hub.requests)


def test_a_tokenizer_that_is_asked_for_has_to_be_there(tmp_path: Path) -> None:
    folder = archs.save(archs.build("llama"), tmp_path)
    assert nbloader.load(folder, progress=False).tokenizer is None
    with pytest.raises(CheckpointError, match="neither a tokenizer nor a processor"):
        nbloader.load(folder, progress=False, tokenizer=True)


@pytest.mark.parametrize("value", ["yes please", 2, None])
def test_other_choices_are_refused(value: object) -> None:
    with pytest.raises(OptionError):
        nbloader.LoadOptions(tokenizer=value)


def test_the_tokenizer_gives_back_any_text(tmp_path: Path) -> None:
    folder = nbloader.demo_checkpoint("1MB", 2, cache_dir=tmp_path)
    model, tokenizer = nbloader.load(folder, progress=False)
    for text in ("Hello, world!", "안녕하세요, 모델입니다.", " two  spaces\n\ttab", "🤖 <x> </s2>", "日本語 ñ é"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert len(tokenizer) <= model.config.vocab_size
    logits = model(**tokenizer("the model", return_tensors="pt")).logits
    assert logits.isfinite().all()
    assert logits.std() > 0.01
