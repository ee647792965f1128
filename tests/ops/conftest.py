"""The float64 reference as a module of its own, and the compiled CPU kernel."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

from maftp.ops import backends, native

SPEC = importlib.util.spec_from_file_location(
    "ops_reference", Path(__file__).with_name("reference.py")
)
sys.modules["ops_reference"] = reference = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(reference)


@pytest.fixture(scope="session")
def built_cache(made_once):
    """A cache folder in which `maftp ops build cpu` has put its library."""
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("needs a C++ compiler")
    return made_once("ops", _build)


def _build(cache):
    done = reference.run_maftp("ops", "build", "cpu", cache=cache)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def cpu_kernel(built_cache, monkeypatch):
    """Make the CPU kernel the one that is used."""
    if native.why_not("cpu") is not None:
        monkeypatch.setenv(native.CACHE_VARIABLE, str(built_cache))
    monkeypatch.setenv(backends.VARIABLE, "cpu")
    assert native.why_not("cpu") is None


@pytest.fixture
def torch_form(monkeypatch):
    """Make PyTorch's operations the ones that are used."""
    monkeypatch.setenv(backends.VARIABLE, "torch")
