"""What this machine lacks for an experiment, told before anything is downloaded.

Nothing is imported or opened that takes time: GPUs are counted by the driver's own tool.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from maftp.config import Params
from maftp.data.catalog import Catalog
from maftp.data.layout import archives_dir, obtained_path, stamp_path
from maftp.gpus import VISIBLE, ask_driver

UNPACKED = 2.2
"""Room for an archive, its contents and what is converted of them, in sizes of the archive:
pictures are packed as they are, label maps and indexes add a little. An assumption."""
DRIVERS = {13: 580, 12: 525}
"""Oldest driver of an NVIDIA GPU for each major version of CUDA (CUDA compatibility guide)."""
_SHARED_MB_PER_LOADER = 256


@dataclass(frozen=True)
class Finding:
    """Something that this machine lacks."""

    stops: bool
    """True where the experiment cannot be done; False where it is slow or may fail."""
    text: str
    """What was found, what is wanted, and what to do."""


@dataclass(frozen=True)
class Gpus:
    """The GPUs that the driver shows."""

    count: int
    driver: int | None
    """Major version; None without a driver."""


def check_machine(
    params: Params, catalog: Catalog, root: Path, *, sources: Sequence[str], jobs_run_here: bool
) -> list[Finding]:
    """Compare the disk, and where jobs run here memory and GPUs, with what an experiment needs.

    Args:
        params: the experiment.
        catalog: knows the sources.
        root: datasets root.
        sources: names of what the experiment needs.
        jobs_run_here: False on the login node of a cluster, where only the disk matters.
    """
    found = _disk(catalog, root, sources)
    if jobs_run_here:
        trains = any(params.for_variant(name).weights is None for name in params.variants)
        found += [*_memory(params, trains), *_gpus(params, trains), *_shared_memory(params)]
    return found


def find_gpus() -> Gpus:
    """Ask the driver; $CUDA_VISIBLE_DEVICES hides what it leaves out."""
    versions = [version for (version,) in ask_driver("driver_version")]
    visible = os.environ.get(VISIBLE)
    count = len(versions) if visible is None else len([d for d in visible.split(",") if d.strip()])
    major = versions[0].partition(".")[0] if versions else ""
    return Gpus(min(count, len(versions)), int(major) if major.isdigit() else None)


def _disk(catalog: Catalog, root: Path, sources: Sequence[str]) -> list[Finding]:
    missing = 0.0
    for name in sources:
        entry = catalog.obtainable(name)
        done = stamp_path(root, name).exists() or obtained_path(root, name).exists()
        if not done and not (archives_dir(root) / entry.file).exists():
            missing += (entry.megabytes or 0) / 1000
    free = shutil.disk_usage(next(p for p in (root, *root.parents) if p.exists())).free / 1e9
    if free >= UNPACKED * missing:
        return []
    return [
        Finding(
            True,
            f"disk: {root} has {free:.0f} GB free; {missing:.0f} GB of archives, unpacked and "
            f"converted, need about {UNPACKED * missing:.0f} GB; make room, or name another folder "
            "with data.root or $DETECTRON2_DATASETS",
        )
    ]


def _memory(params: Params, trains: bool) -> list[Finding]:
    here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6
    wanted = params.resources.evaluate.memory_mb
    if trains:
        wanted = max(wanted, params.resources.train.memory_mb)
    if here >= wanted:
        return []
    return [
        Finding(
            False,
            f"memory: this machine has {here / 1e3:.0f} GB, the experiment asks for "
            f"{wanted / 1e3:.0f} GB (resources); it may run out, then lower execution.workers or "
            "execution.micro_batch_size",
        )
    ]


def _gpus(params: Params, trains: bool) -> list[Finding]:
    execution = params.execution
    if not execution.gpus_per_worker:
        return _half_precision_on_the_cpu(params) if trains else []
    gpus, found = find_gpus(), []
    oldest = _oldest_driver()
    if gpus.count and oldest is not None and gpus.driver is not None and gpus.driver < oldest:
        return [
            Finding(
                True,
                f"driver: version {gpus.driver} is too old for the installed PyTorch, which needs "
                f"{oldest} or newer; update it, or install a PyTorch for an older CUDA",
            )
        ]
    wanted = execution.workers * execution.gpus_per_worker // params.resources.nodes
    if trains and gpus.count < wanted:
        fewer = next((n for n in range(gpus.count, 0, -1) if params.train.batch_size % n == 0), 0)
        advice = f"set execution.workers to {fewer}, with the same result up to rounding"
        if not fewer:
            advice = "run it where there are GPUs (docs/clusters.md)"
            if not params.train.amp:
                advice += ", or set execution.gpus_per_worker to 0 to train on the CPU"
        found.append(
            Finding(True, f"GPUs: training wants {wanted}, this machine has {gpus.count}; {advice}")
        )
    if not gpus.count:
        found.append(
            Finding(
                False,
                "GPUs: there is none, so evaluation runs on the CPU: hours a benchmark instead of "
                "minutes; evaluate.max_images limits it",
            )
        )
    return found


def _half_precision_on_the_cpu(params: Params) -> list[Finding]:
    if not params.train.amp:
        return []
    return [
        Finding(
            True,
            f"GPUs: training in {params.train.amp_dtype} (train.amp) needs one; set train.amp to "
            "false to train on the CPU, or execution.gpus_per_worker to 1",
        )
    ]


def _oldest_driver() -> int | None:
    """Return the oldest driver that the installed PyTorch's CUDA works with; None without CUDA."""
    try:
        major = int(metadata.version("nvidia-cuda-runtime").partition(".")[0])
    except (metadata.PackageNotFoundError, ValueError):
        return None
    return DRIVERS.get(major)


def _shared_memory(params: Params) -> list[Finding]:
    processes = params.execution.loader_workers * params.execution.workers
    place = Path("/dev/shm")
    if not processes or not place.is_dir():
        return []
    free, wanted = shutil.disk_usage(place).free / 1e6, _SHARED_MB_PER_LOADER * processes
    if free >= wanted:
        return []
    return [
        Finding(
            False,
            f"/dev/shm: {free:.0f} MB free, {processes} loader processes share images through it "
            f"and want {wanted} MB; start the container with --shm-size, or set "
            "execution.loader_workers to 0",
        )
    ]
