"""`maftp world | download | unpack | convert`: from the catalog to converted data sets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from maftp.cli.options import PARAMS, ParamFiles, catalog_and_root, read_params

if TYPE_CHECKING:
    from maftp.data.catalog import Catalog


def world(*, params: ParamFiles = PARAMS) -> None:
    """Draw the miniature world and pack it as the official archives."""
    from maftp.errors import ParamsError
    from maftp.miniworld.archives import write_world

    data = read_params(params).data
    if data.world is None or data.catalog is None:
        raise ParamsError("data.world: this experiment uses data that exist; nothing to draw")
    write_world(
        Path(data.catalog).parent,
        seed=data.world.seed,
        train_images=data.world.train_images,
        val_images=data.world.val_images,
    )


def download(
    source: str,
    /,
    *,
    local: Annotated[Path | None, Parameter(name="--from")] = None,
    params: ParamFiles = PARAMS,
) -> None:
    """Fetch one source of the catalog and check its digest.

    Args:
        source: name in the catalog, such as ade20k_challenge.
        local: the file, when you have it already.
    """
    catalog, root = catalog_and_root(read_params(params))
    _obtain(source, catalog, root, params, local=local)


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


def unpack(source: str, /, *, params: ParamFiles = PARAMS) -> None:
    """Unpack a downloaded source where the data sets' layout wants it.

    Args:
        source: name in the catalog, such as ade20k_challenge.
    """
    from maftp.data.layout import archives_dir
    from maftp.data.unpack import in_place, unpack_source, was_unpacked

    catalog, root = catalog_and_root(read_params(params))
    entry = catalog.source(source)
    kept = in_place(entry, root) and not was_unpacked(source, root)
    if not (kept or (archives_dir(root) / entry.file).exists()):
        _obtain(source, catalog, root, params)  # removed since it was downloaded
    unpack_source(source, catalog, root, params=params)


def convert(
    dataset: str, /, *, jobs: int | None = os.cpu_count(), params: ParamFiles = PARAMS
) -> None:
    """Convert one data set to training ids and check every label map.

    Args:
        dataset: name in the catalog, such as ade20k_150.
        jobs: processes; by default one per core.
    """
    from maftp.data.convert.driver import prepare_process
    from maftp.data.convert.run import convert

    prepare_process()
    catalog, root = catalog_and_root(read_params(params))
    convert(dataset, catalog, root, workers=jobs)
