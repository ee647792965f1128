"""Commands from the catalog to converted data sets."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maftp.commands.parser import catalog_and_root, command, read_params

if TYPE_CHECKING:
    from maftp.data.catalog import Catalog


def add(commands: argparse._SubParsersAction) -> None:
    """Add these commands."""
    _add_world(commands)
    _add_download(commands)
    _add_unpack(commands)
    _add_convert(commands)


def _add_world(commands: argparse._SubParsersAction) -> None:
    command(
        commands, "world", "Draw the miniature world and pack it as the official archives.", _world
    )


def _world(options: argparse.Namespace) -> None:
    from maftp.errors import ParamsError
    from maftp.miniworld.archives import write_world

    params = read_params(options)
    world = params.data.world
    if world is None or params.data.catalog is None:
        raise ParamsError("data.world: this experiment uses data that exist; nothing to draw")
    write_world(
        Path(params.data.catalog).parent,
        seed=world.seed,
        train_images=world.train_images,
        val_images=world.val_images,
    )


def _add_download(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "download", "Fetch one source of the catalog and check its digest.", _download
    )
    parser.add_argument("source", help="name in the catalog, such as ade20k_challenge")
    parser.add_argument(
        "--from", dest="local", type=Path, metavar="FILE", help="the file, when you have it already"
    )


def _download(options: argparse.Namespace) -> None:
    catalog, root = catalog_and_root(read_params(options))
    _obtain(options.source, catalog, root, options.params, local=options.local)


def _obtain(
    name: str, catalog: Catalog, root: Path, params: Sequence[Path], *, local: Path | None = None
) -> None:
    """Fetch an archive unless it is there, and note what it is."""
    from maftp.data.download import fetch
    from maftp.data.layout import archives_dir, obtained_path
    from maftp.files import write_json

    archive = fetch(catalog.obtainable(name), archives_dir(root), local=local, params=params)
    found = {"file": archive.name, "bytes": archive.stat().st_size}
    write_json(obtained_path(root, name), found)


def _add_unpack(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "unpack",
        "Unpack a downloaded source where the data sets' layout wants it.",
        _unpack,
    )
    parser.add_argument("source", help="name in the catalog, such as ade20k_challenge")


def _unpack(options: argparse.Namespace) -> None:
    from maftp.data.layout import archives_dir
    from maftp.data.unpack import in_place, unpack_source, was_unpacked

    catalog, root = catalog_and_root(read_params(options))
    source = catalog.source(options.source)
    kept = in_place(source, root) and not was_unpacked(options.source, root)
    if not (kept or (archives_dir(root) / source.file).exists()):
        # removed since it was downloaded
        _obtain(options.source, catalog, root, options.params)
    unpack_source(options.source, catalog, root, params=options.params)


def _add_convert(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "convert",
        "Convert one data set to training ids and check every label map.",
        _convert,
    )
    parser.add_argument("dataset", help="name in the catalog, such as ade20k_150")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="processes (all cores of this machine)"
    )


def _convert(options: argparse.Namespace) -> None:
    from maftp.data.convert.driver import prepare_process
    from maftp.data.convert.run import convert

    prepare_process()
    catalog, root = catalog_and_root(read_params(options))
    convert(options.dataset, catalog, root, workers=options.jobs)
