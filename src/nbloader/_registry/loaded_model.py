"""LoadedModel: one model that is loaded, without keeping it alive."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nbloader._options.options import LoadOptions
from nbloader._registry.identity import place_of
from nbloader._registry.job import Job
from nbloader._registry.model_state import ModelState, first_change

if TYPE_CHECKING:
    from nbloader._planning.plan import LoadPlan
    from nbloader._progress.state import LoadState


@dataclass(eq=False)
class LoadedModel:
    """A model that is loaded: `nbloader.loaded` returns them.

    ::

        for entry in nbloader.loaded():
            print(entry.name, entry.bytes)

    `options` are those that it was loaded with, and `commit` that of its repository; `model` is None once it is gone.
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
    state: LoadState | None = field(repr=False, default=None)
    """How its load went; None until that has ended."""

    @property
    def model(self) -> Any:
        """The model itself."""
        return self._model()

    @property
    def change(self) -> str:
        """What of the model is not as it was loaded: the name of a module or tensor; empty where all is."""
        model = self.model
        return "" if model is None else first_change(self._loaded_as, model)

    @property
    def place(self) -> str:
        """The folder or repository that it was loaded from."""
        return str(self.identity[0])

    @property
    def bytes(self) -> int:
        """What its parameters and buffers take."""
        return int(self.summary["bytes"])

    def matches(self, model: Any) -> bool:
        """Return whether this is the model that somebody means: by itself, by its job, by its place or by its name."""
        if isinstance(model, (str, os.PathLike)):
            return place_of(model) in (self.name, self.place)
        return model is self or model in self._jobs or model is self.model
