"""The `maftp` command: each step of the pipeline, to be run by hand or by a Snakemake rule.

A command imports what it needs when it runs, so that `maftp --help` answers at once.
"""

from __future__ import annotations

import argparse
import logging
import os
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
from maftp.credentials import without_credentials
from maftp.errors import MaftpError, describe_os_error
from maftp.files import check_output

logger = logging.getLogger("maftp")

_FILES = ("out", "markdown", "metrics", "numbers")
_FOLDERS = ("overlays", "plots")
_OUT_IS_A_FOLDER = ("train", "predict", "gallery")
"""Commands whose --out is a folder."""

DESCRIPTION = """\
Open-vocabulary segmentation with MAFT+: every step from archives to a table of results.

`snakemake --cores all results/table.csv` runs all of them in order; each can be run alone as well.
The steps: world, download, unpack, convert, clip, embed, train, evaluate, table."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a mistake, a full disk and the like end in one sentence and an exit code."""
    options = _parser().parse_args(arguments)
    try:
        _start_logging(options.log)
        _check_outputs(options)
        options.run(options)
        sys.stdout.flush()
    except MaftpError as error:
        return _stopped(options, str(error), error.exit_code)
    except BrokenPipeError as error:
        # Nothing reads what we print, as after `| head`; Python would try to again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _stopped(options, describe_os_error(error), 1)
    except OSError as error:
        return _stopped(options, describe_os_error(error), 1)
    except MemoryError:
        return _stopped(options, "the machine's memory does not suffice; give it more", 1)
    except KeyboardInterrupt:
        return _stopped(options, "interrupted; run it again to go on", 130)
    return 0


def _stopped(options: argparse.Namespace, sentence: str, exit_code: int) -> int:
    logger.debug("stopped", exc_info=True)
    print(f"maftp {options.command}: {without_credentials(sentence)}", file=sys.stderr)
    return exit_code


def _check_outputs(options: argparse.Namespace) -> None:
    """Refuse places that cannot be written to before hours of work for them."""
    for name, path in vars(options).items():
        if isinstance(path, Path) and name in _FILES + _FOLDERS:
            out_folder = name == "out" and options.command in _OUT_IS_A_FOLDER
            check_output(path, folder=out_folder or name in _FOLDERS)


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
    console.setFormatter(_WithoutCredentials("%(message)s"))
    console.addFilter(_is_for_the_terminal)
    handlers: list[logging.Handler] = [console]
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(log, mode="w")
        file.setFormatter(_WithoutCredentials("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handlers.append(file)
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    logging.captureWarnings(True)
    logger.setLevel(logging.DEBUG)


class _WithoutCredentials(logging.Formatter):
    """Keeps passwords in addresses out of messages and tracebacks, whoever logged them."""

    def format(self, record: logging.LogRecord) -> str:
        return without_credentials(super().format(record))


def _is_for_the_terminal(record: logging.LogRecord) -> bool:
    """Leave what libraries warn of, such as deprecations, to the file of --log."""
    return record.name.split(".")[0] == "maftp" or record.levelno >= logging.ERROR
