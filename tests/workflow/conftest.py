"""A checkout in a temporary folder, at the pipeline's smallest size, run by the real Snakemake."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMOKE = Path(__file__).with_name("smoke.yaml")
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Checkout:
    """A folder with the project's files, linked, and parameters of its own."""

    path: Path

    def snakemake(
        self, *arguments: str, params: Sequence[str] = (), ok: bool = True
    ) -> subprocess.CompletedProcess:
        """Run Snakemake here on two cores; with `ok` a failure shows its whole output.

        `params` are laid over params.yaml. They come last, as the option takes all that follows.
        """
        command = [BIN / "snakemake", "--cores", "2", "--rerun-incomplete", *arguments]
        command += ["--configfile", *params] if params else []
        return self.run(*command, ok=ok)

    def maftp(self, *arguments: str, ok: bool = True) -> subprocess.CompletedProcess:
        """Run a `maftp` command here."""
        return self.run(BIN / "maftp", *arguments, ok=ok)

    def run(self, *command, ok: bool = True) -> subprocess.CompletedProcess:
        done = subprocess.run(
            list(map(str, command)), cwd=self.path, capture_output=True, text=True
        )
        assert not ok or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def copy(self, path: Path) -> Checkout:
        """Return a copy, time stamps included; a database's passing files stay out."""
        passing = shutil.ignore_patterns("*-journal", "*-wal", "*-shm")
        shutil.copytree(self.path, path, symlinks=True, ignore=passing)
        return Checkout(path)

    def read(self, name: str) -> str:
        return (self.path / name).read_text()


def make_checkout(path: Path) -> Checkout:
    path.mkdir(parents=True, exist_ok=True)
    for name in ("Snakefile", "profiles", "workflow", "maftp"):
        (path / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "params.yaml", path)
    shutil.copy(SMOKE, path)
    return Checkout(path)


@pytest.fixture
def checkout(tmp_path) -> Checkout:
    """A checkout in which nothing has run yet."""
    return make_checkout(tmp_path / "checkout")


@pytest.fixture(scope="session")
def finished(made_once) -> Checkout:
    """A checkout whose table was made; tests must not change it."""
    return Checkout(made_once("finished", _finish))


def _finish(folder: Path) -> None:
    make_checkout(folder).snakemake("results/table.csv", params=["smoke.yaml"])
