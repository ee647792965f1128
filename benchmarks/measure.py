"""What the benchmarks share: fair timing, peak memory, tables, and files of results."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

RESULTS = Path(__file__).resolve().parent / "results"
Row = dict[str, Any]


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--repetitions", type=int, default=3, help="rounds over all variants (3)")
    options.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options.add_argument(
        "--machine", default=machine(), help="what it ran on, for the record (found out)"
    )
    return options


def machine() -> str:
    """Describe this machine in a line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()}-core {platform.machine()} machine, {memory:.0f} GB, {gpu}"


def seconds_of(run: Callable[[], Any]) -> float:
    """Return processor seconds of one call, or seconds on the GPU's clock where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        return time.perf_counter() - start
    start = time.process_time()
    run()
    return time.process_time() - start


def interleaved(
    variants: Mapping[str, Callable[[], Any]], *, repetitions: int, warm_up: int = 1
) -> dict[str, float]:
    """Return the median seconds of each variant; rounds go over all variants in turn.

    Other work on the machine then hits all of them alike.
    """
    for run in list(variants.values()) * warm_up:
        run()
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repetitions):
        for name, run in variants.items():
            times[name].append(seconds_of(run))
    return {name: statistics.median(values) for name, values in times.items()}


def seconds_by_events(run: Callable[[int], Any], *, calls: int, warm_up: int = 3) -> float:
    """Return the median seconds of one call on the device alone, without the host's part.

    On a GPU events before and after each call tell, so the host may run ahead; on a CPU processor
    time does.

    Args:
        run: gets the number of the call, to use other operands in each.
        calls: how many to time.
        warm_up: calls before that.
    """
    for number in range(warm_up):
        run(number)
    if not torch.cuda.is_available():
        return statistics.median(seconds_of(partial(run, number)) for number in range(calls))
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(calls)]
    for number, (begin, end) in enumerate(marks):
        begin.record()
        run(number)
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in marks) / 1e3


def peak_megabytes(run: Callable[[], Any]) -> float:
    """Return by how much memory grew at most during one call; for a fresh process."""
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = _status("VmRSS")
    run()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    """Return a value of Linux's process status in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for a while."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def in_fresh_process(script: str, *arguments: str) -> float:
    """Run a benchmark's script in a process of its own; return the number it prints last."""
    done = subprocess.run(
        [sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def publish(
    name: str,
    rows: Sequence[Row],
    *,
    options: argparse.Namespace,
    note: str,
    quiet: bool = False,
) -> None:
    """Print a table and write it with its circumstances to `name`.md and `name`.json.

    Lists and mappings stand in the JSON file alone.
    """
    short = [{k: v for k, v in row.items() if not isinstance(v, (list, dict))} for row in rows]
    table = tabulate(short, headers="keys", tablefmt="github", floatfmt=".3g")
    facts = {
        "command": shlex.join(["python", _program(), *sys.argv[1:]]),
        "machine": options.machine,
        "date": datetime.date.today().isoformat(),
        "versions": {
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in ("torch", "timm", "numpy")},
        },
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
    }
    versions = ", ".join(f"{key} {value}" for key, value in facts["versions"].items())
    circumstances = (
        f"{note}\n\n`{facts['command']}`, {facts['date']}, {facts['machine']}, "
        f"{facts['threads']} thread(s), load {facts['load']}; {versions}."
    )
    if not quiet:
        print(f"\n{name}\n\n{table}\n\n{circumstances}")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{name}.md").write_text(f"# {name}\n\n{table}\n\n{circumstances}\n")
    result = {"name": name, **facts, "note": note, "rows": list(rows)}
    (options.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def _program() -> str:
    """Return the running program's path, from the repository's root if it lies there."""
    path, root = Path(sys.argv[0]).resolve(), RESULTS.parents[1]
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


def ratio(ours: float, plain: float) -> float:
    """Return ours / plain, rounded for a table."""
    return round(ours / plain, 3)
