"""Holding one model against another: every tensor, what they share, and what is set on them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbloader
from nbloader import LoadPlan


def differences(one: Any, other: Any) -> list[str]:
    """Return in words where two models differ; empty where they are equal.

    Compared are the class, every parameter and buffer (persistent or not) by value, type, shape and device, which of
    them share memory, ``requires_grad``, ``training``, the config and the generation config.
    """
    if type(one) is not type(other):
        return [f"class: {type(one).__name__}, {type(other).__name__}"]
    mine, theirs = _tensors(one), _tensors(other)
    found = tensor_differences(one, other)
    if _sharing(mine) != _sharing(theirs):
        found.append(f"sharing: {_sharing(mine) ^ _sharing(theirs)}")
    if _modes(one) != _modes(other):
        found.append(f"training: {sorted(_modes(one) ^ _modes(other))}")
    for name in ("config", "generation_config"):
        found += [
            f"{name}: {part}" for part in _config_difference(getattr(one, name, None), getattr(other, name, None))
        ]
    return sorted(found)


def assert_whole(job: nbloader.LoadJob, folder: Path) -> None:
    """Assert that a load from the Hub has downloaded everything, and made the model of a folder."""
    plain = nbloader.load(folder, progress=False, keep="all").model
    assert tensor_differences(job.result().model, plain) == []
    assert job.state.bytes_downloaded == job.state.bytes_to_download


def tensor_differences(one: Any, other: Any) -> list[str]:
    """Return in words which parameters and buffers of two models differ."""
    mine, theirs = _tensors(one), _tensors(other)
    found = [f"{name}: only in one" for name in mine.keys() ^ theirs.keys()]
    for name in mine.keys() & theirs.keys():
        reason = _difference(mine[name], theirs[name])
        found += [f"{name}: {reason}"] if reason else []
    return sorted(found)


def without_place(plan: LoadPlan) -> LoadPlan:
    """Return what a plan says of the checkpoint, wherever that is."""
    return replace(plan, bytes_to_download=0, available=None, seconds=None)


def _tensors(model: Any) -> dict[str, Any]:
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _difference(mine: Any, theirs: Any) -> str:
    import torch

    for name in ("dtype", "shape", "device", "requires_grad", "is_leaf", "layout"):
        if getattr(mine, name) != getattr(theirs, name):
            return f"{name} {getattr(mine, name)}, {getattr(theirs, name)}"
    if type(mine) is not type(theirs):
        return f"{type(mine).__name__}, {type(theirs).__name__}"
    if hasattr(mine, "__tensor_flatten__"):  # made of several
        names = mine.__tensor_flatten__()[0]
        found = (_difference(getattr(mine, name), getattr(theirs, name)) for name in names)
        return next(filter(None, found), "")
    if mine.is_meta or torch.equal(mine, theirs):
        return ""
    if mine.is_floating_point() and torch.equal(mine.nan_to_num(0.5), theirs.nan_to_num(0.5)):
        return "" if torch.equal(mine.isnan(), theirs.isnan()) else "nan"
    return "values"


def _sharing(tensors: dict[str, Any]) -> frozenset[frozenset[str]]:
    """Return the sets of names whose tensors begin at the same byte of memory and are the same or views."""
    groups: defaultdict[tuple[int, tuple[int, ...]], set[str]] = defaultdict(set)
    for name, tensor in tensors.items():
        if not tensor.is_meta and tensor.numel():
            groups[tensor.data_ptr(), tuple(tensor.shape)].add(name)
    return frozenset(frozenset(names) for names in groups.values() if len(names) > 1)


def _modes(model: Any) -> frozenset[tuple[str, bool]]:
    return frozenset((name, module.training) for name, module in model.named_modules())


def _config_difference(mine: Any, theirs: Any) -> list[str]:
    if mine is None or theirs is None:
        return [] if mine is theirs else ["only one has it"]
    one, other = mine.to_dict(), theirs.to_dict()
    return [
        f"{name} {one.get(name)!r}, {other.get(name)!r}"
        for name in sorted(one.keys() | other.keys())
        if one.get(name) != other.get(name) and one.get(name) == one.get(name)  # nan is not
    ]
