"""The paper's rows beside those measured here, for runs of the paper's recipes only.

What a run is called decides nothing: the parameters recorded with its results are compared with
those of `published_recipes.yaml`. Published mIoU divides by the classes of ground truth or
prediction (protocol a, Detectron2 up to v0.6), and so do the measured rows of the comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd
import yaml

MEASURED = "measured here"
_SCORES = ("A-847", "A-150", "PC-459", "PC-59", "PAS-20", "PQ", "SQ", "RQ")
_PANOPTIC = ("PQ", "SQ", "RQ")
_SHOWN = 3


@dataclass(frozen=True)
class Match:
    """How recorded parameters compare with the published recipes."""

    recipe: str
    """The recipe with the fewest differences."""
    differences: tuple[str, ...]
    """Each as "key: value instead of the recipe's value"; none for the recipe itself."""

    def __str__(self) -> str:
        shown = "; ".join(self.differences[:_SHOWN])
        more = len(self.differences) - _SHOWN
        return shown + (f"; and {more} more" if more > 0 else "")


def match_recipe(params: Mapping[str, Any]) -> Match:
    """Compare recorded parameters with the published recipes.

    Args:
        params: nested blocks of params.yaml, as manifests hold them; what is missing differs.
    """
    flat = _flat(params)
    found = []
    for name, recipe in _recipes().items():
        differing = [
            f"{key}: {_text(flat.get(key, 'not recorded'))} instead of {_text(value)}"
            for key, value in recipe.items()
            if key not in flat or flat[key] != value
        ]
        found.append(Match(name, tuple(differing)))
    return min(found, key=lambda match: len(match.differences))


def published_rows(recipe: str) -> pd.DataFrame:
    """Return what was published for a recipe; empty for any other."""
    with files("maftp.report").joinpath("published.csv").open() as file:
        table = pd.read_csv(file)
    return table[table.experiment == recipe].reset_index(drop=True)


def comparison(rows: pd.DataFrame) -> pd.DataFrame | None:
    """Return published and measured rows of an experiment, each marked as what it is.

    Args:
        rows: its rows of the table of results, one per variant and seed; those whose `recipe` is
            a published one are compared.

    Returns:
        Columns `model`, `source`, and the scores in percent; None where nothing was published.
    """
    parts = []
    for recipe, own in rows.groupby("recipe", sort=False):
        published = published_rows(str(recipe))
        if not published.empty:
            measured = [_measured(variant, group) for variant, group in own.groupby("variant")]
            parts += [published, pd.DataFrame(measured)]
    if not parts:
        return None
    table = pd.concat(parts, ignore_index=True)[["model", "source", *_SCORES]]
    return table.dropna(axis=1, how="all")


def _measured(variant: str, group: pd.DataFrame) -> dict[str, Any]:
    line: dict[str, Any] = {"model": variant, "source": f"{MEASURED}, {len(group)} seed(s)"}
    for name in _SCORES:
        column = name if name in _PANOPTIC else f"{name} (a)"
        line[name] = group[column].mean() if column in group else None
    return line


@cache
def _recipes() -> dict[str, dict[str, Any]]:
    text = files("maftp.report").joinpath("published_recipes.yaml").read_text()
    values = yaml.safe_load(text)
    return {name: values["common"] | own for name, own in values["recipes"].items()}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        flat[f"{prefix}{key}"] = value
    return flat


def _text(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
