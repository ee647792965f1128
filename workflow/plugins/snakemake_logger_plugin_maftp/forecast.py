"""How long the rest of a run will take, told from the jobs it has finished and begun."""

from __future__ import annotations

import re
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from maftp.progress import clock

STEP = re.compile(r"step (\d+)/(\d+)  loss (\S+)")
"""What a training prints, `maftp.training.meter.progress_line`."""
_TAIL = 4096
_ENOUGH = 0.04
"""The share of a job that must be done before its pace is believed."""


@dataclass(frozen=True)
class Step:
    """How far a training is."""

    done: int
    total: int
    loss: float


@dataclass
class Job:
    """A job that runs."""

    rule: str
    title: str
    threads: int
    start: float
    log: Path | None = None
    outputs: tuple[str, ...] = ()

    @property
    def step(self) -> Step | None:
        """Return what a training last wrote to its log since the job began; None elsewhere."""
        try:
            if self.log is None or self.log.stat().st_mtime < self.start:
                return None
            with self.log.open("rb") as file:
                file.seek(max(self.log.stat().st_size - _TAIL, 0))
                found = STEP.findall(file.read().decode(errors="replace"))
        except OSError:
            return None
        return Step(int(found[-1][0]), int(found[-1][1]), float(found[-1][2])) if found else None

    def duration(self, now: float) -> float | None:
        """Return the seconds that it will take in all, by its own pace, once that is known."""
        step = self.step
        if step is None or step.done < _ENOUGH * step.total:
            return None
        return (now - self.start) * step.total / step.done


class Forecast:
    """The jobs of a run: done, running, to come. One thread follows it, another draws it."""

    def __init__(self) -> None:
        """Begin without jobs."""
        self._lock = threading.RLock()
        self.cores: int | None = None
        self.running: dict[int, Job] = {}
        self._planned: Mapping[str, int] = {}
        self._durations: dict[str, list[float]] = defaultdict(list)
        self._threads: dict[str, int] = {}

    @property
    def total(self) -> int:
        """Return the number of jobs of the run."""
        return sum(self._planned.values())

    @property
    def done(self) -> int:
        """Return the number of jobs that are finished."""
        with self._lock:
            return sum(map(len, self._durations.values()))

    def plan(self, jobs: Mapping[str, int]) -> None:
        """Take the number of jobs of each rule."""
        self._planned = jobs

    def begin(self, number: int, job: Job) -> None:
        """Count a job as running; one that is tried again begins anew."""
        with self._lock:
            self.running[number] = job
            self._threads[job.rule] = job.threads

    def finish(self, number: int, now: float) -> Job | None:
        """Count a job as done, and return it."""
        with self._lock:
            job = self.running.pop(number, None)
            if job is not None:
                self._durations[job.rule].append(now - job.start)
            return job

    def fail(self, number: int) -> None:
        """Forget a job that failed."""
        with self._lock:
            self.running.pop(number, None)

    def seconds_left(self, now: float) -> tuple[float, bool]:
        """Return the time until all jobs are done, and whether nothing is missing from it.

        The duration of a rule is the mean of its finished jobs, or what the pace of a running
        training says. A rule of which neither is known is missing. Jobs share the cores; where
        their number is not known, as many run at a time as now.
        """
        with self._lock:
            return self._seconds_left(now)

    def _seconds_left(self, now: float) -> tuple[float, bool]:
        typical = {rule: self._typical(rule, now) for rule in self._planned}
        waiting = Counter(self._planned)
        waiting.subtract({rule: len(taken) for rule, taken in self._durations.items()})
        waiting.subtract(job.rule for job in self.running.values())
        busy = sum(job.threads for job in self.running.values())
        work, longest, whole = 0.0, 0.0, True
        for job in self.running.values():
            length = job.duration(now) or typical.get(job.rule)
            left = max((length or 0.0) - (now - job.start), 0.0)
            longest = max(longest, left)
            work += left * job.threads
            whole = whole and length is not None
        for rule, number in waiting.items():
            if number > 0:
                length = typical[rule]
                work += number * (length or 0.0) * self._threads.get(rule, 1)
                whole = whole and length is not None
        return max(work / (self.cores or busy or 1), longest), whole

    def _typical(self, rule: str, now: float) -> float | None:
        if self._durations[rule]:
            return fmean(self._durations[rule])
        running = [job.duration(now) for job in self.running.values() if job.rule == rule]
        known = [length for length in running if length is not None]
        return fmean(known) if known else None


def time_left(forecast: Forecast, now: float) -> str:
    """Return the time left as words for a person; nothing where nothing is known."""
    seconds, whole = forecast.seconds_left(now)
    if seconds < 1:
        return ""
    return f"{'about' if whole else 'more than'} {clock(seconds)} left"
