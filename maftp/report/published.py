"""The paper's scores beside those measured here, for runs of the paper's recipes only.

What a run is called decides nothing: the parameters recorded with its results are compared with
those of `published_recipes.yaml`. Most published mIoU divides by the classes of ground truth or
prediction (protocol a, Detectron2 up to v0.6), some by those of the ground truth alone (b);
`published.csv` says which, and the measured rows of the comparison follow it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd
import yaml

from maftp.report.differences import SEMANTIC
from maftp.results import UNION

_PANOPTIC = ("PQ", "SQ", "RQ")
_OF_TRAINING = ("train.", "input.train.", "weights", "clip.pretrained", "clip.stochastic_depth")
"""Keys that say nothing of an evaluation of released weights."""
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


def match_recipe(params: Mapping[str, Any], *, released: str | None = None) -> Match:
    """Compare recorded parameters with the published recipes.

    Args:
        params: nested blocks of params.yaml, as manifests hold them; what is missing differs, but
            for keys that earlier versions had not.
        released: name in the catalog of the authors' weights that were evaluated; only the keys of
            the evaluation count then. None for a training of our own.
    """
    flat = _read()["unrecorded"] | _flat(params)
    recipes = _read()["recipes"]
    if released is not None:
        name = _read()["released"].get(released)
        if name is None:
            return Match("", (f"weights: {released} instead of a published recipe's",))
        kept = {k: v for k, v in recipes[name].items() if not k.startswith(_OF_TRAINING)}
        recipes = {name: kept}
    found = []
    for name, recipe in recipes.items():
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
    """Return published beside measured scores of an experiment, a line per model and benchmark.

    Args:
        rows: its rows of the table of results, one per variant and seed; those whose `recipe` is
            a published one are compared.

    Returns:
        Columns `model`, `weights`, `benchmark`, `protocol`, one per published source, `measured
        here` and `difference` (to the first source), in percent; None where nothing was published.
    """
    lines = []
    for (recipe, variant), group in rows.groupby(["recipe", "variant"], sort=False):
        published = published_rows(str(recipe))
        released = group["released"].fillna("").iloc[0]
        seeds = f"{len(group)} seed" + ("s" if len(group) > 1 else "")
        weights = f"released weights {released}" if released else f"trained here, {seeds}"
        for benchmark in (*SEMANTIC, *_PANOPTIC):
            for protocol, same in published.groupby("protocol", sort=False):
                values = same.set_index("source")[benchmark].dropna()
                union = benchmark in SEMANTIC and protocol == "a"
                column = benchmark + UNION if union else benchmark
                measured = group[column].mean() if column in group else None
                if len(values) and not pd.isna(measured):
                    name = f"mIoU ({protocol})" if benchmark in SEMANTIC else "ADE20K panoptic"
                    line = {"model": variant, "weights": weights, "benchmark": benchmark}
                    line |= {"protocol": name, **values, "measured here": measured}
                    lines.append(line | {"difference": measured - values.iloc[0]})
    if not lines:
        return None
    table = pd.DataFrame(lines)
    last = ["measured here", "difference"]
    return table[[*(name for name in table.columns if name not in last), *last]]


@cache
def _read() -> dict[str, dict[str, Any]]:
    text = files("maftp.report").joinpath("published_recipes.yaml").read_text()
    values = yaml.safe_load(text)
    recipes = {name: values["common"] | own for name, own in values["recipes"].items()}
    return {"recipes": recipes, **{key: values[key] for key in ("released", "unrecorded")}}


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
