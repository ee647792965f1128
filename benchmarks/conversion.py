"""Conversion throughput: images per second, in one process and on all cores, against a plain loop.

    python benchmarks/conversion.py [--images 1] [--repeats 3] [--out benchmarks/results/conversion]

The plain loop does in one process what the public preparation scripts do, with the same libraries
at their defaults: read, a pass over the image per class that occurs, save. It checks nothing. The
conversion is the one of `maftp convert`, from listing the files to the manifest, all checks
included. Both must give the same pixels. Every run has a process of its own, and loop and
conversion take turns. Images are drawn: regions with slightly rough borders,
under the sizes named below.

How much a further core can gain at most on this machine is measured too: several plain loops side
by side, which share nothing but the machine. Two clocks are shown. The wall clock decides what a
user waits for, but not on a machine that does other work at the same time; processor time per image
is nearly free of that.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import PIL
import scipy
import scipy.io
from numpy.typing import NDArray
from PIL import Image

from maftp.data.catalog import Catalog, load_catalog
from maftp.data.convert.ade20k_full import shrunk_size
from maftp.data.convert.coco import REMOVED_IDS
from maftp.data.convert.driver import prepare_process
from maftp.data.convert.run import convert
from maftp.data.layout import vocabulary_path

COCO_IDS = [i for i in range(1, 183) if i not in REMOVED_IDS]
FULL_IDS = np.random.default_rng(0).permutation(np.arange(6, 3157))[:847].tolist()
STUFF_INDEX = {identity: index for index, identity in enumerate(COCO_IDS)}
FULL_INDEX = {identity: index for index, identity in enumerate(FULL_IDS)}
FORK = multiprocessing.get_context("fork")
DRAWN = 12
"""Different images; the others are copies under another name."""
RUNS = ("loop", "loops side by side", "one process", "all cores")
LOOPED = 0.1
"""Part of the images that the plain loop does: its rate does not depend on their number."""


@dataclass(frozen=True)
class Subject:
    """One conversion that is measured."""

    dataset: str
    split: str
    images: int
    sizes: tuple[tuple[int, int], ...]
    """(height, width) of the drawn images, in turn."""
    draw: Callable[[Path, str, tuple[int, int], int], None]
    """Writes the raw files of one image: root, stem, size, seed."""
    loop: Callable[[Path, str], None]
    """The plain loop's work on one image, written to `loop/` below the root."""


def regions(size: tuple[int, int], classes: int, seed: int) -> NDArray[np.int64]:
    """Return (H, W) numbers 0..classes-1 in regions of some 60 pixels with rough borders."""
    height, width = size
    rng = np.random.default_rng(seed)
    best = np.full(size, -np.inf, np.float32)
    found = np.zeros(size, np.int64)
    for index in range(classes):
        coarse = rng.normal(size=(height // 60 + 2, width // 60 + 2)).astype(np.float32)
        field = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        field += 0.01 * rng.normal(size=size).astype(np.float32)
        found[field > best] = index
        best = np.maximum(best, field)
    return found


def write_photo(path: Path, size: tuple[int, int], seed: int) -> None:
    """Write a JPEG with smooth colour and some noise, quality 90."""
    height, width = size
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)).astype(np.uint8)
    smooth = cv2.resize(coarse, (width, height)).astype(np.int16)
    pixels = np.clip(smooth + rng.integers(-8, 9, smooth.shape), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=90)


def save(array: NDArray[np.unsignedinteger], path: Path) -> None:
    """Save with Pillow's defaults."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def draw_stuff(root: Path, stem: str, size: tuple[int, int], seed: int) -> None:
    """COCO-Stuff: 9 of the 171 classes and unlabelled pixels."""
    ids = np.random.default_rng(seed).permutation(COCO_IDS)[:9]
    values = np.append(ids - 1, 255).astype(np.uint8)
    write_photo(root / f"coco/train2017/{stem}.jpg", size, seed)
    save(values[regions(size, 10, seed)], root / f"coco/stuffthingmaps/train2017/{stem}.png")


def loop_stuff(root: Path, stem: str) -> None:
    """Read, a pass per class that occurs, save."""
    with Image.open(root / f"coco/stuffthingmaps/train2017/{stem}.png") as image:
        raw = np.asarray(image)
    label = np.full(raw.shape, 255, np.uint8)
    for value in np.unique(raw).tolist():
        if value + 1 in STUFF_INDEX:
            label[raw == value] = STUFF_INDEX[value + 1]
    Image.fromarray(label).save(root / f"loop/{stem}.png")


def draw_full(root: Path, stem: str, size: tuple[int, int], seed: int) -> None:
    """ADE20K full: 16 of the 847 classes and unlabelled pixels."""
    ids = np.append(np.random.default_rng(seed).permutation(FULL_IDS)[:16], 0)
    label = ids[regions(size, 17, seed)]
    codes = np.stack((label // 256 * 10, label % 256, np.zeros_like(label)), -1)
    folder = root / "ade/ADE20K_2021_17_01/images/ADE/validation/scene"
    write_photo(folder / f"{stem}.jpg", size, seed)
    save(codes.astype(np.uint8), folder / f"{stem}_seg.png")


def loop_full(root: Path, stem: str) -> None:
    """Read image and codes, shrink both, a pass per class that occurs, save both."""
    folder = root / "ade/ADE20K_2021_17_01/images/ADE/validation/scene"
    with Image.open(folder / f"{stem}.jpg") as file:
        image = np.asarray(file.convert("RGB"))
    with Image.open(folder / f"{stem}_seg.png") as file:
        codes = np.asarray(file)
    ids = codes[..., 0].astype(np.int32) // 10 * 256 + codes[..., 1]
    height, width = shrunk_size(*ids.shape)
    if (height, width) != ids.shape:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        ids = cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST)
    label = np.full(ids.shape, 65535, np.uint16)
    for identity in np.unique(ids):
        if identity in FULL_INDEX:
            label[ids == identity] = FULL_INDEX[identity]
    Image.fromarray(image).save(root / f"loop/{stem}.jpg")
    Image.fromarray(label).save(root / f"loop/{stem}.tif")


def draw_150(root: Path, stem: str, size: tuple[int, int], seed: int) -> None:
    """ADE20K scene parsing: 12 of the 150 classes and unlabelled pixels."""
    ids = np.append(np.random.default_rng(seed).permutation(np.arange(1, 151))[:12], 0)
    folder = root / "ade/ADEChallengeData2016"
    write_photo(folder / f"images/validation/{stem}.jpg", size, seed)
    label = ids[regions(size, 13, seed)].astype(np.uint8)
    save(label, folder / f"annotations/validation/{stem}.png")


def loop_150(root: Path, stem: str) -> None:
    """Read, subtract one with wrap-around, save."""
    with Image.open(root / f"ade/ADEChallengeData2016/annotations/validation/{stem}.png") as image:
        Image.fromarray(np.asarray(image) - np.uint8(1)).save(root / f"loop/{stem}.png")


def draw_459(root: Path, stem: str, size: tuple[int, int], seed: int) -> None:
    """PASCAL-Context: 14 of the 459 classes and unlabelled pixels, compressed."""
    ids = np.append(np.random.default_rng(seed).permutation(np.arange(1, 460))[:14], 0)
    folder = root / "VOCdevkit/VOC2010"
    write_photo(folder / f"JPEGImages/{stem}.jpg", size, seed)
    (folder / "trainval").mkdir(parents=True, exist_ok=True)
    label = ids[regions(size, 15, seed)].astype(np.uint16)
    scipy.io.savemat(folder / f"trainval/{stem}.mat", {"LabelMap": label}, do_compression=True)


def loop_459(root: Path, stem: str) -> None:
    """Read, subtract one with wrap-around, save."""
    label = scipy.io.loadmat(root / f"VOCdevkit/VOC2010/trainval/{stem}.mat")["LabelMap"]
    Image.fromarray(label - np.uint16(1)).save(root / f"loop/{stem}.tif")


ADE_FULL_SIZES = ((1650, 2200), (1200, 1600), (683, 512), (480, 640))
SUBJECTS = (
    Subject("coco_stuff", "train", 6000, ((480, 640), (640, 480)), draw_stuff, loop_stuff),
    Subject("ade20k_847", "val", 600, ADE_FULL_SIZES, draw_full, loop_full),
    Subject("ade20k_150", "val", 6000, ((512, 683), (256, 256)), draw_150, loop_150),
    Subject("pascal_ctx_459", "val", 6000, ((375, 500), (500, 333)), draw_459, loop_459),
)


def prepare(subject: Subject, root: Path, images: int) -> tuple[Catalog, list[str]]:
    """Write raw files, class names and the catalog of one subject; return the catalog and stems."""
    official = load_catalog()
    dataset = official.datasets[subject.dataset]
    form = {"ade": "ADE_val_{:08d}", "coc": "{:012d}", "pas": "2008_{:06d}"}[subject.dataset[:3]]
    stems = [form.format(number) for number in range(1, images + 1)]
    for number, stem in enumerate(stems[:DRAWN]):
        subject.draw(root, stem, subject.sizes[number % len(subject.sizes)], number)
    for number, stem in enumerate(stems[DRAWN:], start=DRAWN):
        first = stems[number % DRAWN]
        for file in [*root.rglob(f"{first}.*"), *root.rglob(f"{first}_seg.*")]:
            os.link(file, file.with_name(file.name.replace(first, stem)))
    _write_names(subject, root, dataset.classes)
    if subject.dataset == "pascal_ctx_459":
        _write_list(root, stems)
    splits = {
        name: split.model_copy(
            update={"count": images if name == subject.split else 0, "absent": None}
        )
        for name, split in dataset.splits.items()
    }
    entry = dataset.model_copy(update={"splits": splits, "id_table_sha256": None})
    datasets = official.datasets | {subject.dataset: entry}
    return official.model_copy(update={"datasets": datasets}), stems


def _write_names(subject: Subject, root: Path, classes: int) -> None:
    rows = COCO_IDS if subject.dataset == "coco_stuff" else range(1, classes + 1)
    path = vocabulary_path(root, load_catalog().datasets[subject.dataset].vocabulary)
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(f"{row}:class {row}" for row in rows))
    table = [{"name": "x", "id": i, "trainId": t} for t, i in enumerate(FULL_IDS)]
    (path.parent / "ade20k_847_table.txt").write_text(f"TABLE = {table}")


def _write_list(root: Path, stems: list[str]) -> None:
    images = [
        {"image_id": int(stem.replace("_", "")), "file_name": f"{stem}.jpg", "phase": "val"}
        for stem in stems
    ]
    content = {"images": images, "annos_segmentation": []}
    (root / "VOCdevkit/VOC2010/trainval_merged.json").write_text(json.dumps(content))


@dataclass(frozen=True)
class Timing:
    """One run."""

    wall: float
    processor: float
    """Seconds of all processes, user and system."""


def timed(work: Callable[[], object]) -> Timing:
    """Run `work` once, in a process that inherits what is imported."""
    start, before = time.perf_counter(), _processor_seconds()
    process = FORK.Process(target=work)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit("a run failed")
    return Timing(time.perf_counter() - start, _processor_seconds() - before)


def _processor_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(subject: Subject, *, images: int, repeats: int, cores: int) -> dict[str, object]:
    """Time the loop, one process and all cores, in turn; return rates of the median run."""
    found: dict[str, list[Timing]] = {name: [] for name in RUNS}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        catalog, stems = prepare(subject, root, images)
        looped = stems[: max(round(images * LOOPED), DRAWN)]
        for repeat in range(repeats):
            found["loop"].append(timed(lambda: run_loop(subject, root, looped)))
            found["loops side by side"].append(
                timed(lambda: run_loops(subject, root, looped, cores))
            )
            for name, workers in (("one process", 1), ("all cores", cores)):
                found[name].append(timed(lambda w=workers: run(subject, catalog, root, w)))
                if repeat == 0:
                    compare(subject, catalog, root, stems)
                remove_outputs(subject, catalog, root)
    counts = dict(zip(RUNS, (len(looped), cores * len(looped), images, images), strict=True))
    return {
        "dataset": subject.dataset,
        "sizes": [f"{width} x {height}" for height, width in subject.sizes],
        "per_core": per_core(found["loop"], len(looped), found["one process"], images),
        **{
            name: {"images": counts[name], **rates(runs, counts[name])}
            for name, runs in found.items()
        },
    }


def rates(runs: list[Timing], images: int) -> dict[str, object]:
    """Return the rates of the median run."""
    processor = statistics.median(run.processor for run in runs)
    return {
        "images_per_second": round(images / statistics.median(run.wall for run in runs), 1),
        "processor_ms_per_image": round(1000 * processor / images, 2),
        "wall_seconds": [round(run.wall, 2) for run in runs],
    }


def per_core(loop: list[Timing], looped: int, ours: list[Timing], images: int) -> dict[str, float]:
    """Return how many times as much processor time the loop takes per image.

    Runs of one turn are compared, as a busy machine slows both: median, smallest, largest.
    """
    pairs = zip(loop, ours, strict=True)
    ratios = [a.processor / looped / (b.processor / images) for a, b in pairs]
    found = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
    return {name: round(ratio, 2) for name, ratio in found.items()}


def run_loop(subject: Subject, root: Path, stems: list[str]) -> None:
    """Do the plain loop over all images."""
    shutil.rmtree(root / "loop", ignore_errors=True)
    (root / "loop").mkdir()
    for stem in stems:
        subject.loop(root, stem)


def run_loops(subject: Subject, root: Path, stems: list[str], count: int) -> None:
    """Do the plain loop in several processes at once, each over all images."""
    places = [root / f"beside{index}" for index in range(count)]
    for place in places:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for entry in root.iterdir():
            if entry.name in ("ade", "coco", "VOCdevkit"):
                (place / entry.name).symlink_to(entry)
    processes = [FORK.Process(target=run_loop, args=(subject, place, stems)) for place in places]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            sys.exit(f"{subject.dataset}: a loop failed")


def run(subject: Subject, catalog: Catalog, root: Path, workers: int) -> None:
    """Convert as `maftp convert` does."""
    prepare_process()
    convert(subject.dataset, catalog, root, workers=workers)


def compare(subject: Subject, catalog: Catalog, root: Path, stems: list[str]) -> None:
    """Stop unless both gave the same pixels."""
    dataset = catalog.datasets[subject.dataset]
    folder = root / str(dataset.splits[subject.split].labels)
    for stem in stems[:DRAWN]:
        with (
            Image.open(folder / f"{stem}{dataset.label_suffix}") as ours,
            Image.open(root / f"loop/{stem}{dataset.label_suffix}") as loops,
        ):
            if not np.array_equal(np.asarray(ours), np.asarray(loops)):
                sys.exit(f"{subject.dataset}: {stem} differs")


def remove_outputs(subject: Subject, catalog: Catalog, root: Path) -> None:
    """Make the next run start anew."""
    split = catalog.datasets[subject.dataset].splits[subject.split]
    shutil.rmtree(root / str(split.labels))
    shutil.rmtree(root / "manifests")
    if subject.dataset in ("ade20k_847", "pascal_ctx_459"):
        shutil.rmtree(root / split.images)


def describe(results: list[dict], facts: dict[str, object]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# Conversion throughput",
        "",
        f"`{facts['command']}`, {facts['date']}, {facts['machine']}; {facts['load']}.",
        f"{facts['versions']}.",
        "",
        "Median of the runs. *Loop*: one process, the same libraries, a pass per class, no checks.",
        "*Per core*: processor time per image of the loop over that of the conversion in one",
        "process, median and range over pairs of runs, one after the other. *Cores*: rate on all",
        "cores over that of one process. *Limit*: the same of plain loops side by side, which",
        "share nothing: what the machine can gain.",
        "",
        "| data set | images/s, loop | images/s, one process | images/s, all cores | per core |"
        " cores | limit |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for result in results:
        loop, one, many = (result[key] for key in ("loop", "one process", "all cores"))
        ratio = "{median:.2f} x ({min:.2f} to {max:.2f})".format(**result["per_core"])
        cores = many["images_per_second"] / one["images_per_second"]
        limit = result["loops side by side"]["images_per_second"] / loop["images_per_second"]
        rates = " | ".join(f"{r['images_per_second']:.0f}" for r in (loop, one, many))
        lines.append(f"| {result['dataset']} | {rates} | {ratio} | {cores:.2f} x | {limit:.2f} x |")
    lines += ["", "| data set | processor ms per image: loop | one process | all cores |"]
    lines += ["| --- | ---: | ---: | ---: |"]
    for result in results:
        values = [
            f"{result[key]['processor_ms_per_image']:.1f}"
            for key in ("loop", "one process", "all cores")
        ]
        lines.append(f"| {result['dataset']} | {' | '.join(values)} |")
    if facts["busy"]:
        lines += [
            "",
            "**The machine was busy with other work**: the rates are lower than it can do, and",
            "what a further core gains cannot be read from them. Every process that is started",
            "takes one to two seconds of processor time before its first image.",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=float, default=1.0, help="factor on the numbers of images")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write .json and .md here")
    parser.add_argument("--machine", default=f"{os.cpu_count()}-core {platform.machine()} machine")
    options = parser.parse_args()
    cv2.setNumThreads(1)  # so that forked processes find no pool of threads
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    results = []
    for subject in SUBJECTS:
        images = max(round(subject.images * options.images), DRAWN)
        results.append(measure(subject, images=images, repeats=options.repeats, cores=cores))
        print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    libraries = {"Pillow": PIL, "OpenCV": cv2, "NumPy": np, "SciPy": scipy}
    versions = {name: module.__version__ for name, module in libraries.items()}
    facts = {
        "command": " ".join(["python", "benchmarks/conversion.py", *_shown_options(options)]),
        "date": datetime.date.today().isoformat(),
        "machine": options.machine,
        "load": f"load average {load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end",
        "busy": load > cores / 4,
        "versions": ", ".join(
            [f"Python {platform.python_version()}", *(f"{n} {v}" for n, v in versions.items())]
        ),
    }
    text = describe(results, facts)
    print(text)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps({**facts, "results": results}, indent=2) + "\n"
        options.out.with_suffix(".json").write_text(content)
        options.out.with_suffix(".md").write_text(text)


def _shown_options(options: argparse.Namespace) -> list[str]:
    return [f"--images {options.images:g}", f"--repeats {options.repeats}"]


if __name__ == "__main__":
    main()
