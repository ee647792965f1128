"""`maftp doctor`: what this machine lacks for an experiment."""

from __future__ import annotations

import argparse

from maftp.commands.parser import command, read_params


def add(commands: argparse._SubParsersAction) -> None:
    """Add this command."""
    command(
        commands,
        "doctor",
        "Say what this machine lacks for an experiment: disk, memory, GPUs, driver.",
        _doctor,
    )


def _doctor(options: argparse.Namespace) -> None:
    from maftp.data.catalog import load_catalog
    from maftp.data.layout import datasets_root
    from maftp.errors import MaftpError
    from maftp.machine import check_machine
    from maftp.needs import needs_of

    params = read_params(options)
    root, sources = datasets_root(params.data.root), []
    # the miniature world draws its archives, and a catalog of them, itself
    catalog = load_catalog(None if params.data.world else params.data.catalog)
    if params.data.world is None:
        needs = needs_of(params, catalog)
        sources = [*needs.sources, *needs.released]
    found = check_machine(params, catalog, root, sources=sources, jobs_run_here=True)
    for finding in found:
        print(finding.text)
    if any(finding.stops for finding in found):
        raise MaftpError(f"{params.experiment} cannot be run here as it is")
    if not found:
        print(f"{params.experiment}: nothing is missing")
