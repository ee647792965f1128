"""Commands about parameter files."""

from __future__ import annotations

import argparse

from maftp.commands.parser import command, read_params


def add(commands: argparse._SubParsersAction) -> None:
    """Add these commands."""
    _add_params(commands)


def _add_params(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands, "params", "Check parameter files and print what they amount to.", _params
    )
    parser.add_argument("--schema", action="store_true", help="print what every key means instead")


def _params(options: argparse.Namespace) -> None:
    import yaml

    from maftp.config import describe_keys
    from maftp.credentials import cleaned

    if options.schema:
        print(describe_keys())
    else:
        print(
            yaml.safe_dump(cleaned(read_params(options).model_dump(mode="json")), sort_keys=False),
            end="",
        )
