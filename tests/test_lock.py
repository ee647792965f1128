"""Locks: one process at a time, released with its death; who waits is told for whom."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from maftp.lock import locked

ROOT = Path(__file__).resolve().parents[1]
HOLD = """
import sys, time
from pathlib import Path
from maftp.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "a/.lock"], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


def test_who_waits_is_told_for_whom_and_goes_on_at_its_death(holder, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    entered = threading.Event()

    def wait():
        with locked(tmp_path / "a/.lock"):
            entered.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not entered.wait(0.5)
    assert f"waiting for process {holder.pid} on " in caplog.text
    holder.kill()
    assert entered.wait(20)
    waiting.join()


def test_a_lock_is_free_again(tmp_path):
    for _ in range(2):
        with locked(tmp_path / ".lock"):
            pass
