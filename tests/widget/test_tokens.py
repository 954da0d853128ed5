"""A token is in no log, error, state, saved notebook, history or file of ours, however a load goes."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from support.hub import Hub, Repo
from support.waiting import wait_for

import nbloader
from nbloader import LoadCancelled, LoadError, LoaderWidget
from nbloader._views.saved import panel_html
from nbloader._views.view import view_of

TOKEN = "hf_ThisIsVerySecret"
SHARD = "model-00002-of-00004.safetensors"


def whole(hub: Hub, folder: Path) -> None:
    hub.repos["us/demo"] = Repo.of_folder(folder, token=TOKEN)


def echoing(hub: Hub, folder: Path) -> None:
    hub.repos["us/demo"] = Repo.of_folder(folder, broken=400, echoes=True)


def gated(hub: Hub, folder: Path) -> None:
    hub.repos["us/demo"] = Repo.of_folder(folder, token="another", gated=True)


def private(hub: Hub, folder: Path) -> None:
    hub.repos["us/demo"] = Repo.of_folder(folder, token="another")


def breaking(hub: Hub, folder: Path) -> None:
    hub.repos["us/demo"] = Repo.of_folder(folder, faults={SHARD: ["wrong"]})


def stalling(hub: Hub, folder: Path) -> None:
    hub.repos["us/demo"] = Repo.of_folder(folder, stall=SHARD)


def repeating(hub: Hub, folder: Path) -> None:
    """Have the token in whatever a Hub can put into its answers: names of files, texts of configs and indexes."""
    repo = hub.repos["us/demo"] = Repo.of_folder(folder)
    config, index = json.loads(repo.files["config.json"]), json.loads(repo.files["model.safetensors.index.json"])
    config |= {"architectures": [TOKEN], "model_type": TOKEN, "auto_map": {"AutoConfig": f"{TOKEN}--a.B"}}
    config |= {"quantization_config": {"quant_method": TOKEN}}
    index["weight_map"] = {key: f"{TOKEN}-{name}" for key, name in index["weight_map"].items()}
    named = {f"{TOKEN}-{name}": content for name, content in repo.files.items() if name.endswith(".safetensors")}
    repo.files = {
        **{name: content for name, content in repo.files.items() if not name.endswith(".safetensors")},
        **named,
        "config.json": json.dumps(config).encode(),
        "model.safetensors.index.json": json.dumps(index).encode(),
        f"{TOKEN}.gguf": b"GGUF",
        f"{TOKEN}/tokenizer.json": b"{}",
    }


def lacking(hub: Hub, folder: Path) -> None:
    """Have an index name, by the token, shards that are not there."""
    repeating(hub, folder)
    repo = hub.repos["us/demo"]
    repo.files = {name: content for name, content in repo.files.items() if not name.endswith(".safetensors")}


def unlike(hub: Hub, folder: Path) -> None:
    """Have it in the header of a weight file, as a type and as a name."""
    repo = hub.repos["us/demo"] = Repo.of_folder(folder)
    header = json.dumps({TOKEN: {"dtype": TOKEN, "shape": [1], "data_offsets": [0, 4]}}).encode()
    content = len(header).to_bytes(8, "little") + header + b"\0" * 4
    others = {name: each for name, each in repo.files.items() if "safetensors" not in name}
    repo.files = {**others, "model.safetensors": content}


SERVED = [whole, echoing, gated, private, breaking, stalling, repeating, lacking, unlike]


@pytest.mark.parametrize("given", ["token", "HF_TOKEN"])
@pytest.mark.parametrize("serve", SERVED)
def test_a_token_is_nowhere(
    serve: Callable[[Hub, Path], None],
    given: str,
    hub: Hub,
    demo_small: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("DEBUG", logger="nbloader")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    serve(hub, demo_small)
    if given == "HF_TOKEN":
        monkeypatch.setenv("HF_TOKEN", TOKEN)
    choices = {"cache_dir": str(tmp_path / "cache"), "token": f" {TOKEN}\n" if given == "token" else None}
    widget = LoaderWidget("us/demo", **choices)
    widget._repr_mimebundle_()
    widget.load()
    told = [caplog.text]
    if serve is stalling:
        assert hub.repos["us/demo"].stalled.wait(30)
        wait_for(lambda: bool(list((tmp_path / "state").rglob("*.json"))))  # a sign of life
        told += [path.read_text() for path in (tmp_path / "state").rglob("*.json")]
        widget.cancel()
    try:
        widget.result(60)
    except (LoadError, LoadCancelled) as error:
        told += [repr(error), str(error), getattr(error, "details", ""), "".join(traceback.format_exception(error))]
    hub.repos["us/demo"].release.set()
    assert widget.job is not None
    try:
        told += [repr(nbloader.plan("us/demo", **choices))]
    except LoadError as error:
        told += [repr(error), str(error), error.details, "".join(traceback.format_exception(error))]
    told += [repr(widget), repr(widget.job.options), repr(widget.job.events), repr(widget.state)]
    told += [repr(view_of(widget.state)), repr(widget.get_state()), repr(widget._form), repr(widget.history)]
    told += [caplog.text, *capfd.readouterr()]
    told += [path.read_text() for path in (tmp_path / "state").rglob("*") if path.is_file()]
    told += [panel_html(widget.get_state(), "en", "anchor")]
    if serve not in (repeating, lacking, unlike):  # of which the user wants the files, as they are named
        told += [path.name for path in tmp_path.rglob("*")]
        told += [path.read_text() for path in (tmp_path / "cache").rglob("*.json") if path.stat().st_size < 1 << 20]
    assert widget.state.status == {whole: "ready", stalling: "cancelled"}.get(serve, "failed")
    assert not [text for text in told if TOKEN in text]
    assert given == "HF_TOKEN" or TOKEN not in repr(dict(os.environ))


def test_what_a_library_repeats_is_hidden(demo_small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def repeat(*_: object, **__: object) -> None:
        raise ValueError(f"Illegal header value b'Bearer {TOKEN}'")

    monkeypatch.setattr("nbloader._load.stages.tokenizer.load_tokenizer", repeat)
    widget = LoaderWidget(demo_small, token=TOKEN, reload=True)
    with pytest.raises(LoadError, match="Illegal header value") as info:
        widget.result()
    assert TOKEN not in str(info.value) + info.value.details
