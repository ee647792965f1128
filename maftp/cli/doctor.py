"""`maftp doctor`: what this machine is, and what it lacks for an experiment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from maftp.cli.options import PARAMS, ParamFiles, read_params

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maftp.config import Params
    from maftp.machine import Finding


def doctor(*, every: bool = False, params: ParamFiles = PARAMS) -> None:
    """Say what this machine is, and what it lacks for an experiment and how to get it.

    Args:
        every: for every experiment that is shipped, one after another.
    """
    from maftp.api import EXPERIMENTS
    from maftp.data.layout import datasets_root
    from maftp.doctor import describe
    from maftp.errors import MaftpError

    experiment = read_params(params)
    for topic, text in describe(datasets_root(experiment.data.root)).items():
        print(f"{topic + ':':<11} {text}")
    if not every:
        print()
        if any(finding.stops for finding in _findings(experiment, params)):
            raise MaftpError(f"{experiment.experiment} cannot be run here as it is")
        return
    for file in sorted(EXPERIMENTS.glob("*.yaml")):
        print()
        files = (*params[:1], file)
        _findings(read_params(files), files)


def _findings(params: Params, files: Sequence[Path]) -> list[Finding]:
    """Print and return what an experiment lacks."""
    from maftp.data.catalog import load_catalog
    from maftp.data.layout import datasets_root
    from maftp.doctor import examine

    # the miniature world draws its archives, and a catalog of them, itself
    catalog = load_catalog(None if params.data.world else params.data.catalog, params.data.own)
    found = examine(params, catalog, datasets_root(params.data.root), files=files)
    print(f"{params.experiment}: {'this is missing' if found else 'nothing is missing'}")
    for finding in found:
        print(f"{'!' if finding.stops else '-'} {finding.text}")
    return found
