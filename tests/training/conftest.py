"""The tiny model, its batches and its parameters."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from maftp.config import Params

ROOT = Path(__file__).resolve().parents[2]
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


@pytest.fixture
def start(tmp_path):
    """Start drivers as processes of their own; none outlives the test."""
    drivers = []

    def start_driver(*arguments: str, **variables: str) -> subprocess.Popen:
        environment = os.environ | {
            "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            **variables,
        }
        environment.pop("RAY_ADDRESS", None)
        driver = subprocess.Popen(
            [sys.executable, str(DRIVER), *arguments],
            env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        drivers.append(driver)
        return driver

    yield start_driver
    for driver in drivers:
        driver.kill()
        driver.wait()
