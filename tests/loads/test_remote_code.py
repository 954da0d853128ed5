"""Python code that a checkpoint brings: it runs where somebody has allowed it, and nowhere else."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import transformers
from support import archs
from support.hub import Hub, Repo

import nbloader
from nbloader import LoadJob, LoadOptions, RemoteCodeError
from nbloader._checkpoint import code as _code
from nbloader._errors import CheckpointError, LoadCancelled, LoadError
from nbloader._progress.events import Asked, StageStarted


def load(model: object, **choices: Any) -> Any:
    return nbloader.load(model, progress=False, **choices).model  # type: ignore[arg-type]


def test_it_is_refused_with_its_files_and_how_to_allow_it(tmp_path: Path) -> None:
    folder = archs.with_code(tmp_path / "mine", "refused")
    with pytest.raises(RemoteCodeError, match="loads only by running Python code") as raised:
        load(folder)
    error = raised.value
    assert error.files == (str(folder / "configuration_mine.py"), str(folder / "modeling_mine.py"))
    assert error.files[1] in error.message
    assert error.files[1] not in error.reason
    assert f"trust_remote_code={error.commit!r}" in error.hint
    assert load(folder, trust_remote_code=True).ran
    assert load(folder, **error.suggestions[0]).ran
    (folder / "modeling_mine.py").write_text(archs.MODELING + "# changed")
    with pytest.raises(RemoteCodeError, match=f"trust_remote_code= allows only {error.commit}"):
        load(folder, **error.suggestions[0])


def test_a_repository_s_code_is_allowed_for_one_commit(hub: Hub, tmp_path: Path) -> None:
    folder = archs.with_code(tmp_path / "mine", "repository")
    repo = hub.repos["us/mine"] = Repo.of_folder(folder)
    choices = {"cache_dir": tmp_path / "cache"}
    with pytest.raises(RemoteCodeError) as raised:
        load("us/mine", **choices)
    error = raised.value
    assert error.commit == repo.commit
    assert error.files[1] == f"{hub.url}/us/mine/blob/{repo.commit}/modeling_mine.py"
    assert not list((tmp_path / "cache").rglob("*.py"))
    assert load("us/mine", **choices, trust_remote_code=repo.commit).ran
    assert load("us/mine", **choices, trust_remote_code=repo.commit, local_files_only=True).ran
    repo.files = {**repo.files, "modeling_mine.py": archs.MODELING.encode() + b"# changed"}
    with pytest.raises(RemoteCodeError, match="trust_remote_code= allows only"):
        load("us/mine", **choices, trust_remote_code=error.commit)
    assert load("us/mine", **choices, trust_remote_code=repo.commit).ran


def test_code_in_another_repository_never_runs(tmp_path: Path) -> None:
    folder = archs.with_code(tmp_path / "mine", "elsewhere", {"AutoConfig": "they/code--configuration_mine.MineConfig"})
    for choices in ({}, {"trust_remote_code": True}):
        with pytest.raises(CheckpointError, match="is in another repository: they/code"):
            load(folder, **choices)


def test_a_tokenizer_s_code_is_asked_for_too(tmp_path: Path) -> None:
    folder = archs.save(archs.build("llama"), tmp_path / "mine")
    (folder / "tokenization_mine.py").write_text("raise SystemExit('ran')")
    settings = {"tokenizer_class": "MineTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_mine.Mine", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(RemoteCodeError, match=r"tokenization_mine\.py"):
        load(folder)


CLASSES = "open({marker!r}, 'w').close()\nfrom transformers import LlamaTokenizer\nclass Mine(LlamaTokenizer): pass\n"
MAKERS: dict[str, tuple[str, dict[str, Any]]] = {
    "tokenizer": ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["mine.Mine", None]}}),
    "fast tokenizer": ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, "mine.Mine"]}}),
    "processor": ("processor_config.json", {"auto_map": {"AutoProcessor": "mine.Mine"}}),
    "image processor": (
        "preprocessor_config.json",
        {"image_processor_type": "Mine", "auto_map": {"AutoImageProcessor": "mine.Mine"}},
    ),
    "feature extractor": (
        "preprocessor_config.json",
        {"feature_extractor_type": "Mine", "auto_map": {"AutoFeatureExtractor": "mine.Mine"}},
    ),
    "known tokenizer": (
        "tokenizer_config.json",
        {"tokenizer_class": "LlamaTokenizer", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}},
    ),
    "video processor": ("video_preprocessor_config.json", {"auto_map": {"AutoVideoProcessor": "mine.Mine"}}),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_no_code_of_a_tokenizer_or_processor_runs_unasked(kind: str, tmp_path: Path) -> None:
    folder = archs.save(archs.build("llama"), tmp_path / "mine")
    name, settings = MAKERS[kind]
    (folder / "mine.py").write_text(CLASSES.format(marker=str(tmp_path / "ran")))
    own_class = {"tokenizer_class": "Mine"} if "tokenizer_config" in name else {"processor_class": "Mine"}
    (folder / name).write_text(json.dumps(own_class | settings))
    expected = {"known tokenizer": nullcontext(), "video processor": nullcontext()}
    with expected.get(kind, pytest.raises(RemoteCodeError)):
        load(folder)
    if kind == "video processor":
        with pytest.raises(CheckpointError):
            load(folder, tokenizer=True, reload=True)
    assert not (tmp_path / "ran").exists()


def test_no_code_of_an_adapter_runs(tmp_path: Path) -> None:
    base = archs.save(archs.build("llama"), tmp_path / "base")
    folder = tmp_path / "lora"
    folder.mkdir()
    code = CLASSES.format(marker=str(tmp_path / "ran"))
    (folder / "mine.py").write_text(code)
    auto = {"base_model_class": "Mine", "parent_library": "mine"}
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], "auto_mapping": auto}
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(base)}))

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (exec, (code,))

    import torch

    torch.save({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": Evil()}, folder / "adapter_model.bin")
    with pytest.raises(LoadError):
        load(base, adapter=str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "a_part"])
def test_attention_from_another_repository_is_not_fetched_unasked(key: str, tmp_path: Path) -> None:
    folder = archs.save(archs.build("llama"), tmp_path / "mine")
    config = json.loads((folder / "config.json").read_text())
    named: Any = "they/kernel@main:forward" if key != "a_part" else {"attn_implementation": {"": "they/kernel"}}
    (folder / "config.json").write_text(json.dumps(config | {key: named}))
    with pytest.raises(CheckpointError, match="is in another repository: they/kernel"):
        load(folder)
    with pytest.raises(CheckpointError, match="is in another repository"):
        load(folder, trust_remote_code=True)
    assert load(folder, attn_implementation="sdpa").config._attn_implementation == "sdpa"


def test_code_of_a_known_architecture_is_left_alone(tmp_path: Path) -> None:
    folder = archs.with_code(tmp_path / "mine", "known")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    assert type(load(folder)).__name__ == "LlamaForCausalLM"


def test_somebody_who_is_there_is_asked(tmp_path: Path) -> None:
    folder = archs.with_code(tmp_path / "mine", "asked")
    job = LoadJob(folder, LoadOptions(), can_ask=lambda: True)
    asked: list[Asked] = []

    def answer(event: object) -> None:
        if isinstance(event, Asked):
            asked.append(event)
            job.answer(event.choices[0][0])

    job.subscribe(answer)
    assert job.start().result().model.ran
    assert [event.kind for event in asked] == ["RemoteCodeError"]
    assert asked[0].files[1].endswith("modeling_mine.py")
    assert job.state.question is None
    assert job.options.trust_remote_code == asked[0].choices[0][0]["trust_remote_code"]


def test_a_question_can_be_cancelled(tmp_path: Path) -> None:
    job = LoadJob(archs.with_code(tmp_path / "mine", "cancelled"), LoadOptions(), can_ask=lambda: True)
    job.subscribe(lambda event: job.cancel() if isinstance(event, Asked) else None)
    with pytest.raises(LoadCancelled):
        job.start().result()
    assert job.state.question is None


def changing(path: Path, stage: str, content: str, job: LoadJob) -> None:
    """Have a file changed when a stage of a load begins."""

    def change(event: object) -> None:
        if isinstance(event, StageStarted) and event.stage == stage:
            path.write_text(content)

    job.subscribe(change)


def test_code_behind_a_link_is_shown_and_hashed(tmp_path: Path) -> None:
    folder = archs.with_code(tmp_path / "mine", "linked", linked=tmp_path / "elsewhere")
    with pytest.raises(RemoteCodeError) as raised:
        load(folder)
    assert raised.value.files == (f"{folder}/code/configuration_mine.py", f"{folder}/code/modeling_mine.py")
    assert load(folder, **raised.value.suggestions[0]).ran
    (tmp_path / "elsewhere" / "modeling_mine.py").write_text(archs.MODELING + "# changed")
    with pytest.raises(RemoteCodeError, match="trust_remote_code= allows only"):
        load(folder, **raised.value.suggestions[0])


@pytest.mark.parametrize("stage", ["tokenizer", "config", "weights"])
@pytest.mark.parametrize("name", ["configuration_mine.py", "modeling_mine.py"])
def test_what_runs_is_what_was_allowed_whatever_the_files_become(name: str, stage: str, tmp_path: Path) -> None:
    folder = archs.with_code(tmp_path / "mine", f"changes-{stage}-{name[:3]}")
    with pytest.raises(RemoteCodeError) as raised:
        load(folder)
    job = LoadJob(folder, LoadOptions(**raised.value.suggestions[0]))
    changing(folder / name, stage, f"open({str(tmp_path / 'ran')!r}, 'w')\n" + (folder / name).read_text(), job)
    with suppress(LoadError):  # a load of two states of the files says so
        job.start().result()
    assert "open(" in (folder / name).read_text()
    assert not (tmp_path / "ran").exists()


def test_code_that_changes_while_somebody_reads_it_is_asked_for_again(tmp_path: Path) -> None:
    folder = archs.with_code(tmp_path / "mine", "meanwhile")
    job = LoadJob(folder, LoadOptions(), can_ask=lambda: True)
    asked: list[Asked] = []

    def answer(event: object) -> None:
        if isinstance(event, Asked):
            asked.append(event)
            if len(asked) == 1:
                (folder / "modeling_mine.py").write_text(archs.MODELING + "# changed")
            job.answer(event.choices[0][0], event.number)

    job.subscribe(answer)
    assert job.start().result().model.ran
    assert [event.number for event in asked] == [1, 2]


@pytest.mark.parametrize("consent", [False, True])
@pytest.mark.parametrize("what", ["fifo", "dangling", "much", "many"])
def test_what_cannot_be_listed_whole_is_not_asked_for(
    what: str, consent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = archs.with_code(tmp_path / "mine", f"unlisted-{what}")
    if what == "fifo":
        os.mkfifo(folder / "more.py")
    elif what == "dangling":
        (folder / "more.py").symlink_to(folder / "nowhere")
    else:
        monkeypatch.setattr(_code, "_MOST_BYTES" if what == "much" else "_MOST_FILES", 1)
    with pytest.raises(CheckpointError, match="cannot list all") as raised:
        load(folder, trust_remote_code=consent)
    assert not isinstance(raised.value, RemoteCodeError)


def test_links_in_a_circle_are_followed_once(tmp_path: Path) -> None:
    folder = archs.with_code(tmp_path / "mine", "circle")
    (folder / "again").symlink_to(folder)
    assert set(_code.read_code(folder).content) == {"configuration_mine.py", "modeling_mine.py"}
    assert load(folder, trust_remote_code=True).ran


def test_code_that_is_not_there_is_not_asked_for(tmp_path: Path) -> None:
    folder = archs.with_code(tmp_path / "mine", "absent")
    for path in folder.glob("*.py"):
        path.unlink()
    for consent in (False, True):
        with pytest.raises(CheckpointError) as raised:
            load(folder, trust_remote_code=consent)
        assert not isinstance(raised.value, RemoteCodeError)


@pytest.mark.parametrize("offline", [False, True])
def test_cached_code_is_that_of_its_commit_or_does_not_run(offline: bool, hub: Hub, tmp_path: Path) -> None:
    repo = hub.repos["us/mine"] = Repo.of_folder(archs.with_code(tmp_path / "mine", f"cached-{offline}"))
    choices = {"cache_dir": tmp_path / "cache", "trust_remote_code": repo.commit}
    assert load("us/mine", **choices).ran
    cached = next((tmp_path / "cache").rglob("modeling_mine.py"))
    cached.resolve().write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + archs.MODELING)
    with pytest.raises(CheckpointError, match="differs from the repository's file at this commit"):
        load("us/mine", **choices, local_files_only=offline, reload=True)
    assert not (tmp_path / "ran").exists()


def test_the_modules_have_the_names_that_plain_loading_gives_them(tmp_path: Path) -> None:
    folder = archs.with_code(tmp_path / "mine", "named")
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    model = load(folder, trust_remote_code=True)
    assert type(model) is type(plain)
    assert not list(Path(tempfile.gettempdir()).glob("nbloader-code-*"))
