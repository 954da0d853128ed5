"""Stage "download": bring what the load needs into the cache, and read the headers of what is there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from nbloader import _events as events
from nbloader import _hub, _transformers
from nbloader._checkpoint import (
    CONFIG,
    OTHER_FORMATS,
    Checkpoint,
    choose_weights,
    read_checkpoint,
    read_config,
    read_weight_map,
)
from nbloader._errors import CheckpointError
from nbloader._options import LoadOptions
from nbloader._plan import LoadPlan, make_plan
from nbloader._reporter import Reporter
from nbloader._source import Source

_WEIGHT_ENDINGS = (*OTHER_FORMATS, ".safetensors", ".bin", ".pt", ".msgpack", ".npz")
_NOT_NEEDED = (".md", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".pdf", ".mp4", ".wav", ".py", ".gitattributes")
_TEMPLATES = "additional_chat_templates"
_TOKENIZER = "tokenizer_config.json"


def fetch(source: Source, options: LoadOptions, reporter: Reporter) -> tuple[Checkpoint, LoadPlan]:
    """Return the checkpoint, all of it on this machine, and the plan of its load.

    Raises
    ------
    DownloadError
        Where the Hub refuses or the connection fails.
    CheckpointError
        Where the files are incomplete or broken.
    """
    with reporter.stage("download") as note:
        repository = source.repository
        if repository is not None and repository.files is not None:
            note.detail = _download(repository, repository.files, options, reporter)
        checkpoint = read_checkpoint(source.root(options) / options.subfolder)
        plan = make_plan(checkpoint, options)
        sizes = zip(checkpoint.shards, plan.bytes_to_place, strict=True)
        shards = tuple((shard.name, shard.bytes, to_place) for shard, to_place in sizes)
        reporter.tell(events.ShardsFound, shards, plan.copies)
    return checkpoint, plan


def _download(repository: _hub.Repository, files: Mapping[str, int], options: LoadOptions, reporter: Reporter) -> str:
    prefix = f"{options.subfolder.strip('/')}/" if options.subfolder else ""
    config = _check_config(repository, prefix, options, reporter)
    here = {name.removeprefix(prefix) for name in files if name.startswith(prefix)}
    weights = choose_weights(here, config, Path(repository.repo_id))
    if weights is None:
        raise CheckpointError(
            f"{repository.repo_id} has no weights that transformers can load{f' in {prefix}' if prefix else ''}.",
            "nbloader loads safetensors and .bin checkpoints; look for another repository of the model.",
        )
    _, entry = weights
    if entry.endswith(".json"):
        _hub.download(repository, [prefix + entry], options, lambda size: None, reporter.check_cancelled)
        index = _hub.cached_file(repository.repo_id, repository.commit, prefix + entry, options)
        shards = sorted(set(read_weight_map(index).values())) if index is not None else []
    else:
        shards = [entry]
    absent = [name for name in shards if name not in here]
    if absent:
        raise CheckpointError(
            f"{repository.repo_id} lacks {len(absent)} file(s) that {entry} names: {', '.join(absent[:3])}.",
            "The repository is incomplete: tell its authors, or try another revision=.",
        )
    reporter.tell(events.ShardsFound, tuple((name, files[prefix + name], files[prefix + name]) for name in shards))
    wanted = [prefix + name for name in (*shards, *_support_files(here))]
    if prefix:
        wanted += [name for name in _support_files(set(files)) if name not in wanted]
    missing = [
        name for name in wanted if _hub.cached_file(repository.repo_id, repository.commit, name, options) is None
    ]
    total = sum(files[name] for name in missing)
    reporter.tell(events.DownloadPlanned, total)
    tally = reporter.tally(lambda t, _, size: events.Downloaded(t, size), total)
    _hub.download(repository, missing, options, lambda size: tally.add(0, size), reporter.check_cancelled)
    tally.flush()
    return f"{len(missing)} of {len(wanted)} files" if missing else "all cached"


def _check_config(
    repository: _hub.Repository, prefix: str, options: LoadOptions, reporter: Reporter
) -> Mapping[str, Any]:
    """Return the config, looked at before gigabytes are fetched that would be of no use."""
    if prefix + CONFIG in (repository.files or ()):
        _hub.download(repository, [prefix + CONFIG], options, lambda size: None, reporter.check_cancelled)
    folder = _hub.snapshot_folder(repository.repo_id, repository.commit, options) / prefix
    config = read_config(folder)
    _transformers.check_architecture(folder, config)
    return config


def _support_files(names: Collection[str]) -> list[str]:
    """Return the names that are neither weights nor pictures nor pages: config, tokenizer, processor, templates."""
    # Some processors keep a second tokenizer in a folder of its own.
    folders = {".", _TEMPLATES} | {str(PurePosixPath(name).parent) for name in names if name.endswith(_TOKENIZER)}
    return sorted(
        name
        for name in names
        if str(PurePosixPath(name).parent) in folders
        and len(PurePosixPath(name).parts) <= 2
        and not name.lower().endswith((*_WEIGHT_ENDINGS, *_NOT_NEEDED))
    )
