"""The `maftp` command: each step of the pipeline, to be run by hand or by a Snakemake rule.

A command imports what it needs when it runs, so that `maftp --help` answers at once.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Group, Parameter

from maftp.cli import (
    data,
    diagnose,
    doctor,
    figures,
    look,
    ops,
    params,
    prepare,
    runs,
    tables,
    train,
    weights,
)
from maftp.credentials import without_credentials
from maftp.errors import MaftpError, describe_os_error

logger = logging.getLogger("maftp")

COMMANDS = {
    "The steps, in order": (
        *(prepare.world, prepare.download, prepare.unpack, prepare.convert),
        *(weights.clip, weights.released_weights, weights.embed),
        *(train.train, train.evaluate, tables.table),
    ),
    "Data, parameters, runs": (doctor.doctor, params.params, data.data, runs.runs, tables.show),
    "Your own pictures": (look.predict, look.demo, look.export),
    "The report": (
        *(tables.scores, tables.merge_tables, tables.ablations, figures.figure),
        *(figures.curves, figures.drift, diagnose.diagnose, figures.gallery, figures.provenance),
        tables.zoo,
    ),
    "Building": (ops.ops, weights.miniature_clip),
}


def create_app() -> App:
    """Return the command line; its `meta` takes the options that all commands have."""
    app = App(
        name="maftp",
        help="Open-vocabulary segmentation with MAFT+, from archives to a table of results.\n\n"
        "`snakemake --cores all results/table.csv` runs all steps; each can be run alone as well.",
        default_parameter=Parameter(
            negative=(),
            json_list=False,
            show_default=lambda value: None if value is False else value,
        ),
        version_flags=(),
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        verbose=False,
    )
    for title, commands in COMMANDS.items():
        group = Group.create_ordered(title)
        for place, command in enumerate(commands):
            if not isinstance(command, App):
                command = App(command.__name__.replace("_", "-"), default_command=command)
            command.group, command.sort_key = group, place
            app.command(command)
    app.register_install_completion_command(group="Help")
    app["--help"].group = "Help"
    app.meta.suppress_keyboard_interrupt = False  # `main` says what to do

    @app.meta.default
    def run(
        *words: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        log: Path | None = None,
        code: Annotated[str | None, Parameter(show=False)] = None,
    ) -> None:
        """Run one command.

        Args:
            words: the command and its own arguments.
            log: also write everything, tracebacks too, to this file.
            code: what `code_mark` returned when the workflow was planned; given by the rules.
        """
        _start_logging(log)
        if code is not None:
            from maftp.tracking.source import check_code

            check_code(code)
        command, bound, _ = app.parse_args(words)
        if command == app.help_print:
            listed = " ".join(("maftp", *words, "--help"))
            raise CycloptsError(msg=f"no command is named; `{listed}` lists them")
        command(*bound.args, **bound.kwargs)

    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a mistake, a full disk and the like end in one sentence and an exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        app = create_app()
        app.meta(words)
        sys.stdout.flush()
    except MaftpError as error:
        return _stopped(words, str(error), error.exit_code)
    except ModuleNotFoundError as error:
        return _stopped(words, _missing(error), 1)
    except CycloptsError as error:
        return _stopped(words, " ".join(str(error).split()), 2)
    except BrokenPipeError as error:
        # Nothing reads what we print, as after `| head`; Python would try to again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _stopped(words, describe_os_error(error), 1)
    except OSError as error:
        return _stopped(words, describe_os_error(error), 1)
    except MemoryError:
        return _stopped(words, "the machine's memory does not suffice; give it more", 1)
    except KeyboardInterrupt:
        return _stopped(words, "interrupted; run it again to go on", 130)
    return 0


def _missing(error: ModuleNotFoundError) -> str:
    """Return which extra brings a package that is not installed.

    Raises:
        ModuleNotFoundError: it is of no extra; something is broken.
    """
    name = (error.name or "").split(".")[0]
    for requirement in metadata.requires("maftp") or []:
        extra = re.fullmatch(rf"{re.escape(name)}\b.*extra == \"(\w+)\".*", requirement)
        if extra:
            remedy = f"pip install ./envs/detectron2 '.[{extra[1]}]'"
            return f"needs the package {name}, which is not installed; `{remedy}` brings it"
    raise error


def _stopped(words: Sequence[str], sentence: str, exit_code: int) -> int:
    logger.debug("stopped", exc_info=True)
    command = " ".join(("maftp", *words[:1]))
    print(f"{command}: {without_credentials(sentence)}", file=sys.stderr)
    return exit_code


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
