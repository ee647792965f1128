"""The page of all models, docs/zoo.md: a row per experiment and variant, from what is recorded.

Published and measured scores stand in tables of their own; what nobody measured is said to be so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from maftp.data.catalog import Catalog, load_catalog
from maftp.report.differences import SEMANTIC
from maftp.report.model_card import METHODS, markdown_table, published_table
from maftp.report.published import match_recipe, published_rows
from maftp.results import PANOPTIC

if TYPE_CHECKING:
    from maftp.config import Params

MINIATURE = "miniature"
_UNBROKEN = "\N{NO-BREAK SPACE}"
_HEAD = """\
# The zoo

Every experiment that comes with maftp, by method. `maftp zoo` writes this page from the parameter
files, the catalog, and the tables of published and of measured scores
(`maftp/report/published.csv`, `measured.csv`).

**Published scores are what authors state, measured ones what this code computed; they never share
a table. What has no measured row was not measured**: most experiments were never run here.

## Run one

With the name of any experiment below in place of `maftp_base_released`, what this machine lacks,
what would run, and the run itself:

```sh
maftp doctor --params params.yaml workflow/experiments/maftp_base_released.yaml
snakemake -n --configfile workflow/experiments/maftp_base_released.yaml
snakemake --cores all results/table.csv --configfile workflow/experiments/maftp_base_released.yaml
```

`make table` runs the miniature. A run leaves weights, their
[model card](looking.md#models-to-share), `train.log`, `history.csv` and scores with their origin in
`results/EXPERIMENT/VARIANT/seedN/`. No such folder lies in the repository.

**How to read the tables.** *model* is experiment and variant; its *weights* are trained by the run,
those of another variant, or released ones, [listed below](#released-weights). *five* stands for
{five}; each mIoU is computed in both definitions, (a) and (b); the numbers after it are the shorter
side of a test image and the limit of the longer one, in pixels. *published* names rows of the
[published scores](#published-scores). *asks for* is what the experiment asks of a cluster, an upper
limit that nobody measured; for comparison, the authors of MAFT+ report 14 hours on eight A100s for
Base.
"""
_RELEASED = """\
## Released weights

The experiments that name them download them, check every entry and keep them as .safetensors. Where
no digest is published, that of the first download is recorded and then enforced.
"""
_PUBLISHED = """\
## Published scores

As the authors state them, in percent; protocol (a) and (b) are the two definitions of mIoU.
"""
_MEASURED = """\
## Measured scores

By this code, in percent, mean ± standard deviation over seeds. The miniature world is drawn: its
scores cannot be compared with any above.
"""


def zoo_page(experiments: Mapping[str, Params]) -> str:
    """Return the page.

    Args:
        experiments: parameters with their variants, by the name of the file.
    """
    catalog, measured = load_catalog(), _measured()
    rows = {
        name: [_row(name, params, variant, catalog, measured) for variant in params.variants]
        for name, params in experiments.items()
    }
    parts = [_HEAD.format(five=", ".join(SEMANTIC))]
    for title, names in _families(experiments):
        columns = list(rows[names[0]][0])
        lines = [row.values() for name in names for row in rows[name]]
        parts.append(f"## {title}\n\n{markdown_table(columns, lines)}\n")
    parts.append(f"{_RELEASED}\n{_released(catalog)}\n")
    recipes = dict.fromkeys(_recipe(p, v) for p in experiments.values() for v in p.variants)
    parts.append(f"{_PUBLISHED}\n{published_table(filter(None, recipes))}\n")
    table = measured.fillna("").replace(" ± ", f"{_UNBROKEN}±{_UNBROKEN}", regex=True)
    parts.append(f"{_MEASURED}\n{markdown_table(list(table), table.itertuples(index=False))}\n")
    return "\n".join(parts)


def _families(experiments: Mapping[str, Params]) -> Iterator[tuple[str, list[str]]]:
    """Yield the experiments by the method of their first variant; the miniature has its own."""
    if MINIATURE in experiments:
        yield "The miniature world", [MINIATURE]
    groups: dict[str, list[str]] = {method: [] for method in METHODS}
    for name, params in experiments.items():
        if name != MINIATURE:
            first = params.for_variant(next(iter(params.variants)))
            groups[first.model.name].append(name)
    yield from ((METHODS[method], names) for method, names in groups.items() if names)


def _row(
    name: str, params: Params, variant: str, catalog: Catalog, measured: pd.DataFrame
) -> dict[str, str]:
    chosen = params.for_variant(variant)
    file = "../params.yaml" if name == MINIATURE else f"../workflow/experiments/{name}.yaml"
    size, known = chosen.input.test, (measured.experiment == name) & (measured.variant == variant)
    recipe = _recipe(params, variant)
    models = published_rows(recipe).model.unique() if recipe else []
    data = catalog.dataset(chosen.data.train).title.removesuffix(", training")
    return {
        "model": f"[`{name}`]({file}) `{variant}`",
        "weights": _weights(chosen),
        "published": ", ".join(models) or "none",
        "measured here": "yes" if known.any() else "not measured",
        "CLIP, data": f"{chosen.clip.model}, {data}",
        "scored on": f"{_benchmarks(params.benchmarks)}; {size.short_side}, {size.max_side}",
        "asks for": _asks(chosen),
    }


def _weights(params: Params) -> str:
    if params.weights is None:
        return "trained"
    path = Path(params.weights)
    if path.parts[0] == "results":
        return f"of `{path.parts[2]}`"
    return f"`{path.stem}`"


def _benchmarks(names: Sequence[str]) -> str:
    five = set(SEMANTIC) <= set(names)
    others = [name for name in names if not (five and name in SEMANTIC)]
    return ", ".join([*(["five"] if five else []), *others]).replace(PANOPTIC, "ADE panoptic")


def _asks(params: Params) -> str:
    trains = params.weights is None
    needs = params.resources.train if trains else params.resources.evaluate
    per_worker = params.execution.gpus_per_worker
    gpus = per_worker * params.execution.workers if trains else min(per_worker, 1)
    parts = [f"{gpus} GPU{'s' if gpus > 1 else ''}"] if gpus else []
    parts += [f"{needs.memory_mb / 1000:g} GB", f"{needs.minutes / 60:g} h"]
    return ", ".join(parts).replace(" ", _UNBROKEN)


def _recipe(params: Params, variant: str) -> str | None:
    """Return the published recipe that a variant is, as the table of results finds it."""
    chosen = params.for_variant(variant)
    path = None if chosen.weights is None else Path(chosen.weights)
    if path is not None and path.parts[0] == "results":
        return None
    released = None if path is None else path.stem
    match = match_recipe(chosen.model_dump(mode="json"), released=released)
    return None if match.differences else match.recipe


def _released(catalog: Catalog) -> str:
    rows = [
        (
            f"`{name}`",
            f"[{entry.title}]({entry.url})",
            entry.sha256 or "none published",
            entry.licence,
            entry.note,
        )
        for name, entry in catalog.weights.items()
    ]
    return markdown_table(["weights", "address", "SHA-256", "licence", "source"], rows)


def _measured() -> pd.DataFrame:
    """Read the scores that this code measured, as text."""
    with files("maftp.report").joinpath("measured.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype=str)
