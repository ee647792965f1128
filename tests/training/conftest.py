"""The tiny model, its batches and its parameters."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from maftp.config import Params

DRIVER = Path(__file__).with_name("tiny_run.py")


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """`tiny_run.py` as a module."""
    spec = importlib.util.spec_from_file_location("tiny_run", DRIVER)
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_run"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def params(tiny: ModuleType) -> Params:
    return tiny.tiny_params()
