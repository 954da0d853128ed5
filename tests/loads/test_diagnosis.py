"""Why a load took as long as it did: real loads, each made slow in one way, and told so first."""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.hub import Hub, Repo
from support.page_cache import make_cold
from support.pickles import as_pickle
from support.slow_storage import SlowStorage

import nbloader
from nbloader import Diagnosis, LoadError, LoadJob, LoadOptions, _cli
from nbloader._analysis import diagnose, remedies
from nbloader._analysis.remedies import Measured, diagnosis_of
from nbloader._checkpoint.checkpoint import read_checkpoint
from nbloader._planning.plan import make_plan
from nbloader._progress import events
from nbloader._progress.fold import fold
from nbloader._system.probe import Probe
from nbloader._system.storage import Storage, find_storage
from nbloader._text.catalogue import text

MB = 10**6


def loaded(model: Any, **choices: Any) -> Diagnosis:
    job = nbloader.start(model, reload=True, **choices)
    job.result()
    return nbloader.diagnose(job)


def first(told: Diagnosis) -> str:
    return told.remedies[0].code if told.remedies else "nothing"


@pytest.fixture(autouse=True, scope="module")
def _imported(demo_small: Path) -> None:
    """Have the libraries imported: storage is read while they are, and would not be waited for."""
    nbloader.load(demo_small, progress=False)
    nbloader.unload()


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, Path]]:
    """The other disks of the machine: none, but for what a test puts here."""
    found: list[tuple[Path, Path]] = []
    monkeypatch.setattr(diagnose, "find_places", lambda path, least: iter(found))
    return found


@pytest.fixture
def _small_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every remedy be worth telling: what takes seconds of a real model takes a few ms of a small one."""
    monkeypatch.setattr(remedies, "_WORTH_SECONDS", 0.001)
    monkeypatch.setattr(remedies, "_WORTH_SHARE", 0)


@pytest.fixture(scope="module")
def pickled(demo_1gb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_pickle(demo_1gb, tmp_path_factory.mktemp("pickled"), is_zip=False)


@pytest.fixture
def small(demo_small: Path, tmp_path: Path) -> Path:
    """A copy of the small demo checkpoint, to be cold and slow."""
    return Path(shutil.copytree(demo_small, tmp_path / "small"))


def test_the_parts_add_up_to_the_whole(demo_1gb: Path) -> None:
    told = loaded(demo_1gb, dtype="float32")
    assert told.seconds is not None
    assert sum(told.parts.values()) == pytest.approx(told.seconds, rel=0.03)
    assert set(told.parts) <= set(events.PARTS)
    assert max(told.parts, key=lambda part: told.parts[part]) == "cast"


def test_a_warm_load_of_safetensors_is_healthy(demo_1gb: Path) -> None:
    loaded(demo_1gb)
    told = loaded(demo_1gb)
    assert first(told) == "nothing"
    assert told.resident > 0.98 * told.bytes
    assert "in memory" in told.verdict
    largest = text("part", max(told.parts, key=lambda part: told.parts[part]))
    assert re.search(rf"Largest part: {largest} \(\d+ % of the time\)\.$", told.verdict)
    assert told.facts["types"] == "bfloat16 1.00 GB"


@pytest.mark.usefixtures("_small_counts")
def test_a_needless_cast(demo_1gb: Path) -> None:
    told = loaded(demo_1gb, dtype="float32")
    assert first(told) == "dtype"
    assert "bfloat16" in told.verdict
    assert told.remedies[0].seconds == pytest.approx(told.parts["cast"])
    assert f'w = LoaderWidget("{demo_1gb}").show()' in told.remedies[0].lines.splitlines()


@pytest.mark.usefixtures("_small_counts")
def test_a_cast_to_less_is_worth_saving(demo_1gb: Path) -> None:
    told = loaded(demo_1gb, dtype="float16")
    assert first(told) == "save"
    assert "save_pretrained" in told.remedies[0].lines


@pytest.mark.usefixtures("_small_counts")
def test_pickles_without_safetensors(pickled: Path) -> None:
    told = loaded(pickled)
    assert (first(told), told.format, told.files) == ("convert", "bin", ("pytorch_model.bin",))
    assert told.remedies[0].seconds == pytest.approx(told.parts["unpickle"])
    assert told.remedies[0].lines == f"nbloader convert {pickled}"


def test_a_cast_of_pickles_without_a_header(pickled: Path) -> None:
    told = loaded(pickled, dtype="float32")
    assert told.parts["cast"] > told.parts["other"]
    assert "cast" not in loaded(pickled).parts


@pytest.mark.usefixtures("_small_counts")
def test_pickles_of_a_repository_that_has_safetensors(hub: Hub, small: Path, demo_small: Path) -> None:
    hub.repos["test/both"] = Repo.of_folder(as_pickle(demo_small, small, is_zip=False))
    loaded("test/both", use_safetensors=False)  # brings them
    told = loaded("test/both", use_safetensors=False)
    assert (first(told), told.format) == ("safetensors", "bin")
    assert "19.4 MB" in told.verdict


@pytest.mark.usefixtures("_small_counts")
def test_pickles_in_the_cache_of_a_repository_that_has_safetensors_by_now(
    hub: Hub, small: Path, demo_small: Path
) -> None:
    whole = Repo.of_folder(as_pickle(demo_small, small, is_zip=False))
    hub.repos["test/late"] = Repo({name: data for name, data in whole.files.items() if "safetensors" not in name})
    nbloader.load("test/late", progress=False)
    hub.repos["test/late"].broken = 503
    job = nbloader.start("test/late", reload=True)
    job.result()
    hub.repos["test/late"] = whole
    told = nbloader.diagnose(job)
    assert (first(told), told.format) == ("safetensors", "bin")


def test_slow_storage_where_another_is_faster(
    small: Path, demo_1gb: Path, tmp_path: Path, places: list[tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    places.append((tmp_path / "fast", demo_1gb / "model-00001-of-00004.safetensors"))
    make_cold(small)
    SlowStorage(monkeypatch, small, rate=20 * MB)
    told = loaded(small)
    assert first(told) == "move"
    assert told.rate == pytest.approx(20 * MB, rel=0.5)  # what is read counts before this storage has let go of it
    assert told.probe is not None
    assert told.probe.rate == pytest.approx(20 * MB, rel=0.25)
    assert f"{tmp_path / 'fast' / 'small'}" in told.remedies[0].lines
    assert str(tmp_path / "fast") in told.verdict


def test_slow_storage_where_nothing_is_faster(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cold(small)
    SlowStorage(monkeypatch, small, rate=20 * MB)
    told = loaded(small)
    assert first(told) == "nothing"
    assert told.probe is not None
    assert "at 90 % of what this storage delivers" in replace(told, rate=0.9 * told.probe.rate).verdict
    assert "Nothing found" in replace(told, rate=0.5 * told.probe.rate).verdict


def test_slow_network_storage_where_nothing_is_faster(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnose, "find_storage", lambda path: replace(find_storage(path), kind="network"))
    make_cold(small)
    SlowStorage(monkeypatch, small, rate=20 * MB)
    told = loaded(small)
    assert first(told) == "warm"
    assert f'nbloader.preload("{small}")' in told.remedies[0].lines


def test_a_disk_that_a_control_group_limits(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnose, "find_storage", lambda path: replace(find_storage(path), limit=20 * MB))
    make_cold(small)
    SlowStorage(monkeypatch, small, rate=20 * MB)
    told = loaded(small)
    assert first(told) == "limit"
    assert "20.0 MB/s" in told.verdict


def test_too_few_readers(
    small: Path, demo_1gb: Path, tmp_path: Path, places: list[tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    places.append((tmp_path / "fast", demo_1gb / "model-00001-of-00004.safetensors"))  # an option comes first
    make_cold(small)
    SlowStorage(monkeypatch, small, rate=1000 * MB, latency=0.02)
    told = loaded(small, readers=1)
    assert first(told) == "readers"
    assert told.remedies[0].seconds > 0.5 * told.parts["storage"]


def test_without_reading_ahead(small: Path) -> None:
    state, plan = ready(small, {"mixed": 9.0}, 0, copies=False)
    measured = Measured(probe=Probe(100 * MB, 1.0, 16))
    told = diagnosis_of(state, plan, LoadOptions(readahead=False), measured)
    assert first(told) == "readahead"
    # Where placing copies as well, how long reading took is not known, and so nothing that would save some of it.
    state, plan = ready(small, {"mixed": 9.0}, 0)
    told = diagnosis_of(state, plan, LoadOptions(readahead=False), measured)
    assert (first(told), told.rate) == ("nothing", None)


def test_what_placing_reads_itself_is_told_apart(small: Path) -> None:
    make_cold(small)
    told = loaded(small, readahead=False)
    assert told.rate == pytest.approx((told.bytes - told.resident) / (told.parts["mixed"] + told.parts["storage"]))


@pytest.mark.parametrize(("waited", "resident", "is_told"), [(0.4, 0.9, False), (4.0, 0.9, True), (0.4, 0.0, True)])
def test_a_little_that_was_read_beside_other_work_tells_no_rate(
    demo_1gb: Path, waited: float, resident: float, is_told: bool
) -> None:
    read = [events.Read(0.1, 0, 10), events.Read(5.0, 0, 10**9)]
    state, plan = ready(demo_1gb, {"storage": waited, "other": 5.0}, int(resident * 250 * MB), *read)
    assert (diagnosis_of(state, plan, LoadOptions(), Measured()).rate is not None) is is_told


def test_a_slow_network(hub: Hub, small: Path) -> None:
    repo = Repo.of_folder(small)
    repo.faults = {name: ["slow"] for name in repo.files if name.endswith(".safetensors")}
    hub.repos["test/slow"] = repo
    told = loaded("test/slow")
    assert first(told) == "download"
    assert told.remedies[0].seconds == pytest.approx(told.parts["download"])


def test_a_tokenizer_that_has_to_be_made(demo_small: Path) -> None:
    state, plan = ready(demo_small, {"tokenizer": 8.0, "other": 1.0})
    told = diagnosis_of(state, plan, LoadOptions(), Measured(tokenizer=0.5))
    assert first(told) == "tokenizer"
    assert told.remedies[0].seconds == pytest.approx(7.5)
    assert told.remedies[0].lines.endswith(f'\ntokenizer.save_pretrained("{demo_small}")')
    # Where the one that is saved takes as long, saving it is no remedy.
    assert first(diagnosis_of(state, plan, LoadOptions(), Measured(tokenizer=7.9))) == "nothing"


def test_a_tokenizer_is_tried_as_it_would_be_saved(demo_small: Path) -> None:
    tokenizer = nbloader.load(demo_small, progress=False).tokenizer
    assert diagnose._try_tokenizer(tokenizer) is not None
    assert diagnose._try_tokenizer(None) is None


def ready(
    folder: Path, spent: dict[str, float], resident: int | None = None, *more: events.Event, copies: bool = True
) -> Any:
    """Return the state and the plan of a load that ended, and took what it `spent`."""
    checkpoint = read_checkpoint(folder)
    plan = make_plan(checkpoint, LoadOptions())
    state = nbloader.LoadState(name=folder.name, origin="folder")
    shards = tuple((shard.name, shard.bytes, shard.bytes) for shard in checkpoint.shards)
    took = sum(spent.values())
    happened = [
        events.Started(0.0),
        events.CheckpointRead(0.0, str(folder), checkpoint.format),
        events.ShardsFound(0.0, shards, copies),
        events.StageStarted(0.0, "weights"),
        *(events.FoundInMemory(0.0, index, shard.bytes if resident is None else resident)
          for index, shard in enumerate(checkpoint.shards)),
        *more,
        events.Spent(took, spent),
        events.Ready(took, {}),
    ]  # fmt: skip
    for event in happened:
        state = fold(state, event)
    return state, replace(plan, available=10**12)


def test_a_cold_import_of_the_libraries(demo_small: Path) -> None:
    state, plan = ready(demo_small, {"imports": 20.0, "other": 1.0}, None, events.Imported(20.0, 16.5))
    told = diagnosis_of(state, plan, LoadOptions(), Measured())
    assert first(told) == "imports"
    assert told.remedies[0].seconds == 16.5
    assert "16.5 s" in told.verdict
    state, plan = ready(demo_small, {"imports": 20.0, "other": 1.0}, None, events.Imported(20.0, 0.0))
    assert first(diagnosis_of(state, plan, LoadOptions(), Measured())) == "nothing"


def test_almost_no_free_memory(demo_small: Path) -> None:
    size = sum(path.stat().st_size for path in demo_small.glob("*.safetensors"))
    log = events.Logged(0.0, "warning", "too_large_to_read_ahead", {"size": "1"})
    state, plan = ready(demo_small, {"storage": 10.0}, 0, log)
    told = diagnosis_of(state, plan, LoadOptions(), Measured(probe=Probe(size, 1.0, 16)))
    assert first(told) == "memory"
    assert told.remedies[0].seconds == pytest.approx(9.0)


def test_remedies_come_by_the_seconds_they_save(demo_small: Path) -> None:
    state, plan = ready(demo_small, {"imports": 9.0, "unpickle": 5.0}, None, events.Imported(9.0, 7.0))
    told = diagnosis_of(state, plan, LoadOptions(), Measured())
    assert [(remedy.code, remedy.seconds) for remedy in told.remedies] == [("imports", 7.0), ("convert", 5.0)]


def test_what_saves_next_to_nothing_is_no_remedy(demo_small: Path) -> None:
    state, plan = ready(demo_small, {"imports": 30.0, "unpickle": 1.0})
    assert diagnosis_of(state, plan, LoadOptions(), Measured()).remedies == ()


def test_before_a_load_storage_is_probed_and_nothing_is_loaded(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cold(small)
    SlowStorage(monkeypatch, small, rate=20 * MB)
    told = nbloader.diagnose(small)
    assert (told.seconds, told.parts, nbloader.loaded()) == (None, {}, [])
    assert told.resident < 0.05 * told.bytes
    assert told.probe is not None
    assert told.probe.rate == pytest.approx(20 * MB, rel=0.25)
    assert "not in memory" in told.verdict
    assert told.facts["memory_now"] == "0 % of the weights"
    # The probe has left what it read where it was.
    assert nbloader.diagnose(small).resident < 0.05 * told.bytes


def test_a_load_that_failed_cannot_be_diagnosed(tmp_path: Path) -> None:
    job = nbloader.start(tmp_path)
    with pytest.raises(LoadError):
        job.result()
    with pytest.raises(LoadError, match="cannot be diagnosed: Failed"):
        nbloader.diagnose(job)


def test_a_load_is_diagnosed_by_its_model_its_job_or_what_has_one(demo_small: Path) -> None:
    job: LoadJob = nbloader.start(demo_small)
    model = job.result().model
    by_job = nbloader.diagnose(job)
    assert by_job.seconds == job.state.elapsed
    assert nbloader.diagnose(model).seconds == by_job.seconds
    assert nbloader.diagnose(str(demo_small)).seconds == by_job.seconds

    class Widget:
        pass

    widget = Widget()
    widget.job = job  # type: ignore[attr-defined]
    assert nbloader.diagnose(widget).seconds == by_job.seconds


def test_a_load_whose_model_was_unloaded_is_diagnosed(demo_small: Path) -> None:
    job = nbloader.start(demo_small, reload=True)
    job.result()
    before = nbloader.diagnose(job)
    nbloader.unload()
    assert nbloader.diagnose(job).parts == before.parts


def test_what_is_no_load_cannot_be_diagnosed(demo_small: Path) -> None:
    with pytest.raises(LoadError, match="LoaderWidget cannot be diagnosed: Not started"):
        nbloader.diagnose(nbloader.LoaderWidget(str(demo_small)))
    model = nbloader.load(demo_small, progress=False).model
    with pytest.raises(LoadError, match="<tuple> is not the name or path of a model"):
        nbloader.diagnose((model, None))


@pytest.fixture(params=["folder", "hub"])
def inner(request: pytest.FixtureRequest, hub: Hub, demo_small: Path, tmp_path: Path) -> Any:
    """What a remedy is for: pickles in a subfolder, of a folder or of a repository in a cache of its own."""
    whole = tmp_path / "whole"
    as_pickle(demo_small, whole / "inner")
    (whole / "inner" / "tokenizer.json").rename(whole / "tokenizer.json")
    (whole / "inner" / "tokenizer.json").symlink_to("../tokenizer.json")
    hub.repos["test/inner"] = Repo.of_folder(whole)
    model = whole if request.param == "folder" else "test/inner"
    choices = {"subfolder": "inner", "dtype": "float16", "cache_dir": str(tmp_path / "cache")}
    job = nbloader.start(model, **choices)
    job.result()
    assert job.state.folder is not None
    return remedies.wanted_of(job.state.origin, job.state.name, job.state.folder, job.options)


def run(lines: str) -> Any:
    """Run the lines of a remedy as they are; return what the widget among them has loaded."""
    if lines.startswith("nbloader "):
        return _cli.run(shlex.split(lines)[1:])
    names: dict[str, Any] = {}
    exec(lines, names)
    if "w" in names:
        names["w"].result()
        return names["w"].job.state
    return None


def test_the_lines_of_a_remedy_run_as_they_are(inner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(inner.show(dtype="auto")).summary["dtype"] == "bfloat16"
    run(inner.preload())
    assert run(inner.saved("float16", with_tokenizer=True)).summary["dtype"] == "float16"
    run(inner.with_tokenizer())
    there = Path(run(inner.moved_to(tmp_path / "fast")).folder)
    assert there.is_relative_to(tmp_path / "fast")
    assert (there / "tokenizer.json").is_file()
    assert run(inner.converted()) == 0
    assert run(inner.show(readers=3)).format == "safetensors"


def explained(job: nbloader.LoadJob, part: str) -> nbloader.Diagnosis:
    """Return what is told of a load that is ready, had one part of it taken long."""
    assert job.plan is not None
    state = fold(replace(job.state, status="running"), events.Spent(job.state.elapsed, {part: 9.0}))
    return diagnosis_of(state, job.plan, job.options, diagnose._measure(state, job.options, None))


def test_safetensors_beside_the_pickles(inner: Any) -> None:
    run(inner.converted())
    job = nbloader.start(inner.model, inner.options, use_safetensors=False)
    job.result()
    told = explained(job, "unpickle")
    assert (first(told), told.format) == ("beside", "bin")
    assert run(told.remedies[0].lines).format == "safetensors"


def test_pickles_that_were_converted_since(inner: Any) -> None:
    job = nbloader.start(inner.model, inner.options, reload=True)
    job.result()
    run(inner.converted())
    told = explained(job, "unpickle")
    assert (first(told), told.format) == ("converted", "bin")
    assert "use_safetensors" not in told.verdict
    nbloader.unload()
    assert run(told.remedies[0].lines).format == "safetensors"


def test_a_model_without_a_tokenizer_is_saved_without_one(
    demo_small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(demo_small, "bare", ignore=shutil.ignore_patterns("tokenizer*")))
    job = nbloader.start(folder, dtype="float16")
    assert job.result().tokenizer is None
    told = explained(job, "cast")
    assert first(told) == "save"
    assert run(told.remedies[0].lines).summary["dtype"] == "float16"


def test_a_variant_cannot_be_converted(demo_small: Path) -> None:
    state, plan = ready(demo_small, {"unpickle": 5.0})
    assert first(diagnosis_of(state, plan, LoadOptions(variant="fp16"), Measured())) == "nothing"


def test_everything_is_said_in_lines(demo_1gb: Path) -> None:
    lines = str(loaded(demo_1gb, dtype="float32")).splitlines()
    assert lines[0].startswith(f"{demo_1gb.name}: Converting bfloat16 to float32 took ")
    assert any(line.strip().startswith("Copying in memory") and line.endswith("%") for line in lines)
    assert any("safetensors, 1.00 GB in 4 file(s)" in line for line in lines)
    assert [line.strip() for line in lines[-2:]] == [
        f'w = LoaderWidget("{demo_1gb}").show()',
        "model, tokenizer = w.result()",
    ]


def test_storage_is_told(tmp_path: Path) -> None:
    storage: Storage = find_storage(tmp_path)
    assert storage.path == tmp_path.resolve()
    assert tmp_path.is_relative_to(storage.mount)
    assert storage.filesystem
    assert storage.free > 0


def test_a_link_is_told(small: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(small)
    told = nbloader.diagnose(link)
    assert told.storage is not None
    assert told.facts["link"] == str(link)
    assert told.facts["path"].startswith(str(small.resolve()))
    assert "link" not in nbloader.diagnose(small).facts


def test_memory_that_is_short_is_told(demo_small: Path) -> None:
    state, plan = ready(demo_small, {"other": 1.0})
    told = diagnosis_of(state, plan, LoadOptions(), Measured(memory_limit=4 * 10**9, memory_pressure=0.25)).facts
    assert (told["memory_limit"], told["pressure"]) == (
        "4.00 GB",
        "processes waited for memory in 25 % of the last minute",
    )
    assert not {"memory_limit", "pressure"} & diagnosis_of(state, plan, LoadOptions(), Measured()).facts.keys()
