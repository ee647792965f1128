"""The set-up takes the interpreters that the pins are made for, and names what another lacks."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("install", ROOT / "envs/install.py")
install = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(install)


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 1), (3, 13, 9)])
def test_pinned_interpreters_are_taken(version):
    assert install.why_not(version) is None


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 10, 13), (3, 14, 0), (4, 11, 0)])
def test_others_are_named(version):
    reason = install.why_not(version)
    assert ".".join(map(str, version)) in reason and "make PYTHON=" in reason


def test_an_interpreter_without_pip_is_named(monkeypatch):
    monkeypatch.setattr(install, "find_spec", lambda name: None)
    assert f"{sys.executable} has no ensurepip" in install.why_not((3, 12, 0))


def test_pins_hold_for_every_interpreter():
    pins = (ROOT / "envs/requirements.txt").read_text()
    assert re.search(r"^deformops==\S+ ; python_full_version >= '3.12'", pins, flags=re.MULTILINE)
    assert re.search(r"^torch==2[.0-9]+ ", pins, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "taken"),
    [("python3.11", True), ("python3.12", True), ("python3", True), ("python2", False)],
)
def test_make_takes_what_it_finds(tmp_path, name, taken):
    (tmp_path / name).symlink_to(sys.executable)
    done = _make(tmp_path)
    if taken:
        assert done.stdout.splitlines()[-1] == f"{name} envs/install.py"
    else:
        assert "PYTHON=/path/to/python3.12" in done.stdout and '[ -n "" ]' in done.stdout


def test_make_prefers_one_that_works(tmp_path):
    broken = tmp_path / "python3.12"  # such as a shim of a version that is not installed
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o755)
    (tmp_path / "python3.11").symlink_to(sys.executable)
    assert _make(tmp_path).stdout.splitlines()[-1] == "python3.11 envs/install.py"


def _make(folder: Path) -> subprocess.CompletedProcess[str]:
    """Say what `make env` would do with no program but make's own and those in a folder."""
    for tool in ("sh", "make"):
        (folder / tool).symlink_to(shutil.which(tool))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHON"}
    return subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "env"],
        cwd=ROOT,
        env=environment | {"PATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
