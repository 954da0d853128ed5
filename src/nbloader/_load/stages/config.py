"""Stage "config": the config, and the class that loads the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from nbloader._libraries.transformers.classes import find_model_class, load_config
from nbloader._libraries.transformers.loading import check_device, model_arguments
from nbloader._load.stages.download import Fetched
from nbloader._options.options import LoadOptions
from nbloader._progress.reporter import Reporter


class Chosen(NamedTuple):
    """The class that loads the model, and the config and the other arguments to pass to it."""

    model_class: Any
    config: Any
    arguments: Mapping[str, Any]


def choose_class(fetched: Fetched, options: LoadOptions, reporter: Reporter, *, allows_code: bool) -> Chosen:
    """Return the class that loads the model, from the config or from ``auto_class``."""
    with reporter.stage("config") as note:
        check_device(options.placement if isinstance(options.placement, str) else None)
        config, rest = load_config(fetched.folder, options.extra, options.auto_class, allows_code)
        model_class, config = find_model_class(config, options.auto_class, allows_code)
        chosen = Chosen(model_class, config, {**model_arguments(options, allows_code), **rest})
        if options.auto_class is None and not allows_code and chosen.model_class.__name__.startswith("Auto"):
            reporter.log("warning", "guessed_class", chosen=chosen.model_class.__name__)
        note.detail = chosen.model_class.__name__
    return chosen
