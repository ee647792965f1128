"""A terminal's view of a whole run: what is done, what runs, how long the rest will take."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from statistics import fmean

from rich.console import Console, ConsoleDimensions, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from maftp.errors import MaftpError
from maftp.progress import clock
from maftp.results import Run
from snakemake_logger_plugin_maftp.forecast import STEP, Forecast, Job, time_left

_ROWS, _TITLE, _BAR = 12, 48, 24


class Display:
    """The last lines of a terminal; all else that is printed scrolls by above them.

    What jobs print would tear the lines apart, as they write to the terminal themselves. So while
    the display is there, standard error, and standard output where it is the terminal too, lead
    into a pipe, and what comes out of it is printed above.
    """

    def __init__(self, forecast: Forecast) -> None:
        """Take over the terminal of standard error until `stop`."""
        self._forecast = forecast
        self._start = time.time()
        self._best: tuple[int, float, str] | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self._taken = [stream for stream in (1, 2) if os.isatty(stream)]
        self._terminal = os.fdopen(os.dup(2), "w")
        reading, writing = os.pipe()
        for stream in self._taken:
            os.dup2(writing, stream)
        os.close(writing)
        self._console = Console(file=self._terminal, force_terminal=True, highlight=False)
        self._live = Live(
            get_renderable=self._render,
            console=self._console,
            refresh_per_second=2,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()
        self._reader = threading.Thread(target=self._pass_on, args=(reading,), daemon=True)
        self._reader.start()

    def stop(self) -> None:
        """Give the terminal back."""
        sys.stdout.flush()
        sys.stderr.flush()
        for stream in self._taken:
            os.dup2(self._terminal.fileno(), stream)
        self._reader.join(timeout=2)  # a process that a job left behind may hold the pipe open
        self._live.stop()
        forecast = self._forecast
        spent = clock(time.time() - self._start)
        self.note(f"{forecast.done} of {forecast.total} jobs done in {spent}")

    def note(self, text: str, style: str = "") -> None:
        """Print text above the display."""
        self._console.print(Text(text.rstrip(), style=style))

    def finished(self, job: Job, now: float) -> None:
        """Say that a job is done, and what it scored."""
        scores = self._scores(job)
        self.note(f"✓ {job.title}   {clock(now - job.start)}{scores}")

    def _scores(self, job: Job) -> str:
        """Return the scores that a job wrote, as text; remember the best run."""
        files = [Path(name) for name in job.outputs if "/evaluation/" in name]
        files = [file for file in files if file.suffix == ".json"]
        if not files:
            return ""
        try:
            run = Run(files[0].parent.parent)
            found = {
                e.benchmark: (e.metric, next(iter(e.scores.values()))) for e in run.evaluations
            }
        except MaftpError:
            return ""  # a later job says what is wrong with it
        semantic = [score for metric, score in found.values() if metric == "semantic"]
        semantic = [score for score in semantic if score is not None]
        if semantic:
            mean = len(semantic), fmean(semantic), f"{run.variant}, seed {run.seed}"
            self._best = max(self._best or mean, mean)
        new = [(file.stem, found[file.stem][1]) for file in files if file.stem in found]
        return "".join(f"  {name} {score:.1f}" for name, score in new if score is not None)

    def _pass_on(self, reading: int) -> None:
        with os.fdopen(reading, errors="replace") as lines:
            for line in lines:
                if not STEP.match(line):  # a bar shows it
                    self._console.print(Text.from_ansi(line.rstrip()))

    def _render(self) -> Group:
        width, height = os.get_terminal_size(self._terminal.fileno())
        self._console.size = ConsoleDimensions(width or 80, height or 24)  # some do not say
        now = time.time()
        forecast = self._forecast
        rows = Table.grid(padding=(0, 2))
        rows.add_column(no_wrap=True, overflow="ellipsis", max_width=_TITLE)
        running = list(forecast.running.values())
        for job in running[:_ROWS]:
            rows.add_row(*_row(job, now))
        if len(running) > _ROWS:
            rows.add_row(f"and {len(running) - _ROWS} more")
        rows.add_row(
            Text(f"{forecast.done} of {forecast.total} jobs", style="bold"),
            ProgressBar(total=max(forecast.total, 1), completed=forecast.done, width=_BAR),
            clock(now - self._start),
            Text(time_left(forecast, now), style="bold"),
        )
        if self._best is None:
            return Group(rows)
        number, mean, run = self._best
        return Group(rows, Text(f"best so far: {run}, mIoU {mean:.1f} over {number} benchmarks"))


def _row(job: Job, now: float) -> tuple[str | ProgressBar, ...]:
    step, spent = job.step, clock(now - job.start)
    if step is None:
        return job.title, ProgressBar(total=None, width=_BAR), spent, ""
    bar = ProgressBar(total=step.total, completed=step.done, width=_BAR)
    length = job.duration(now)
    left = "" if length is None else f"{clock(max(length - (now - job.start), 0))} left  "
    return job.title, bar, spent, f"{left}loss {step.loss:.2f}"
