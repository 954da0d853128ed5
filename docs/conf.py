"""How Sphinx builds the site: ``make docs``."""

from __future__ import annotations

import shutil
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).parent

project = "nbloader"
copyright = "nbloader contributors"
version = release = version_of("nbloader")
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "nbloader"
html_static_path: list[str] = []
myst_heading_anchors = 3
# The tutorials are run by nbval, which compares what they print; what is stored is shown.
nb_execution_mode = "off"
nb_merge_streams = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
napoleon_google_docstring = False

# A page can only be built of what lies below this folder.
shutil.rmtree(HERE / "tutorials", ignore_errors=True)
shutil.copytree(HERE.parent / "notebooks", HERE / "tutorials", ignore=shutil.ignore_patterns("*.cfg", ".*"))
