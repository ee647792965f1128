"""GPUs are leased to processes: real processes and locks, and a list in place of a driver."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from maftp.errors import MaftpError
from maftp.gpus import VISIBLE, leased

HOLD = """
import sys
from maftp.gpus import VISIBLE, leased
import os
count, gpus = int(sys.argv[1]), dict(pair.split("=") for pair in sys.argv[2:])
with leased(count, gpus) as names:
    assert os.environ[VISIBLE] == ",".join(names)
    print(*names, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def gpus(monkeypatch) -> dict[str, str]:
    """Two GPUs that no other test knows."""
    monkeypatch.setenv(VISIBLE, "put back afterwards")
    monkeypatch.delenv(VISIBLE)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    return {name: f"GPU-{uuid.uuid4()}" for name in ("0", "1")}


@pytest.fixture
def hold(gpus) -> Iterator:
    """Start a process that leases GPUs and holds them until its input ends."""
    with ExitStack() as stack:

        def start(count: int) -> subprocess.Popen:
            pairs = [f"{name}={key}" for name, key in gpus.items()]
            process = subprocess.Popen(
                [sys.executable, "-c", HOLD, str(count), *pairs],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            stack.callback(end, process)
            return process

        yield start


def end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()
    process.stdin.close()


def names(process: subprocess.Popen) -> list[str]:
    return process.stdout.readline().split()


def test_two_processes_get_different_gpus_and_a_third_waits(hold):
    first, second = hold(1), hold(1)
    assert sorted([*names(first), *names(second)]) == ["0", "1"]
    third = hold(2)
    first.stdin.close()
    assert first.wait() == 0 and third.poll() is None
    second.stdin.close()
    assert names(third) == ["0", "1"]


def test_a_killed_process_gives_its_gpus_back(hold, gpus):
    process = hold(2)
    assert names(process) == ["0", "1"]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with leased(2, gpus) as found:
        assert found == ["0", "1"] and os.environ[VISIBLE] == "0,1"
    with leased(1, gpus) as found:
        assert found == ["0"] and os.environ[VISIBLE] == "0"


def test_more_than_there_are_is_a_sentence(gpus):
    with pytest.raises(MaftpError, match="3 GPUs are asked for and 2 are here; lower"):
        with leased(3, gpus):
            pass


@pytest.mark.parametrize("count", [0, 1])
def test_without_gpus_nothing_changes(gpus, count):
    with leased(count, {}) as found:
        assert found == [] and VISIBLE not in os.environ
