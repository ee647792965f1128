"""`maftp doctor`: what this machine lacks for an experiment."""

from __future__ import annotations

from maftp.cli.options import PARAMS, ParamFiles, read_params


def doctor(*, params: ParamFiles = PARAMS) -> None:
    """Say what this machine lacks for an experiment: disk, memory, GPUs, driver."""
    from maftp.data.catalog import load_catalog
    from maftp.data.layout import datasets_root
    from maftp.errors import MaftpError
    from maftp.machine import check_machine
    from maftp.needs import needs_of

    experiment = read_params(params)
    data, sources = experiment.data, []
    # the miniature world draws its archives, and a catalog of them, itself
    catalog = load_catalog(None if data.world else data.catalog, data.own)
    if data.world is None:
        needs = needs_of(experiment, catalog)
        sources = [*needs.sources, *needs.released]
    root = datasets_root(data.root)
    found = check_machine(experiment, catalog, root, sources=sources, jobs_run_here=True)
    for finding in found:
        print(finding.text)
    if any(finding.stops for finding in found):
        raise MaftpError(f"{experiment.experiment} cannot be run here as it is")
    if not found:
        print(f"{experiment.experiment}: nothing is missing")
