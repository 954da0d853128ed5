"""The files of a repository that are downloaded: those that plain transformers asks for, of every kind that it has."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import transformers
from support import archs
from support.hub import Hub, Repo
from transformers import utils
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

import nbloader
from nbloader import LoadOptions
from nbloader._checkpoint.needed import support_files

FOREIGN = (
    ".onnx", ".onnx_data", ".nemo", ".zip", ".parquet", ".arrow", ".gguf", ".ggml", ".h5", ".msgpack", ".ot", ".pth",
    ".ckpt", ".pt", ".npz", ".npy", ".tflite", ".mlmodel", ".mlpackage", ".pb", ".pkl", ".joblib", ".tar", ".tar.gz",
    ".7z", ".rar", ".bz2", ".xz", ".zst", ".wasm", ".llamafile", ".engine", ".plan", ".xml", ".bin", ".safetensors",
    ".md", ".png", ".mp4", ".wav", ".csv", ".tsv", ".ipynb", ".py", ".sh", ".yml", ".log", ".lock", ".c", ".so",
)  # fmt: skip
"""Endings of files that repositories hold beside a checkpoint of transformers."""

OF_TRAINING = ("trainer_state.json", "events.out.tfevents.1700000000.host", "model.safetensors.index.json")
OF_MODELS = {"config.json", "generation_config.json"}
OF_PROCESSORS = {
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json", "chat_template.jinja",
    "audio_tokenizer_config.json",
}  # fmt: skip


def chosen(names: Sequence[str], **options: Any) -> set[str]:
    return set(support_files(names, LoadOptions(**options)))


def asked(hub: Hub, files: Mapping[str, bytes], function: Callable[[str], Any], folder: Path) -> set[str]:
    """Return the files of the Hub's ``us/kind`` that a function asks for, whether it succeeds or not."""
    hub.repos["us/kind"] = Repo(dict(files))
    hub.requests.clear()
    with suppress(Exception):  # the content of most files is made up
        function(str(folder))
    found = (re.match(r"/us/kind/resolve/[^/]+/([^?]+)", path) for _, path in hub.requests)
    return {match[1] for match in found if match} & files.keys()


def made(*classes: Any) -> dict[str, bytes]:
    """Return the files that objects of these classes save, of those that can be made from nothing."""
    with tempfile.TemporaryDirectory() as folder:
        for each in classes:
            with suppress(Exception):
                each().save_pretrained(folder)
        return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def tokenizers() -> Iterator[tuple[str, str, Any]]:
    for model_type, named in TOKENIZER_MAPPING_NAMES.items():
        for name in [named] if isinstance(named, str) else filter(None, named or ()):
            found = tokenizer_class_from_name(name)
            if found is not None:
                yield model_type, name, found


def test_what_every_tokenizer_asks_for_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    beside = (
        "added_tokens.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "additional_chat_templates/a.jinja",
    )
    lacking, kinds = {}, {name: (model_type, kind) for model_type, name, kind in tokenizers()}
    for number, (name, (model_type, kind)) in enumerate(kinds.items()):
        files = {
            "config.json": json.dumps({"model_type": model_type}).encode(),
            "tokenizer_config.json": json.dumps({"tokenizer_class": name}).encode(),
            **made(kind),
        }
        vocabulary = {*getattr(kind, "vocab_files_names", {}).values()}
        files |= {each: b"{}" for each in (*vocabulary, *beside) if each not in files}
        load = transformers.AutoTokenizer.from_pretrained
        opened = asked(hub, files, lambda folder: load("us/kind", cache_dir=folder), tmp_path / str(number))  # noqa: B023
        assert "tokenizer_config.json" in opened
        missed = (opened | vocabulary) - chosen(list(files))
        extra = chosen(list(files)) - opened if name != "RagTokenizer" else set()  # it has two, in folders
        if missed or extra:
            lacking[name] = missed, extra
    assert lacking == {}
    assert len(kinds) >= 80


def test_what_every_processor_asks_for_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    parts = (IMAGE_PROCESSOR_MAPPING_NAMES, FEATURE_EXTRACTOR_MAPPING_NAMES, VIDEO_PROCESSOR_MAPPING_NAMES)
    lacking = {}
    for number, (model_type, processor) in enumerate(PROCESSOR_MAPPING_NAMES.items()):
        told = [named.get(model_type) for named in (*parts, TOKENIZER_MAPPING_NAMES)]
        names = [name for each in told for name in _names(each)]
        files = {"config.json": json.dumps({"model_type": model_type}).encode()}
        files |= made(*(getattr(transformers, name, None) for name in names))
        files |= {name: json.dumps({"processor_class": processor}).encode() for name in OF_PROCESSORS - files.keys()}
        load = transformers.AutoProcessor.from_pretrained
        opened = asked(hub, files, lambda folder: load("us/kind", cache_dir=folder), tmp_path / str(number))  # noqa: B023
        if opened - chosen(list(files)):
            lacking[model_type] = opened - chosen(list(files))
    assert lacking == {}
    assert len(PROCESSOR_MAPPING_NAMES) >= 100


def _names(told: Any) -> list[str]:
    if isinstance(told, str):
        return [told]
    return [name for name in (told.values() if isinstance(told, dict) else told or ()) if name]


def test_what_a_model_asks_for_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    folder = archs.save(archs.build("llama"), tmp_path / "llama")
    files = dict(Repo.of_folder(folder).files)
    files |= dict.fromkeys((*OF_TRAINING, *OF_PROCESSORS), b"{}")
    load = transformers.AutoModelForCausalLM.from_pretrained
    opened = asked(hub, files, lambda folder: load("us/kind", cache_dir=folder), tmp_path / "cache")
    support = {name for name in opened if not name.endswith(".safetensors")}
    assert support == OF_MODELS == chosen(list(files), tokenizer=False) & OF_MODELS


def test_what_an_adapter_asks_for_is_what_its_load_downloads(hub: Hub, tmp_path: Path) -> None:
    base = archs.save(archs.build("llama"), tmp_path / "base")
    files = dict(Repo.of_folder(archs.make_adapter(base, tmp_path / "adapter", str(base))).files)
    files |= dict.fromkeys(("README.md", "optimizer.pt", *OF_TRAINING), b"{}")
    load = transformers.AutoModelForCausalLM.from_pretrained
    opened = asked(hub, files, lambda folder: load("us/kind", cache_dir=folder), tmp_path / "cache")
    hub.requests.clear()
    nbloader.load(base, adapter="us/kind", cache_dir=tmp_path / "other", progress=False, tokenizer=False)
    ours = {name for name in files if any(path.endswith(f"/{name}") for _, path in hub.requests)}
    assert opened == ours == {"adapter_config.json", "adapter_model.safetensors"}


def test_what_code_of_a_checkpoint_asks_for_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    files = dict(Repo.of_folder(archs.with_code(tmp_path / "mine", "needed")).files)
    load = transformers.AutoModel.from_pretrained
    opened = asked(
        hub, files, lambda folder: load("us/kind", cache_dir=folder, trust_remote_code=True), tmp_path / "cache"
    )
    assert any(name.endswith(".py") for name in opened)
    brought = nbloader.download("us/kind", cache_dir=tmp_path / "other", progress=False)
    assert opened <= {path.name for path in brought.iterdir()}


def test_every_name_that_transformers_gives_such_a_file_is_downloaded() -> None:
    """The constants of ``transformers.utils`` name the files that a load may open, beside weights and indices."""
    of_weights = re.compile(r"\.(safetensors|bin|h5|msgpack)$|\.index\.json$")
    names = {
        value
        for name, value in vars(utils).items()
        if re.search(r"(_NAME|_FILE)$", name) and isinstance(value, str) and re.fullmatch(r"[\w-]+(\.[\w-]+)+", value)
    }
    wanted = {name for name in names if not of_weights.search(name)}
    assert len(wanted) >= 8
    assert wanted - chosen(sorted(wanted)) == set()


def test_files_of_other_formats_are_not_downloaded() -> None:
    names = [f"model{ending}" for ending in FOREIGN] + [f"other/tokenizer{ending}" for ending in FOREIGN]
    assert chosen([*names, *OF_TRAINING, "onnx/config.json", ".gitattributes", "LICENSE"]) == set()


def test_without_a_tokenizer_no_vocabulary_is_downloaded() -> None:
    names = ["tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "spiece.model"]
    assert chosen([*names, *OF_PROCESSORS, "tokenizer_config.json", *OF_MODELS], tokenizer=False) == OF_MODELS
