"""The paper's rows beside those measured here, for runs of the paper's experiments only.

Published mIoU divides by the classes of ground truth or prediction (protocol a, Detectron2 up to
v0.6), and so do the measured rows of this comparison.
"""

from __future__ import annotations

from importlib.resources import files

import pandas as pd

MEASURED = "measured here"
_SCORES = ("A-847", "A-150", "PC-459", "PC-59", "PAS-20", "PQ", "SQ", "RQ")
_PANOPTIC = ("PQ", "SQ", "RQ")


def published_rows(experiment: str) -> pd.DataFrame:
    """Return what was published for an experiment; empty for any other."""
    with files("maftp.report").joinpath("published.csv").open() as file:
        table = pd.read_csv(file)
    return table[table.experiment == experiment].reset_index(drop=True)


def comparison(experiment: str, rows: pd.DataFrame) -> pd.DataFrame | None:
    """Return published and measured rows of an experiment, each marked as what it is.

    Args:
        experiment: name of the experiment.
        rows: its rows of the table of results, one per variant and seed.

    Returns:
        Columns `model`, `source`, and the scores in percent; None where nothing was published.
    """
    published = published_rows(experiment)
    if published.empty:
        return None
    measured = []
    for variant, group in rows.groupby("variant", sort=False):
        line = {"model": variant, "source": f"{MEASURED}, {len(group)} seed(s)"}
        for name in _SCORES:
            column = name if name in _PANOPTIC else f"{name} (a)"
            line[name] = group[column].mean() if column in group else None
        measured.append(line)
    table = pd.concat([published, pd.DataFrame(measured)], ignore_index=True)
    table = table[["model", "source", *_SCORES]]
    return table.dropna(axis=1, how="all")
