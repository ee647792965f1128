"""The folder of a run, `results/{experiment}/{variant}/seed{seed}`: its files and what they say.

Runs of the ablation grid lie in `results/ablations/{experiment}/{run}/seed{seed}`.

manifest.json               what the training was made of; none of a run with others' weights
history.csv                 a row per progress line of the training
weights.safetensors         what it led to
README.md                   the model card of the weights
validation/                 pictures of each validation
evaluation/{benchmark}.json scores and where they come from
evaluation/{benchmark}/     overlay pictures
evaluation/{benchmark}.statistics/
                            counts per image and, of semantic benchmarks, confusions
drift.json                  how far CLIP moved
diagnosis/{benchmark}.json  where the model loses: masks, classes or void

Nothing else reads these files. Tables, plots, DVC and MLflow get every score from here, in percent
and as the evaluation measured it.
"""  # fmt: skip

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from maftp.errors import DataError
from maftp.grid import FOLDER, PREFIX

if TYPE_CHECKING:
    import pandas as pd

WEIGHTS, HISTORY, MANIFEST = "weights.safetensors", "history.csv", "manifest.json"
CARD = "README.md"
VALIDATION, DRIFT, DIAGNOSIS = "validation", "drift.json", "diagnosis"
DIFFERENCES = "differences.csv"
"""Beside the table of an experiment: how its variants differ from the baseline."""
IMAGES, CONFUSION = "images.csv", "confusion.csv"

PANOPTIC = "ADE-panoptic"
"""The benchmark whose columns do without its name."""
UNION = " (a)"
"""How the columns of mIoU in protocol (a) end."""
SCORES = {
    "semantic": {"mIoU_b": "{}", "mIoU_a": "{}" + UNION},
    "panoptic": {"PQ": "{} PQ", "SQ": "{} SQ", "RQ": "{} RQ"},
    "instance": {"AP": "{} AP"},
}
"""By metric the main scores, the first of them first, and their columns for a benchmark."""
MAIN_SCORE = {metric: next(iter(titles)) for metric, titles in SCORES.items()}
COSTS = ("trainable_parameters", "training_seconds", "peak_host_memory_mb", "peak_gpu_memory_mb")
"""What manifests say of the cost of a training."""
COUNTS = {
    "semantic": ("correct", "truth", "predicted"),
    "panoptic": ("iou", "true_positives", "false_positives", "false_negatives"),
}
"""What is counted per image and class, by metric; nothing of instances."""


@dataclass(frozen=True)
class Evaluation:
    """What one benchmark gave."""

    path: Path
    content: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Evaluation:
        """Read what `maftp evaluate` wrote.

        Raises:
            DataError: it is missing, damaged or something else.
        """
        content = read_json(path, remedy="evaluate the run")
        try:
            whole = SCORES[content["metric"]].keys() <= content["scores"].keys()
        except (AttributeError, KeyError, TypeError):
            whole = False
        if not whole:
            raise DataError(f"{path}: no result of an evaluation; delete it and evaluate again")
        return cls(path, content)

    @property
    def benchmark(self) -> str:
        """Return its name."""
        return self.path.stem

    @property
    def metric(self) -> str:
        """Return semantic, panoptic or instance."""
        return self.content["metric"]

    @property
    def scores(self) -> dict[str, float | None]:
        """Return the main scores, the first of them first; None where no class was to score."""
        return {name: self.content["scores"][name] for name in SCORES[self.metric]}

    @property
    def columns(self) -> dict[str, float | None]:
        """Return the main scores by their columns in the table of results."""
        titles = SCORES[self.metric]
        return {
            titles[name].format(self.benchmark).removeprefix(f"{PANOPTIC} "): score
            for name, score in self.scores.items()
        }

    @property
    def per_class(self) -> list[dict[str, Any]]:
        """Return a record per class: `id`, `name`, `seen`, and IoU, PQ or AP."""
        return self._part("per_class")

    @property
    def provenance(self) -> dict[str, Any]:
        """Return what it was made of."""
        return self._part("provenance")

    def _part(self, name: str) -> Any:
        if name not in self.content:
            raise DataError(f"{self.path}: says nothing of {name}; delete it and evaluate again")
        return self.content[name]

    @property
    def origin(self) -> dict[str, Any]:
        """Return what it was made of, under the keys of a manifest."""
        made = self.content.get("provenance", {})
        return {"params": {}, **made, "packages": made.get("versions", {})}

    @property
    def overlays(self) -> Path:
        """Return the folder of pictures."""
        return self.path.with_suffix("")

    @property
    def statistics(self) -> Path:
        """Return the folder of counts."""
        return self.path.with_suffix(".statistics")


class Score(NamedTuple):
    """A main score of one run."""

    variant: str
    seed: int
    benchmark: str
    score: str
    percent: float | None


class Run:
    """One variant with one seed: a row of the table."""

    def __init__(self, path: Path) -> None:
        """Take a folder; its files are read when they are asked for.

        Raises:
            DataError: the folder has another name.
        """
        self.path = Path(path)
        *_, self.experiment, self.variant, seed = ("", "", *self.path.absolute().parts)
        if not (seed.startswith("seed") and seed[4:].isdigit()):
            raise DataError(
                f"{path}: no run folder; its name must be experiment/variant/seed<number>"
            )
        self.seed = int(seed[4:])

    @property
    def name(self) -> str:
        """Return what it is called within its experiment."""
        return f"{self.variant}-seed{self.seed}"

    @property
    def row(self) -> str:
        """Return what tells its row in the table from all others."""
        return f"{self.experiment}/{self.variant}/{self.seed}"

    @property
    def trained(self) -> bool:
        """Tell whether it was trained, rather than scored with the weights of another."""
        return (self.path / MANIFEST).exists()

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Return what the training was made of."""
        return read_json(self.path / MANIFEST, remedy="train the run")

    @property
    def costs(self) -> dict[str, float | None]:
        """Return what the training cost; empty when there was none."""
        return {key: self.manifest.get(key) for key in COSTS} if self.trained else {}

    @cached_property
    def history(self) -> list[dict[str, float]]:
        """Return the rows of the training, empty when there was none; cells may be missing."""
        if not self.trained:
            return []
        table = read_table(
            self.path / HISTORY, what="history", remedy="train the run",
            dtype=float, float_precision="round_trip",
        )  # fmt: skip
        return [row.dropna().to_dict() for _, row in table.iterrows()]

    def evaluation(self, benchmark: str) -> Evaluation:
        """Return what a benchmark gave."""
        return Evaluation.read(self.path / "evaluation" / f"{benchmark}.json")

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """Return those that are there, by name."""
        return [Evaluation.read(file) for file in sorted(self.path.glob("evaluation/*.json"))]

    @property
    def scores(self) -> dict[str, float]:
        """Return what is known of main scores, by column, mIoU in protocol (b) alone, and costs."""
        found: dict[str, float | None] = {}
        for evaluation in self.evaluations:
            found |= evaluation.columns
        found |= self.costs
        return numbers({key: v for key, v in found.items() if not key.endswith(UNION)})

    @property
    def origin(self) -> dict[str, Any]:
        """Return what it was made of: the manifest, or what its evaluations say instead.

        Raises:
            DataError: it was neither trained nor evaluated.
        """
        if self.trained:
            return self.manifest
        if not self.evaluations:
            raise DataError(f"{self.path}: neither trained nor evaluated; run the experiment first")
        parts = [evaluation.origin for evaluation in self.evaluations]
        inputs = {path: digest for p in parts for path, digest in p.get("inputs", {}).items()}
        return parts[0] | {"inputs": inputs}

    @property
    def drift(self) -> dict[str, Any]:
        """Return what `maftp drift` measured."""
        return read_json(self.path / DRIFT, remedy="run `maftp drift`")

    def diagnosis(self, benchmark: str) -> dict[str, Any]:
        """Return what `maftp diagnose` measured on a benchmark."""
        path = self.path / DIAGNOSIS / f"{benchmark}.json"
        return read_json(path, remedy="run `maftp diagnose`")

    @property
    def diagnosed(self) -> list[str]:
        """Return the benchmarks that it was diagnosed on, by name."""
        return sorted(file.stem for file in self.path.glob(f"{DIAGNOSIS}/*.json"))


def find_runs(results: Path, variants: Iterable[str], seeds: Sequence[int]) -> list[Run]:
    """Name the runs of an experiment, `results/{experiment}`, variant by variant.

    Those of its ablation grid lie in `results/ablations/{experiment}`.
    """
    grid = results.parent / FOLDER / results.name
    return [
        Run((grid if variant.startswith(PREFIX) else results) / variant / f"seed{seed}")
        for variant in variants
        for seed in seeds
    ]


def score_rows(runs: Sequence[Run], benchmarks: Sequence[str]) -> list[Score]:
    """Return every main score of every run.

    Raises:
        DataError: a result is missing or damaged.
    """
    return [
        Score(run.variant, run.seed, benchmark, name, percent)
        for run in runs
        for benchmark in benchmarks
        for name, percent in run.evaluation(benchmark).scores.items()
    ]


def flatten(values: Mapping[str, Any], separator: str = ".") -> dict[str, Any]:
    """Return nested values under joined keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            inner = flatten(value, separator)
            flat |= {f"{key}{separator}{name}": leaf for name, leaf in inner.items()}
        else:
            flat[key] = value
    return flat


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among nested values, under keys with slashes."""
    return {
        key: float(value)
        for key, value in flatten(values, "/").items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def read_counts(statistics: Path, metric: str) -> pd.DataFrame:
    """Read the counts of an evaluation: columns `image`, `class` and those of `COUNTS`.

    Args:
        statistics: their folder.
        metric: of the benchmark.

    Raises:
        DataError: they are missing, damaged or of another metric.
    """
    return read_table(
        statistics / IMAGES, what=f"statistics of a {metric} benchmark", remedy="evaluate the run",
        columns=("image", "class", *COUNTS[metric]), dtype={"image": str},
    )  # fmt: skip


def read_table(
    path: Path, *, what: str, remedy: str, columns: Sequence[str] = (), **options: Any
) -> pd.DataFrame:
    """Read a CSV table that an earlier step wrote.

    Args:
        path: of the table.
        what: it is, for errors.
        remedy: what makes it, for errors.
        columns: that must be there.
        **options: of `pandas.read_csv`.

    Raises:
        DataError: it is missing, damaged or another table.
    """
    import pandas as pd  # takes a second, which those who want names only need not wait

    try:
        table = pd.read_csv(path, **options)
    except FileNotFoundError:
        raise DataError(f"{path}: no such {what}; {remedy} first") from None
    except ValueError as error:  # all of pandas' are
        raise DataError(f"{path}: no table ({error}); {remedy} again") from None
    if missing := [name for name in columns if name not in table]:
        raise DataError(f"{path}: no {what}, column {missing[0]} is missing; {remedy} again")
    return table


def read_json(path: Path, *, remedy: str) -> Any:
    """Read a JSON file that an earlier step wrote; `remedy` is what makes it, for errors.

    Raises:
        DataError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path}: no such result; {remedy} first") from None
    except ValueError as error:
        raise DataError(f"{path}: not readable as JSON ({error}); {remedy} again") from None
