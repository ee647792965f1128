"""What a GPU does during a call: milliseconds, memory, launches, and how often the host waits."""

from __future__ import annotations

import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Call = Callable[[], Any]


def milliseconds(call: Call, *, groups: int, calls: int, warm_up: int) -> float:
    """Return the median milliseconds of a call, over groups of calls one after another."""
    for _ in range(warm_up):
        call()
    found = []
    for _ in range(groups):
        synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        synchronize()
        found.append(1e3 * (time.perf_counter() - start) / calls)
    return statistics.median(found)


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def forget_peak() -> None:
    """Give memory back and measure the peak anew."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float | None:
    """Return the most memory held since `forget_peak`; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    return round(torch.cuda.max_memory_allocated() / 2**30, 2)


def host_waits(call: Call) -> dict[str, int]:
    """Return how often each line of Python made the host wait for the GPU during a call."""
    if not torch.cuda.is_available():
        call()
        return {}
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in caught if "synchronizing" in str(w.message)]
    return dict(Counter(f"{Path(w.filename).name}:{w.lineno}" for w in waits))


def kernels(call: Call, *, top: int = 8) -> dict[str, Any]:
    """Return the number of a call's kernels, how long any runs, and which take most time."""
    gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        call()
        synchronize()
    wanted = torch.autograd.DeviceType.CUDA if gpu else torch.autograd.DeviceType.CPU
    microseconds: Counter[str] = Counter()
    launches = 0
    spans = []
    for event in profiler.events():
        if event.device_type != wanted or getattr(event, "is_user_annotation", False):
            continue
        spans.append((event.time_range.start, event.time_range.end))
        if not event.name.startswith(("Memcpy", "Memset")):
            launches += 1
            microseconds[event.name] += int(event.time_range.elapsed_us())
    named = [f"{name[:80]}: {us / 1e3:.2f} ms" for name, us in microseconds.most_common(top)]
    return {"launches": launches, "busy ms": round(_covered(spans) / 1e3, 2), "most time": named}


def _covered(spans: list[tuple[float, float]]) -> float:
    """Return how much time lies within any of the spans."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
