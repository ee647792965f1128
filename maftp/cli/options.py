"""What commands share: kinds of options, and how they read parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from maftp.errors import DataError
from maftp.files import check_output

if TYPE_CHECKING:
    from maftp.config import Params
    from maftp.data.catalog import Catalog


def _check_file(kind: Any, path: Path | None) -> None:
    if path is not None:
        check_output(path)


def _check_folder(kind: Any, path: Path | None) -> None:
    if path is not None:
        check_output(path, folder=True)


NewFile = Annotated[Path, Parameter(validator=_check_file)]
"""File to write; a place that cannot be written to is refused before hours of work for it."""
NewFolder = Annotated[Path, Parameter(validator=_check_folder)]
"""Folder to write files into."""
Positive = Annotated[int, Parameter(validator=Number(gte=1))]
Several = Parameter(consume_multiple=(1, None))
"""Takes all words up to the next option, `--params a.yaml b.yaml`."""
ParamFiles = Annotated[
    tuple[Path, ...],
    Several,
    Parameter(
        help="parameter files, later ones laid over earlier ones; by default params.yaml.",
        show_default=False,
        env_var="MAFTP_PARAMS",
        env_var_split=lambda kind, value, **_: [value],  # one path, whatever signs are in it
    ),
]
PARAMS = (Path("params.yaml"),)


def read_params(files: Sequence[Path]) -> Params:
    """Return the checked parameters of the files that --params names."""
    from maftp.config import load_params

    return load_params(*files)


def catalog_and_root(params: Params) -> tuple[Catalog, Path]:
    """Return the catalog of an experiment and the root of its data sets."""
    from maftp.data.catalog import load_catalog
    from maftp.data.layout import datasets_root

    return load_catalog(params.data.catalog, params.data.own), datasets_root(params.data.root)


def check_text(text: Sequence[Path], benchmarks: Sequence[str]) -> None:
    """Check that `--text` names a file for each benchmark, or none at all.

    Raises:
        DataError: it names more or fewer.
    """
    if text and len(text) != len(benchmarks):
        raise DataError(
            f"--text: {len(text)} files for {len(benchmarks)} benchmarks; name one for each"
        )
