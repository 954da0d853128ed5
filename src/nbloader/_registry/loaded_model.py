"""LoadedModel: a record of one loaded model, which does not keep the model alive."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from nbloader._options.options import LoadOptions
from nbloader._registry.identity import place_of
from nbloader._registry.job import Job
from nbloader._registry.model_state import ModelState, first_change

if TYPE_CHECKING:
    from nbloader._planning.load_plan import LoadPlan
    from nbloader._progress.state import LoadState


@dataclass(eq=False)
class LoadedModel:
    """A loaded model, as `nbloader.loaded` returns it.

    ::

        for entry in nbloader.loaded():
            print(entry.name, entry.bytes)

    `options` are the options that it was loaded with, and `commit` is the commit of its repository. `since` is when it
    was loaded, in local time. `model` is None once the model is freed.
    """

    name: str
    summary: Mapping[str, Any] = field(repr=False)
    options: LoadOptions = field(repr=False)
    commit: str | None
    identity: Any = field(repr=False)
    plan: LoadPlan | None = field(repr=False)
    tokenizer: Any = field(repr=False)
    _model: weakref.ref[Any] = field(repr=False)
    _loaded_as: ModelState = field(repr=False)
    _jobs: weakref.WeakSet[Job] = field(repr=False, default_factory=weakref.WeakSet)
    since: datetime = field(repr=False, default_factory=datetime.now)
    state: LoadState | None = field(repr=False, default=None)
    """The final state of its load; None until the load has ended."""

    @property
    def model(self) -> Any:
        """The model itself."""
        return self._model()

    @property
    def change(self) -> str:
        """The name of a module or tensor that has changed since the model was loaded; empty if none has."""
        model = self.model
        return "" if model is None else first_change(self._loaded_as, model)

    @property
    def place(self) -> str:
        """The folder or repository that it was loaded from."""
        return str(self.identity[0])

    @property
    def bytes(self) -> int:
        """Bytes that its parameters and buffers take."""
        return int(self.summary["bytes"])

    def matches(self, model: Any) -> bool:
        """Return whether `model` means this model: the model itself, this entry, its job, its place or its name."""
        if isinstance(model, (str, os.PathLike)):
            return place_of(model) in (self.name, self.place)
        return model is self or model in self._jobs or model is self.model
