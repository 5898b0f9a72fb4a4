"""Packages of plugins as users have them: installed by pip."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

#: Where the packages of the repository are.
PLUGINS = Path(__file__).resolve().parents[2] / "plugins"

_LEAVE_OUT = shutil.ignore_patterns("__pycache__", "build", "*.egg-info", "tests")


def install(name: str, target: Path) -> Path:
    """Install one of the repository's packages into a directory, without a network and without
    what it depends on; the directory, to be put on `PYTHONPATH`."""
    with TemporaryDirectory() as directory:
        # Building leaves files beside the sources: a copy keeps the repository clean.
        source = shutil.copytree(PLUGINS / name, Path(directory) / name, ignore=_LEAVE_OUT)
        options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
        command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target)]
        done = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target
