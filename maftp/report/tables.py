"""The table of results: a row per experiment, variant and seed; means over seeds for people.

Two definitions of mIoU are in use (see `maftp.evaluation.semantic`): the plain benchmark columns
hold protocol (b), the mean over the classes of the ground truth; the columns ending in "(a)" divide
by the number of classes in ground truth or prediction. All scores are percentages.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from maftp.errors import MaftpError
from maftp.files import atomic_path
from maftp.report import environments
from maftp.report.csv_file import write_csv
from maftp.report.differences import MEAN, SEMANTIC, interval_text, read_differences
from maftp.report.published import comparison, match_recipe
from maftp.results import COSTS, DIFFERENCES, SCORES, UNION, Evaluation, Run, read_table

KEYS = ["experiment", "variant", "seed"]
QUALITIES = list(SCORES["panoptic"])
AMOUNT = ["steps", "images", "images_of_benchmarks"]
"""Optimizer steps; images scored, and images that the benchmarks have, over all of them."""
RECIPE = ["recipe", "deviations", "released"]
"""Published recipe of the parameters, if any; else where they differ; name of released weights."""

_FIRST = [*KEYS, *SEMANTIC, *QUALITIES]
_UNION = [name + UNION for name in SEMANTIC]
_LAST = ["protocol", *AMOUNT, *RECIPE, environments.COLUMN]
_PROTOCOL = "mIoU (b): mean over classes in ground truth"
_INTRODUCTION = """\
All scores are percentages. mIoU is protocol (b), the mean over the classes that occur in the ground
truth. Protocol (a), where the sum is divided by the number of classes in truth or prediction,
stands in a table of its own. The two differ where classes are predicted that never occur, as in
PC-459: a comparison with a published number has to know which protocol it is. PQ, SQ and RQ are
panoptic quality on the A-150 scenes. With several seeds: mean ± standard deviation.
"""
_DIFFERENCES = """\
Difference from {baseline} in points, with the 95 % interval of what the choice of {covers} could
do; bold where the interval excludes zero:
"""
_NOT_COMPARABLE = (
    "**Not comparable with the numbers of the paper**: what was recorded with these results is not "
    "a published recipe ({deviations})."
)


def experiment_table(
    run_dirs: Sequence[Path], *, benchmarks: Sequence[str] | None = None
) -> pd.DataFrame:
    """Gather the results of runs into the rows of `table.csv`.

    Args:
        run_dirs: folders `{experiment}/{variant}/seed{seed}`; the rows keep their order.
        benchmarks: the benchmarks to show, which every run must have; None takes what is there.

    Raises:
        MaftpError: a result is missing or damaged, or a folder has another name.
    """
    runs = [Run(Path(folder)) for folder in run_dirs]
    scored = [
        run.evaluations if benchmarks is None else [run.evaluation(name) for name in benchmarks]
        for run in runs
    ]
    pairs = list(zip(runs, scored, strict=True))
    table = pd.DataFrame([_row(run, results) for run, results in pairs])
    return _ordered(table.assign(**{environments.COLUMN: environments.differences(pairs)}))


def write_table(
    table: pd.DataFrame, csv: Path, markdown: Path, *, differences: pd.DataFrame | None = None
) -> None:
    """Write a table as CSV, rounded to two decimals, and as Markdown with means over seeds.

    Args:
        table: what `experiment_table` returns.
        csv: path of the CSV.
        markdown: path of the text for people.
        differences: what `difference_table` returns, to show.
    """
    text = _markdown(table, differences)
    write_csv(table, csv, decimals=2)
    with atomic_path(markdown) as temporary:
        temporary.write_text(text)


def merge_tables(csvs: Sequence[Path], out_csv: Path, out_markdown: Path) -> None:
    """Write the union of the tables of several experiments; rows keep the order of `csvs`.

    Differences are shown where a table has its `differences.csv` beside it.

    Raises:
        MaftpError: a table is missing or damaged, or two of them hold the same run.
    """
    text = {"experiment": str, "variant": str}
    tables = [
        read_table(
            Path(csv), what="table", remedy="make it", columns=KEYS,
            dtype=text, keep_default_na=False, na_values=[""],
        )
        for csv in csvs
    ]  # fmt: skip
    table = _ordered(pd.concat(tables, ignore_index=True))
    if (twice := table[table.duplicated(KEYS)]).size:
        run = "/".join(str(value) for value in twice.iloc[0][KEYS])
        raise MaftpError(f"{run} stands in two tables; name each table once")
    beside = [Path(csv).with_name(DIFFERENCES) for csv in csvs]
    found = [read_differences(path) for path in beside if path.exists()]
    differences = pd.concat(found, ignore_index=True) if found else None
    write_table(table, out_csv, out_markdown, differences=differences)


def _row(run: Run, results: Sequence[Evaluation]) -> dict[str, Any]:
    row: dict[str, Any] = {"experiment": run.experiment, "variant": run.variant, "seed": run.seed}
    for result in results:
        row |= result.columns
    manifest = run.manifest if run.trained else {}
    row |= run.costs | {"steps": manifest.get("steps")}
    row["images"] = _sum([result.content["scores"].get("images") for result in results])
    row["images_of_benchmarks"] = _sum([r.content.get("images_of_benchmark") for r in results])
    return row | _recipe(manifest, results)


def _sum(numbers: list[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known and len(known) == len(numbers) else None


def _recipe(manifest: dict[str, Any], results: Sequence[Evaluation]) -> dict[str, Any]:
    """Compare what training and every evaluation recorded with the published recipes."""
    trained = manifest.get("params", {})
    recorded = [result.origin for result in results] or [{}]
    matches = [
        match_recipe(trained | own.get("params", {}), released=own.get("released"))
        for own in recorded
    ]
    match = max(matches, key=lambda match: len(match.differences))
    found = {"recipe": match.recipe, "deviations": "", "released": recorded[0].get("released")}
    if match.differences:
        found |= {"recipe": "", "deviations": f"nearest to {match.recipe}; {match}"}
    return found


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Put the columns in their fixed order, add missing ones, give each its type."""
    plain, union = further_scores(table)
    table = table.reindex(columns=[*_FIRST, *COSTS, *plain, *_UNION, *union, *_LAST])
    types: dict[str, Any] = {name: "float64" for name in table.columns if name not in KEYS}
    types |= {"seed": "int64", "trainable_parameters": "Int64", "protocol": "object"}
    types |= {name: "Int64" for name in AMOUNT} | {name: "object" for name in RECIPE}
    types[environments.COLUMN] = "object"
    return table.assign(protocol=_PROTOCOL).astype(types)


def further_scores(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return the columns of other benchmarks than the paper's: all but (a), and mIoU (a)."""
    known = {*_FIRST, *COSTS, *_UNION, *_LAST}
    found = sorted((str(name) for name in table.columns if name not in known), key=_extra_order)
    union = [column for column in found if column.endswith(UNION)]
    return [column for column in found if column not in union], union


def _extra_order(column: str) -> tuple[str, int]:
    """Sort benchmarks by name, and the qualities of one benchmark as PQ, SQ, RQ."""
    benchmark, _, quality = column.rpartition(" ")
    if quality in QUALITIES:
        return benchmark, QUALITIES.index(quality)
    return column, 0


def _markdown(table: pd.DataFrame, differences: pd.DataFrame | None) -> str:
    parts = ["# Results\n", _INTRODUCTION]
    for experiment, rows in table.groupby("experiment", sort=False):
        parts.append(f"## {experiment}\n")
        other = rows[rows["recipe"].fillna("") == ""]
        if len(other):
            parts.append(_NOT_COMPARABLE.format(deviations=other["deviations"].iloc[0]) + "\n")
        parts.append(_text(_summary(rows)) + "\n")
        parts += environments.explanation(rows)
        if differences is not None:
            parts += _shown(differences[differences["experiment"] == experiment])
        _, further = further_scores(rows)
        if rows[[*_UNION, *further]].notna().any(axis=None):
            parts.append(
                "mIoU in protocol (a), divided by the classes of ground truth or prediction:\n"
            )
            union = _benchmarks(rows, dict(zip(_UNION, _UNION, strict=True)), further)
            parts.append(_text(_filled(union)) + "\n")
        parts += _paper(rows)
    return "\n".join(parts)


def _shown(differences: pd.DataFrame) -> list[str]:
    """Return the differences of one experiment, a row per variant."""
    if differences.empty:
        return []
    lines = [
        {"variant": variant}
        | {row.score: interval_text(row.difference, row.low, row.high) for row in rows.itertuples()}
        for variant, rows in differences.groupby("variant", sort=False)
    ]
    first = differences.iloc[0]
    title = _DIFFERENCES.format(baseline=first["baseline"], covers=first["covers"])
    return [title, _text(pd.DataFrame(lines).fillna("")) + "\n"]


def _paper(rows: pd.DataFrame) -> list[str]:
    """Return the comparison with the paper, for runs of its recipes."""
    compared = comparison(rows)
    if compared is None:
        return []
    for name in compared.select_dtypes("number").columns:
        form = "{:+.1f}" if name == "difference" else "{:.1f}"
        compared[name] = ["" if pd.isna(value) else form.format(value) for value in compared[name]]
    return ["Compared with the paper, in the protocol of its numbers:\n", _text(compared) + "\n"]


def _summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the main table of an experiment, one row per variant, as text."""
    plain = {name: f"{name} (b)" if name == "PC-459" else name for name in SEMANTIC}
    further, _ = further_scores(rows)
    summary = _benchmarks(rows, plain, [*QUALITIES, *further])
    groups = rows.groupby("variant", sort=False)
    summary["steps"] = [_amount(group["steps"]) for _, group in groups]
    summary["images"] = [
        " of ".join(filter(None, map(_amount, (group["images"], group["images_of_benchmarks"]))))
        for _, group in groups
    ]
    for column, title, unit in (
        ("trainable_parameters", "trainable parameters (M)", 1e6),
        ("training_seconds", "training (min)", 60),
        ("peak_host_memory_mb", "memory (GB)", 1000),
        ("peak_gpu_memory_mb", "GPU memory (GB)", 1000),
    ):
        values = [(group[column].astype(float) / unit).mean() for _, group in groups]
        summary[title] = ["" if pd.isna(value) else f"{value:.2f}" for value in values]
    marks = environments.letters(rows)
    summary[environments.COLUMN] = [
        ", ".join(sorted(set(marks[group.index]) - {""})) for _, group in groups
    ]
    return _filled(summary)


def _filled(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out the columns of what was not scored or measured."""
    return table.loc[:, (table != "").any()]


def _amount(values: pd.Series) -> str:
    known = values.dropna()
    return f"{int(known.min())}" if len(known) else ""


def _benchmarks(rows: pd.DataFrame, titles: dict[str, str], further: Sequence[str]) -> pd.DataFrame:
    """Return scores per variant with their mean, and further ones, which are not in it."""
    groups = rows.groupby("variant", sort=False)
    means = {variant: group[list(titles)].mean(axis=1, skipna=False) for variant, group in groups}
    table = pd.DataFrame({"variant": list(groups.groups)})
    table["seeds"] = [str(len(group)) for _, group in groups]
    for column, title in titles.items():
        table[title] = [mean_text(group[column]) for _, group in groups]
    table[MEAN] = [mean_text(means[variant]) for variant in table["variant"]]
    for column in further:
        table[column] = [mean_text(group[column]) for _, group in groups]
    return table


def mean_text(values: pd.Series, *, decimals: int = 2, sign: str = " ± ") -> str:
    """Return the mean of several seeds with their standard deviation; empty without a score."""
    values = values.dropna()
    if values.empty:
        return ""
    spread = f"{sign}{values.std(ddof=1):.{decimals}f}" if len(values) > 1 else ""
    return f"{values.mean():.{decimals}f}{spread}"


def _text(table: pd.DataFrame) -> str:
    align = ["left"] + ["right"] * (len(table.columns) - 1)
    return table.to_markdown(index=False, disable_numparse=True, colalign=align)
