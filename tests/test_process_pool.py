"""Processes of a pool end with the one that started them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import psutil
import pytest

POOL = r"""
import os, time
from maftp.process_pool import process_pool

def prepare():
    os.write(1, b"preparing\n")
    time.sleep(1)

def task(_):
    os.write(1, f"{os.getpid()}\n".encode())
    time.sleep(0.5)

if __name__ == "__main__":
    try:
        with process_pool(2, prepare) as pool:
            list(pool.map(task, range(1000)))
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.fixture
def owner(tmp_path):
    """A process, and group, whose pool is at work."""
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, script], **pipes, text=True, process_group=0) as owner:
        yield owner
        owner.kill()


def workers_of(owner: subprocess.Popen) -> list[psutil.Process]:
    """Wait until both are at work."""
    numbers = set()
    while len(numbers) < 2:
        numbers |= set(re.findall(r"^\d+$", owner.stdout.readline(), re.M))
    return [psutil.Process(int(number)) for number in numbers]


@pytest.mark.parametrize("when", ["preparing", "working"])
def test_ctrl_c_is_answered_by_the_owner_alone(owner, when):
    assert owner.stdout.readline() == "preparing\n"
    if when == "working":
        workers_of(owner)
    os.killpg(owner.pid, signal.SIGINT)
    printed, errors = owner.communicate()
    assert owner.returncode == 0 and printed.endswith("interrupted\n")
    assert errors == ""


def test_nothing_is_left_of_a_pool_whose_owner_is_killed(owner):
    workers = workers_of(owner)
    owner.kill()
    owner.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
