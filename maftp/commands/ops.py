"""Commands about the operators' backends."""

from __future__ import annotations

import argparse

from rich_argparse import RichHelpFormatter

from maftp.commands.parser import command


def add(commands: argparse._SubParsersAction) -> None:
    """Add these commands."""
    sentence = "Build the operators' own kernels, or say which backends there are."
    parser = commands.add_parser(
        "ops", help=sentence, description=sentence, formatter_class=RichHelpFormatter
    )
    nested = parser.add_subparsers(dest="ops_command", required=True, metavar="COMMAND")
    _add_build(nested)
    _add_status(nested)


def _add_build(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "build",
        "Compile the operators for the CPU, and for GPUs where there is an nvcc.",
        _build,
        params=False,
    )
    parser.add_argument(
        "kinds", nargs="*", help="cpu, cuda (all that this machine has compilers for)"
    )
    parser.add_argument(
        "--arch", nargs="+", metavar="NUMBER", help="GPU generations, such as 80 90 (80 and newer)"
    )
    parser.add_argument("--again", action="store_true", help="compile what is there already")


def _build(options: argparse.Namespace) -> None:
    from maftp.errors import OperatorError
    from maftp.ops import build

    for kind in options.kinds:
        if kind not in build.KINDS:
            raise OperatorError(f"{kind}: no such library; choose from {', '.join(build.KINDS)}")
    for number in options.arch or ():
        if not number.isdigit():
            raise OperatorError(f"--arch {number}: no number of a GPU generation, such as 90")
    build.build(
        options.kinds or build.buildable(),
        architectures=options.arch or build.ARCHITECTURES,
        again=options.again,
    )


def _add_status(commands: argparse._SubParsersAction) -> None:
    command(
        commands,
        "status",
        "Print which backends of the operators can be used here, and why the others cannot.",
        _status,
        params=False,
    )


def _status(options: argparse.Namespace) -> None:
    import torch

    from maftp.ops import backends

    for name, reason in backends.status().items():
        print(f"{name:10} {'can be used' if reason is None else reason}")
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        print(f"on {device}: {backends.describe(device)}")
