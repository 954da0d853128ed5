"""The identity of a request for a model, and the identity of a model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from nbloader._checkpoint.adapter import adapter_state
from nbloader._checkpoint.source import DEMO, state_of
from nbloader._options.options import ROWS, LoadOptions
from nbloader._registry.job import Job

if TYPE_CHECKING:
    from nbloader._checkpoint.source import Source


_NEUTRAL: Mapping[str, Any] = {
    option.name: option.default
    for option in fields(LoadOptions)
    if option.name in ROWS and not ROWS[option.name].makes_another
}
"""Options that change how a model is loaded, but not the model itself."""


def are_alike(one: Job, other: Job) -> bool:
    """Return whether two jobs have the same request."""
    return are_same(request_of(one), request_of(other))


def place_of(model: Any) -> str:
    """Return a model's name, normalized so that equal places have equal names."""
    place = os.path.expanduser(os.fspath(model)) if isinstance(model, (str, os.PathLike)) else repr(model)
    return os.path.realpath(place) if place != DEMO and os.path.isdir(place) else place


def request_of(job: Job) -> tuple[str, LoadOptions, bool]:
    """Return the request of a job: the place of its model, the options that change the model, and whether to load."""
    return place_of(job.model), _effective(job.options), job._download_only


def make_same(one: LoadOptions, other: LoadOptions) -> bool:
    """Return whether two sets of options make the same model of a checkpoint."""
    return are_same(_effective(one), _effective(other))


def _effective(options: LoadOptions) -> LoadOptions:
    """Return the options, with those that do not change the model reset to their defaults."""
    on_cpu: Mapping[str, Any] = {"device": None, "device_map": None} if options.placement == "cpu" else {}
    return replace(options, **_NEUTRAL, **on_cpu)


def identity_of(source: Source, options: LoadOptions) -> tuple[Any, ...]:
    """Return the identity of a model: the place and the state of its files, and the options."""
    effective = _effective(options)
    adapter = adapter_state(options)
    if source.repository is not None:
        return source.repository.repo_id, source.commit, adapter, replace(effective, revision=None)
    folder = source.root(options)
    return os.path.realpath(folder), state_of(folder, options.subfolder), adapter, effective


def are_same(one: Any, other: Any) -> bool:
    """Return whether two values are equal; values that cannot be compared are not equal."""
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - values of extra= may be anything, and may fail to compare
        return False
