"""`maftp data ...`: what is there of the data sets, is it sound, what it looks like."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from maftp.cli.options import (
    PARAMS,
    NewFile,
    ParamFiles,
    Positive,
    Several,
    catalog_and_root,
    read_params,
)

if TYPE_CHECKING:
    from maftp.config import Params
    from maftp.data.own.checked import Checked
    from maftp.data.status import DatasetStatus

data = App(name="data", help="Look after the data sets.")


@data.command
def status(*datasets: str, params: ParamFiles = PARAMS) -> None:
    """Say what is there of every data set, and what is missing.

    Args:
        datasets: only these; by default all.
    """
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    from maftp.data.status import dataset_status, weights_status

    catalog, root = catalog_and_root(read_params(params))
    console = Console(width=None if os.isatty(1) else 120, highlight=False)
    table = Table("data set", "state", "files", "size", "sources", title=str(root))
    for name in datasets or catalog.datasets:
        status = dataset_status(name, catalog, root)
        files = f"{status.found:,} of {status.expected:,}"
        table.add_row(name, status.state, files, decimal(status.bytes), _sources(status))
    if not datasets:
        for entry in weights_status(catalog, root):
            table.add_row(f"weights {entry.name}", entry.state, "", decimal(entry.bytes), "")
    console.print(table)


def _sources(status: DatasetStatus) -> str:
    lines = []
    for state in dict.fromkeys(source.state for source in status.sources):
        names = [source.name for source in status.sources if source.state == state]
        lines.append(f"{state}: {', '.join(names)}")
    return "\n".join(lines + [source.note for source in status.sources if source.note])


@data.command
def verify(*datasets: str, jobs: int | None = os.cpu_count(), params: ParamFiles = PARAMS) -> None:
    """Check digests of archives and labels again, and that every image decodes.

    Args:
        datasets: only these; by default all that are converted.
        jobs: processes; by default one per core.
    """
    from maftp.data.layout import manifest_path
    from maftp.data.verify import verify_archives, verify_dataset
    from maftp.errors import DataError

    catalog, root = catalog_and_root(read_params(params))
    names = datasets or [n for n in catalog.datasets if manifest_path(root, n).exists()]
    problems: dict[str, None] = {}
    for name in names:
        found = verify_archives(name, catalog, root)
        found += verify_dataset(name, catalog, root, workers=jobs)
        print(f"{name}: {'sound' if not found else f'problems: {len(found)}'}")
        problems |= dict.fromkeys(found)
    for problem in problems:
        print(problem)
    if problems:
        raise DataError(f"{root}: problems found: {len(problems)}, named above")
    if not names:
        print(f"{root}: nothing is converted yet")


@data.command
def preview(
    dataset: str,
    /,
    *,
    split: str | None = None,
    images: Positive = 9,
    out: NewFile | None = None,
    params: ParamFiles = PARAMS,
) -> None:
    """Draw images of a data set with their labels painted.

    Args:
        dataset: name in the catalog, such as ade20k_150.
        split: split in the catalog; by default validation, where there is one.
        images: how many.
        out: PNG to write; by default results/previews/DATASET.png.
    """
    from maftp.data.convert.run import read_dataset_vocabulary
    from maftp.data.preview import load_samples
    from maftp.report.contact_sheet import Tile, draw_contact_sheet

    catalog, root = catalog_and_root(read_params(params))
    samples = load_samples(dataset, catalog, root, split=split, count=images)
    classes = read_dataset_vocabulary(dataset, catalog.dataset(dataset), root)
    out = out or Path(f"results/previews/{dataset}.png")
    draw_contact_sheet(
        out,
        [Tile(sample.image, sample.labels, sample.segments) for sample in samples],
        names=classes.names,
        colours=[category.color for category in classes.categories],
    )
    print(f"{out}: {', '.join(sample.stem for sample in samples)}")


@data.command
def add(
    name: str,
    /,
    *,
    images: Path,
    masks: Path | None = None,
    annotations: Path | None = None,
    names: Path | None = None,
    palette: Path | None = None,
    train: bool = False,
    val: bool = False,
    ignore: Annotated[tuple[int, ...], Several, Parameter(show_default=False)] = (),
    things: Annotated[tuple[str, ...], Several, Parameter(show_default=False)] = (),
    replace: bool = False,
    jobs: int | None = os.cpu_count(),
    params: ParamFiles = PARAMS,
) -> None:
    """Check your own images and masks and enter them as a data set.

    Masks are PNGs with the stems of the images: label maps of 8 or 16 bits, or colours with
    --palette. With --annotations they are COCO's panoptic PNGs; without --masks it is a JSON of
    COCO instances. Files are linked, never changed. docs/your_data.md shows the way to a table.

    Args:
        name: what the data set, and the benchmark of its validation images, shall be called.
        images: folder of the images.
        masks: folder of the masks.
        annotations: COCO's JSON, panoptic or of instances.
        names: class names, `value:name,synonym` a line, or names alone for values from 0 on.
        palette: colours of the classes, `R G B name` a line; the name `ignore` is no class.
        train: these are images to train on.
        val: these are images to score.
        ignore: values in the masks that are no class, besides 255 (16 bits: 65535).
        things: classes that are things, where a panoptic JSON does not say it.
        replace: put it in the place of what was added under this name before.
        jobs: processes; by default one per core.
    """
    from maftp.data.layout import datasets_root
    from maftp.data.own.entry import check_name, enter, entered
    from maftp.data.own.forms import Given, check

    experiment = read_params(params)
    root = datasets_root(experiment.data.root)
    own = Path(experiment.data.own or root / "own.yaml")
    given = Given(images, masks, annotations, names, palette, ignore, things)
    split = _split_of(train, val)
    check_name(name, split, entered(own), replace=replace)
    checked = check(given, workers=jobs or 1)
    sheet = Path(f"results/previews/{name}_{split}.png")
    _draw_own(sheet, checked)
    enter(checked, name=name, split=split, root=root, own=own, replace=replace)
    _say_what_was_added(checked, f"{name}, {split}", sheet)
    print(f"\nEntered in {_shown(own)}. {_next_step(name, split, own, experiment, params)}")


def _split_of(train: bool, val: bool) -> str:
    from maftp.errors import ParamsError

    if train == val:
        raise ParamsError(
            "say what the images are for, with --train or --val; the other part of a set is added "
            "by a command of its own"
        )
    return "train" if train else "val"


def _draw_own(path: Path, checked: Checked, count: int = 9) -> None:
    import numpy as np

    from maftp.data.images import read_rgb
    from maftp.report.contact_sheet import Tile, draw_contact_sheet

    stems = sorted(checked.images)
    chosen = np.linspace(0, len(stems) - 1, min(count, len(stems))).round().astype(int)
    tiles = []
    for stem in (stems[place] for place in chosen):
        labels = checked.labels_of(stem)
        image = read_rgb(checked.images[stem], oriented=False)
        if image.shape[:2] != labels.shape:  # the mask is of the upright image
            image = read_rgb(checked.images[stem], oriented=True)
        tiles.append(Tile(image, labels, labels))
    categories = checked.names.vocabulary.categories
    draw_contact_sheet(
        path,
        tiles,
        names=[category.name for category in categories],
        colours=[category.color for category in categories],
    )


def _say_what_was_added(checked: Checked, what: str, sheet: Path) -> None:
    total = sum(checked.pixels) + checked.ignored_pixels
    print(
        f"{what}: {len(checked.images):,} images, {len(checked.pixels)} classes; "
        f"{100 * checked.ignored_pixels / total:.1f} % of the pixels have none."
    )
    named = zip(checked.names.vocabulary.names, checked.pixels, strict=True)
    if absent := [name for name, pixels in named if not pixels]:
        print(f"Never seen: {'; '.join(absent)}. If that is wrong, mend --names and add it again.")
    print(f"Look at {sheet}: are the right things painted?")


def _next_step(name: str, split: str, own: Path, experiment: Params, params: Sequence[Path]) -> str:
    """Return what to write into a parameter file, where it lacks it, and what to run then."""
    data, lines = experiment.data, []
    keys = [f"own: {_shown(own)}"] if data.own is None else []
    keys += [f"train: {name}"] if split == "train" and data.train != name else []
    lines += [f"  data: {{{', '.join(keys)}}}"] if keys else []
    if split == "val" and name not in experiment.benchmarks:
        lines.append(f"  benchmarks: [{name}]")
    own_files = [str(file) for file in params[1:]] or (["mine.yaml"] if lines else [])
    files = shlex.join(own_files)
    command = "snakemake --cores all" + (f" --configfile {files}" if files else "")
    if lines:
        first = f"Write into a parameter file, {own_files[-1]}:"
        return "\n".join([first, *lines, "then:", f"  {command}"])
    return f"Next, when all splits are in:\n  {command}"


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


@data.command
def links(*, params: ParamFiles = PARAMS) -> None:
    """Link the folders under the names that other code expects."""
    from maftp.data.status import make_links

    _, root = catalog_and_root(read_params(params))
    for link in make_links(root):
        print(f"{link} -> {link.readlink()}")
