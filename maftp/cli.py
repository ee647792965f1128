"""The `maftp` command: each step of the pipeline, to be run by hand or by a Snakemake rule.

A command imports what it needs when it runs, so that `maftp --help` answers at once.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from rich_argparse import RichHelpFormatter

from maftp.commands import (
    data,
    datasets,
    doctor,
    look,
    ops,
    params,
    reports,
    runs,
    tables,
    tracking,
    weights,
)
from maftp.errors import MaftpError

logger = logging.getLogger("maftp")

DESCRIPTION = """\
Open-vocabulary segmentation with MAFT+: every step from archives to a table of results.

`snakemake --cores all results/table.csv` runs all of them in order; each can be run alone as well.
The steps: world, download, unpack, convert, clip, embed, train, evaluate, table."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a user's mistake ends in one sentence and its exit code."""
    options = _parser().parse_args(arguments)
    _start_logging(options.log)
    try:
        options.run(options)
    except MaftpError as error:
        logger.debug("stopped", exc_info=True)
        print(f"maftp {options.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"maftp {options.command}: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="maftp", description=DESCRIPTION, formatter_class=RichHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    topics = (params, doctor, data, datasets, weights, runs, tables, tracking, reports, look, ops)
    for topic in topics:
        topic.add(commands)
    return parser


def _start_logging(log: Path | None) -> None:
    console = logging.StreamHandler()
    console.setLevel(logging.INFO)
    console.setFormatter(logging.Formatter("%(message)s"))
    handlers: list[logging.Handler] = [console]
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(log, mode="w")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handlers.append(file)
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    logger.setLevel(logging.DEBUG)
