"""`maftp data ...`: what is there of the data sets, is it sound, what it looks like."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from maftp.commands.parser import catalog_and_root, command, group, read_params

if TYPE_CHECKING:
    from maftp.data.status import DatasetStatus


def add(commands: argparse._SubParsersAction) -> None:
    """Add these commands."""
    commands = group(commands, "data", "Look after the data sets: status, verify, preview, links.")
    _add_status(commands)
    _add_verify(commands)
    _add_preview(commands)
    _add_links(commands)


def _add_status(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "status", "Say what is there of every data set, and what is missing.", _status
    )
    parser.add_argument("datasets", nargs="*", metavar="DATASET", help="only these (all)")


def _status(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    from maftp.data.status import dataset_status, weights_status

    catalog, root = catalog_and_root(read_params(options))
    names = options.datasets or list(catalog.datasets)
    console = Console(width=None if os.isatty(1) else 120, highlight=False)
    table = Table("data set", "state", "files", "size", "sources", title=str(root))
    for name in names:
        status = dataset_status(name, catalog, root)
        files = f"{status.found:,} of {status.expected:,}"
        table.add_row(name, status.state, files, decimal(status.bytes), _sources(status))
    if not options.datasets:
        for entry in weights_status(catalog, root):
            table.add_row(f"weights {entry.name}", entry.state, "", decimal(entry.bytes), "")
    console.print(table)


def _sources(status: DatasetStatus) -> str:
    lines = []
    for state in dict.fromkeys(source.state for source in status.sources):
        names = [source.name for source in status.sources if source.state == state]
        lines.append(f"{state}: {', '.join(names)}")
    return "\n".join(lines + [source.note for source in status.sources if source.note])


def _add_verify(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "verify",
        "Check digests of archives and labels again, and that every image decodes.",
        _verify,
    )
    parser.add_argument(
        "datasets", nargs="*", metavar="DATASET", help="only these (all that are converted)"
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="processes (all cores of this machine)"
    )


def _verify(options: argparse.Namespace) -> None:
    from maftp.data.layout import manifest_path
    from maftp.data.verify import verify_archives, verify_dataset
    from maftp.errors import DataError

    catalog, root = catalog_and_root(read_params(options))
    there = [name for name in catalog.datasets if manifest_path(root, name).exists()]
    names = options.datasets or there
    problems: dict[str, None] = {}
    for name in names:
        found = verify_archives(name, catalog, root)
        found += verify_dataset(name, catalog, root, workers=options.jobs)
        print(f"{name}: {'sound' if not found else f'problems: {len(found)}'}")
        problems |= dict.fromkeys(found)
    for problem in problems:
        print(problem)
    if problems:
        raise DataError(f"{root}: problems found: {len(problems)}, named above")
    if not names:
        print(f"{root}: nothing is converted yet")


def _add_preview(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "preview", "Draw images of a data set with their labels painted.", _preview
    )
    parser.add_argument("dataset", help="name in the catalog, such as ade20k_150")
    parser.add_argument("--split", help="split in the catalog (validation where there is one)")
    parser.add_argument("--images", type=int, default=9, help="how many (9)")
    parser.add_argument("--out", type=Path, help="PNG to write (results/previews/DATASET.png)")


def _preview(options: argparse.Namespace) -> None:
    from maftp.data.convert.run import read_dataset_vocabulary
    from maftp.data.preview import load_samples
    from maftp.report.contact_sheet import Tile, draw_contact_sheet

    catalog, root = catalog_and_root(read_params(options))
    samples = load_samples(
        options.dataset, catalog, root, split=options.split, count=max(options.images, 1)
    )
    dataset = catalog.dataset(options.dataset)
    classes = read_dataset_vocabulary(options.dataset, dataset, root)
    out = options.out or Path(f"results/previews/{options.dataset}.png")
    draw_contact_sheet(
        out,
        [Tile(sample.image, sample.labels, sample.segments) for sample in samples],
        names=classes.names,
        colours=[category.color for category in classes.categories],
    )
    print(f"{out}: {', '.join(sample.stem for sample in samples)}")


def _add_links(commands: argparse._SubParsersAction) -> None:
    command(
        commands,
        "links",
        "Link the folders under the names that other code expects.",
        _links,
    )


def _links(options: argparse.Namespace) -> None:
    from maftp.data.links import make_links

    _, root = catalog_and_root(read_params(options))
    for link in make_links(root):
        print(f"{link} -> {link.readlink()}")
