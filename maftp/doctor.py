"""What this machine is, and what it lacks for an experiment and how to get it.

`maftp.machine` holds what is checked before every run; here is also what takes a moment to find
out: compilers, operators, and what the image libraries do with reference pictures.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import torch

from maftp.config import Params
from maftp.data.catalog import Catalog
from maftp.data.download import registration_message
from maftp.data.fingerprint import differing, expected_digests, picture_digests
from maftp.data.inventory import is_needless
from maftp.data.layout import archives_dir, obtained_path, stamp_path
from maftp.gpus import ask_driver
from maftp.machine import Finding, check_machine
from maftp.needs import missing_files, needs_of
from maftp.ops import backends
from maftp.ops.build import cuda_home
from maftp.tracking.manifest import package_versions

METRICS = (
    "mIoU (a): Detectron2 up to v0.6, over classes in truth or prediction; "
    "mIoU (b): since then, over classes in truth; PQ: areas as stated, void and crowd excused"
)
ROOM_GB = 2.0
"""Free disk below which even the miniature world fails."""
SHARED_MB = 70
"""Containers have 64 MiB of /dev/shm unless told otherwise, too little for Ray and data loaders."""
_SHARED = Path("/dev/shm")


def describe(root: Path) -> dict[str, str]:
    """Return what is here, by topic.

    Args:
        root: datasets root.
    """
    found = picture_digests()
    odd = differing(found, expected_digests())
    same = f"{len(found) - len(odd)} of {len(found)} are decoded and resized as by the pins"
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    gpus = [f"{name} (driver {driver})" for name, driver in ask_driver("name", "driver_version")]
    compilers = [path for path in (_compiler(), _nvcc()) if path]
    return {
        "versions": f"python {platform.python_version()}, {versions}",
        "pictures": "; ".join([same, *(f"{name} {found[name]}" for name in odd)]),
        "metrics": METRICS,
        "GPUs": ", ".join(gpus) or "none",
        "compilers": ", ".join(compilers) or "none",
        "operators": "; ".join(
            f"{name}: {reason or 'ready'}" for name, reason in backends.status().items()
        ),
        "disk": ", ".join(f"{place} {free:.1f} GB free" for place, free in _disks(root).items()),
        "/dev/shm": f"{shutil.disk_usage(_SHARED).free / 1e6:.0f} MB free"
        if _SHARED.is_dir()
        else "none",
    }


def examine(
    params: Params, catalog: Catalog, root: Path, *, files: Sequence[Path] = ()
) -> list[Finding]:
    """Return all that an experiment lacks here, with what to do.

    Args:
        params: the experiment.
        catalog: knows its data.
        root: datasets root.
        files: parameter files, for commands that are advised.
    """
    sources: list[str] = []
    by_hand: list[Finding] = []
    if params.data.world is None:
        needs = needs_of(params, catalog)
        sources = [*needs.sources, *needs.released]
        by_hand = list(_by_hand(needs.sources, needs.datasets, catalog, root, files))
    found = check_machine(params, catalog, root, sources=sources, jobs_run_here=True)
    found += [*_full_disks(root), *_small_shared_memory(found), *_no_compiler()]
    found += picture_findings(picture_digests(), expected_digests())
    found += [Finding(True, sentence) for sentence in missing_files(params, catalog)]
    return [*found, *by_hand]


def picture_findings(found: Mapping[str, str], expected: Mapping[str, str]) -> list[Finding]:
    """Name the reference pictures that are not decoded or resized as by the pinned versions."""
    odd = differing(found, expected)
    if not odd:
        return []
    versions = {name: metadata.version(name) for name in ("pillow", "opencv-python-headless")}
    here = ", ".join(f"{name} {version}" for name, version in versions.items())
    return [
        Finding(
            False,
            f"pictures: {len(odd)} of {len(expected)} differ from those of the pinned versions "
            f"({'; '.join(odd)}) with {here}, and scores will; install the pins with `make env`, "
            "or compare only with runs that were made with the same libraries",
        )
    ]


def _by_hand(
    sources: Sequence[str],
    datasets: Sequence[str],
    catalog: Catalog,
    root: Path,
    files: Sequence[Path],
) -> Iterator[Finding]:
    for name in sources:
        entry = catalog.source(name)
        places = (
            stamp_path(root, name),
            obtained_path(root, name),
            archives_dir(root) / entry.file,
        )
        if entry.urls or any(place.exists() for place in places):
            continue
        if not is_needless(name, catalog, list(datasets), root):
            message = registration_message(entry, archives_dir(root), files)
            yield Finding(False, f"data: {message}")


def _disks(root: Path) -> dict[str, float]:
    """Return free gigabytes below the data, the results and temporary files, a disk once."""
    disks: dict[int, tuple[str, float]] = {}
    for place in (root, Path.cwd(), Path(tempfile.gettempdir())):
        there = next(path for path in (place, *place.parents) if path.exists())
        free = shutil.disk_usage(there).free / 1e9
        disks.setdefault(os.stat(there).st_dev, (str(place), free))
    return dict(disks.values())


def _full_disks(root: Path) -> Iterator[Finding]:
    for place, free in _disks(root).items():
        if free < ROOM_GB:
            yield Finding(
                True,
                f"disk: {place} has {free:.1f} GB free, less than the {ROOM_GB:.0f} GB that even "
                "the miniature world takes; make room, or name another folder with data.root, "
                "$DETECTRON2_DATASETS or $TMPDIR",
            )


def _small_shared_memory(found: Sequence[Finding]) -> Iterator[Finding]:
    if not _SHARED.is_dir() or any(one.text.startswith(str(_SHARED)) for one in found):
        return
    total = shutil.disk_usage(_SHARED).total / 1e6
    if total < SHARED_MB:
        yield Finding(
            False,
            f"/dev/shm: {total:.0f} MB, as containers have it by default; Ray then keeps its "
            "objects on the disk, and data loaders fail; start the container with --shm-size 2g",
        )


def _no_compiler() -> Iterator[Finding]:
    if _compiler() is None and backends.status()["cpu"] is not None:
        yield Finding(
            False,
            f"compiler: there is no {_wanted_compiler()} on the search path, so `maftp ops build` "
            "cannot build the operators' kernels and PyTorch's slower ones are used; install g++, "
            "such as with `apt install g++`, or name another compiler with $CXX",
        )
    if torch.version.cuda and _nvcc() is None and ask_driver("name"):
        if backends.status()["deformops"] is not None and backends.status()["cuda"] is not None:
            yield Finding(
                False,
                "compiler: there is a GPU, but neither nvcc nor the package deformops; install one "
                "of them for faster training",
            )


def _wanted_compiler() -> str:
    return os.environ.get("CXX", "c++")


def _compiler() -> str | None:
    return shutil.which(_wanted_compiler())


def _nvcc() -> str | None:
    home = cuda_home()
    return None if home is None else str(home / "bin" / "nvcc")
