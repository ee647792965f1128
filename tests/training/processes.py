"""Processes of a training that a test looks at or ends, and what they leave."""

from __future__ import annotations

import csv
import time
from pathlib import Path

from maftp.training.meter import TIMINGS

PATIENCE = 1800.0
_OUTLIVING = b"multiprocessing.resource_tracker", b"ray::DashboardAgent", b"ray::RuntimeEnvAgent"


def wait_for(condition, what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited {PATIENCE} s for {what}"
        time.sleep(0.2)


def children(pid: int) -> dict[int, str]:
    """Return all living descendants of a process and when each started.

    Small ones that outlive the others are left out: Python's tracker of shared resources, for a
    moment, and Ray's two agents, which try for a minute to tell of the end of their node.
    """
    parents, starts = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if fields[0] != "Z" and not any(name in command for name in _OUTLIVING):
            parents[int(stat.parent.name)] = int(fields[1])
            starts[int(stat.parent.name)] = fields[19]
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {child: starts[child] for child in found - {pid} if child in starts}


def alive(processes: dict[int, str]) -> list[int]:
    """Return those of `processes` that still live; numbers are used again, starts are not."""
    found = []
    for pid, started in processes.items():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[19] == started and fields[0] != "Z":
            found.append(pid)
    return found


def losses(history: Path) -> list[dict[str, str]]:
    with open(history, newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMINGS} for row in csv.DictReader(file)]
