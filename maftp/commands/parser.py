"""What the commands share: options, and how they read parameters."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich_argparse import RichHelpFormatter

if TYPE_CHECKING:
    from maftp.config import Params
    from maftp.data.catalog import Catalog


def command(
    commands: argparse._SubParsersAction,
    name: str,
    help: str,
    run: Callable[[argparse.Namespace], None],
    *,
    params: bool = True,
) -> argparse.ArgumentParser:
    """Add one command; with `params` it reads parameter files.

    Args:
        commands: what `ArgumentParser.add_subparsers` returns.
        name: word on the command line.
        help: one sentence.
        run: called with the parsed options.
        params: whether the command reads parameter files.
    """
    parser = commands.add_parser(
        name, help=help, description=help, formatter_class=RichHelpFormatter
    )
    parser.set_defaults(run=_checking_code(run))
    parser.add_argument(
        "--log", type=Path, help="also write everything, tracebacks too, to this file"
    )
    parser.add_argument("--code", help=argparse.SUPPRESS)  # given by the rules
    if params:
        parser.add_argument(
            "--params",
            nargs="+",
            type=Path,
            default=_default_params(),
            metavar="FILE",
            help="parameter files, later ones laid over earlier ones ($MAFTP_PARAMS, params.yaml)",
        )
    return parser


def _checking_code(run: Callable[[argparse.Namespace], None]) -> Callable:
    """Refuse to run other code than the workflow planned with."""

    def checked(options: argparse.Namespace) -> None:
        if options.code is not None:
            from maftp.tracking.source import check_code

            check_code(options.code)
        run(options)

    return checked


def group(commands: argparse._SubParsersAction, name: str, help: str) -> argparse._SubParsersAction:
    """Add a word that has commands of its own, such as `maftp data status`; return their place."""
    parser = commands.add_parser(
        name, help=help, description=help, formatter_class=RichHelpFormatter
    )
    return parser.add_subparsers(dest="topic_command", required=True, metavar="COMMAND")


def _default_params() -> list[Path]:
    """Return the file that the workflow names, or params.yaml."""
    return [Path(os.environ.get("MAFTP_PARAMS", "params.yaml"))]


def read_params(options: argparse.Namespace) -> Params:
    """Return the checked parameters of the files that --params names."""
    from maftp.config import load_params

    return load_params(*options.params)


def catalog_and_root(params: Params) -> tuple[Catalog, Path]:
    """Return the catalog of an experiment and the root of its data sets."""
    from maftp.data.catalog import load_catalog
    from maftp.data.layout import datasets_root

    return load_catalog(params.data.catalog), datasets_root(params.data.root)
