"""`maftp data ...`: what is there of the data sets, is it sound, what it looks like."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from maftp.cli.options import PARAMS, NewFile, ParamFiles, Positive, catalog_and_root, read_params

if TYPE_CHECKING:
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
def links(*, params: ParamFiles = PARAMS) -> None:
    """Link the folders under the names that other code expects."""
    from maftp.data.status import make_links

    _, root = catalog_and_root(read_params(params))
    for link in make_links(root):
        print(f"{link} -> {link.readlink()}")
