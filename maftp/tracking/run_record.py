"""What the files of one run say, in the shape in which MLflow shows it."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from maftp.errors import MaftpError
from maftp.files import sha256
from maftp.tracking.manifest import digest_of

WEIGHTS = "weights.safetensors"
COSTS = (
    *("trainable_parameters", "training_seconds"),
    *("peak_host_memory_mb", "peak_gpu_memory_mb"),
)
PANOPTIC = "ADE-panoptic"
"""The benchmark whose qualities have columns without its name."""


@dataclass(frozen=True)
class EvaluationRecord:
    """One benchmark of a run."""

    path: Path
    result: Mapping[str, Any]

    @property
    def benchmark(self) -> str:
        """Return its name in the tables."""
        return self.path.stem

    @property
    def overlays(self) -> Path:
        """Return the folder of pictures."""
        return self.path.with_suffix("")

    @property
    def manifest(self) -> dict[str, Any]:
        """Return what it was made of, under the keys of a training's manifest."""
        made = self.result.get("provenance", {})
        return {"params": {}, **made, "packages": made.get("versions", {})}

    @property
    def metrics(self) -> dict[str, float]:
        """Return all scores, in percent, and its speed."""
        parts = {"": self.result.get("scores", {}), "speed/": self.result.get("speed", {})}
        return {
            f"{prefix}{name}": value
            for prefix, values in parts.items()
            for name, value in _numbers(values).items()
        }


@dataclass(frozen=True)
class RunRecord:
    """A row of the table: one variant with one seed, trained or evaluated with other weights."""

    folder: Path
    experiment: str
    variant: str
    seed: int
    manifest: Mapping[str, Any]
    evaluations: Sequence[EvaluationRecord]
    history: Sequence[Mapping[str, float]] = field(default=(), repr=False)

    @property
    def name(self) -> str:
        """Return the name of the run in MLflow."""
        return f"{self.variant}-seed{self.seed}"

    @property
    def row(self) -> str:
        """Return what tells its row in the table from all others."""
        return f"{self.experiment}/{self.variant}/{self.seed}"

    @property
    def weights(self) -> Path | None:
        """Return its own weights; None when it was not trained."""
        path = self.folder / WEIGHTS
        return path if path.exists() else None

    @property
    def steps(self) -> int:
        """Return the optimizer steps its training took; 0 when it was not trained."""
        return int(self.manifest.get("steps", 0))

    @property
    def scores(self) -> dict[str, float]:
        """Return its main scores in percent, by the columns of the table, and what it cost."""
        found = {key: self.manifest[key] for key in COSTS if key in self.manifest}
        for evaluation in self.evaluations:
            benchmark, scores = evaluation.benchmark, evaluation.result.get("scores", {})
            if "mIoU_b" in scores:
                found[benchmark] = scores["mIoU_b"]
            else:
                prefix = "" if benchmark == PANOPTIC else f"{benchmark} "
                found |= {f"{prefix}{name}": scores.get(name) for name in ("PQ", "SQ", "RQ", "AP")}
        return _numbers(found)

    @cached_property
    def digest(self) -> str:
        """Return what the weights depend on: of the training, or of the inputs evaluated."""
        return self.manifest.get("run") or digest_of([self.row, dict(self.manifest["inputs"])])

    def dvc_hashes(self) -> dict[str, str]:
        """Return the MD5 of inputs and weights by path, as dvc.lock and DVC's cache name them.

        Inputs that changed since the run are left out.
        """
        recorded = self.manifest.get("inputs", {})
        paths = [Path(name) for name, digest in recorded.items() if _is(Path(name), digest)]
        if self.weights is not None and self.weights not in paths:
            paths.append(self.weights)
        return {path.as_posix(): _md5(path) for path in paths}

    def state(self, further: Sequence[Path]) -> str:
        """Return a digest of all files that MLflow gets; it changes when one of them does."""
        own = [self.folder / name for name in ("manifest.json", "history.csv", WEIGHTS)]
        files = [*own, *(evaluation.path for evaluation in self.evaluations), *further]
        return digest_of([self.row, [sha256(file) for file in files if file.exists()]])


def read_run(folder: Path) -> RunRecord:
    """Read the folder `{experiment}/{variant}/seed{seed}` of a run.

    Raises:
        MaftpError: nothing was trained or evaluated there, a file is damaged, or the folder has
            another name.
    """
    experiment, variant, seed = folder.absolute().parts[-3:]
    if not (seed.startswith("seed") and seed[4:].isdigit()):
        raise MaftpError(
            f"{folder}: no run folder; its name must be experiment/variant/seed<number>"
        )
    evaluations = [
        EvaluationRecord(file, _read_json(file))
        for file in sorted((folder / "evaluation").glob("*.json"))
    ]
    history: list[dict[str, float]] = []
    if (folder / "manifest.json").exists():
        manifest = _read_json(folder / "manifest.json")
        history = _read_history(folder / "history.csv")
    elif evaluations:
        manifest = _without_training(evaluations)
    else:
        raise MaftpError(f"{folder}: neither trained nor evaluated; run the experiment first")
    return RunRecord(folder, experiment, variant, int(seed[4:]), manifest, evaluations, history)


def _without_training(evaluations: Sequence[EvaluationRecord]) -> dict[str, Any]:
    """Return a manifest for a run that took its weights from elsewhere."""
    manifest = dict(evaluations[0].manifest)
    manifest["inputs"] = {}
    for evaluation in evaluations:
        manifest["inputs"] |= evaluation.manifest.get("inputs", {})
    return manifest


def _read_history(path: Path) -> list[dict[str, float]]:
    try:
        with open(path, newline="") as file:
            return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    except FileNotFoundError:
        raise MaftpError(f"{path}: no such history; train the run again") from None
    except (TypeError, ValueError) as error:
        raise MaftpError(f"{path}: no table of numbers ({error}); train the run again") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise MaftpError(f"{path}: not readable as JSON ({error}); make it again") from None


def _numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{key}"] = float(value)
    return found


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
