"""Finished runs in MLflow: scores, pictures, table, registered weights; training and evaluations.

A row of the table is a run that holds scores and costs but no losses, as MLflow's page compares
runs by the number that was logged first. The training, with its curves, and the evaluations, with
their pictures, are nested below.

All of it comes from files, so a store that was lost, or that never saw a run because the server was
away or the results came through DVC, is filled by logging again. What is there already stays.

model = mlflow.pyfunc.load_model("models:/miniature-maftp@seed0")
labels = model.predict(images, params={"vocabulary": ["sky", "red car"]})
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml

from maftp.files import sha256
from maftp.results import HISTORY, MANIFEST, WEIGHTS, Evaluation, Run, numbers
from maftp.tracking.manifest import digest_of, package_versions
from maftp.tracking.mlflow_store import (
    DIGEST,
    PARENT,
    PART,
    ROW,
    SUMMARY,
    TRAINING,
    MlflowStore,
)
from maftp.tracking.mlflow_views import offer_views

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.models import ModelSignature

logger = logging.getLogger(__name__)

LOGGED = "maftp.logged"
"""Tag: digest of the files that the run was last logged from."""
WEIGHTS_TAG = "maftp.weights_sha256"


def log_run(
    store: MlflowStore, run: Run, *, table: Path | None, pictures: Sequence[Path] = ()
) -> None:
    """Bring one run, its evaluations and its registered weights up to date.

    Args:
        store: where to.
        run: its folder.
        table: table.csv with the run's row; its .md is attached as well.
        pictures: further artifacts, such as learning curves.
    """
    origin, client = run.origin, store.client
    tables = [] if table is None else [table, table.with_suffix(".md")]
    own = [run.path / name for name in (MANIFEST, HISTORY, WEIGHTS)]
    files = [*own, *(evaluation.path for evaluation in run.evaluations), *tables]
    state = digest_of([run.row, [sha256(file) for file in files if file.exists()]])
    digest = origin.get("run") or digest_of([run.row, dict(origin["inputs"])])
    entry = _find_or_create(store, run, {DIGEST: digest, PART: SUMMARY})
    if entry.data.tags.get(LOGGED) == state:
        logger.info("%s is logged", run.row)
        return
    run_id = entry.info.run_id
    # Step 0: MLflow draws bars of what has no later step, else curves, here of a single point.
    store.log(entry, manifest=origin, rows=[{"step": 0, **run.scores}])
    client.log_text(run_id, yaml.safe_dump(origin["params"], sort_keys=False), "params.yaml")
    client.log_dict(run_id, origin, "manifest.json")
    for file in (run.path / HISTORY, *tables, *pictures):
        if file.exists():
            client.log_artifact(run_id, str(file))
    if run.trained:
        _log_training(store, run, {DIGEST: digest, PART: TRAINING}, parent=run_id)
    for evaluation in run.evaluations:
        _log_evaluation(store, run, evaluation, parent=run_id)
    if (run.path / WEIGHTS).exists():
        _register(store, run, run_id)
    client.set_terminated(run_id)
    tags = {f"dvc.{path}": _md5(path) for path in _files_in_dvc(run)}
    if table is not None:
        tags |= {"maftp.table": str(table), "maftp.table_sha256": sha256(table)}
    store.log(entry, tags=tags | {LOGGED: state})
    offer_views(store, [*run.scores])
    logger.info("logged %s with %d evaluations", run.row, len(run.evaluations))


def _find_or_create(store: MlflowStore, run: Run, tags: Mapping[str, str]) -> MlflowRun:
    """Return the part of a run that `tags` name."""
    method = run.origin["params"].get("model", {}).get("name", "")
    return store.find({ROW: run.row, **tags}) or store.create(run.row, tags, method)


def _log_training(store: MlflowStore, run: Run, tags: Mapping[str, str], *, parent: str) -> None:
    """Bring the run of the training up to date, and move it below that of the row."""
    entry = _find_or_create(store, run, tags)
    last = store.last_step(entry)
    rows = [row for row in run.history if row["step"] > last]
    store.log(entry, manifest=run.manifest, rows=rows, tags={PARENT: parent})
    for name in (MANIFEST, HISTORY):
        if (run.path / name).exists():
            store.client.log_artifact(entry.info.run_id, str(run.path / name))
    store.client.set_terminated(entry.info.run_id)


def _files_in_dvc(run: Run) -> set[Path]:
    """Return inputs and weights; inputs that changed since the run are left out."""
    recorded = {Path(name): digest for name, digest in run.origin.get("inputs", {}).items()}
    same = {path for path, digest in recorded.items() if path.is_file() and sha256(path) == digest}
    weights = run.path / WEIGHTS
    return same | {weights} if weights.exists() else same


def _md5(path: Path) -> str:
    """Return what dvc.lock and DVC's cache call a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _log_evaluation(store: MlflowStore, run: Run, evaluation: Evaluation, *, parent: str) -> None:
    """Log one benchmark as a run nested in that of the training; another result replaces it."""
    client, origin = store.client, evaluation.origin
    state = {"maftp.result_sha256": sha256(evaluation.path)}
    identity = {PARENT: parent, PART: evaluation.benchmark}
    found = store.find(identity)
    if found is not None:
        if state.items() <= found.data.tags.items():
            return
        client.delete_run(found.info.run_id)
    child = _find_or_create(store, run, identity)
    content = evaluation.content
    measured = numbers(content["scores"] | {"speed": content.get("speed", {})})
    store.log(child, manifest=origin, rows=[{"step": 0, **measured}])
    client.log_artifact(child.info.run_id, str(evaluation.path))
    for picture in sorted(evaluation.overlays.glob("*.png")):
        client.log_artifact(child.info.run_id, str(picture), "overlays")
    client.set_terminated(child.info.run_id)
    store.log(child, tags={WEIGHTS_TAG: origin.get("weights_sha256"), **state})


def _register(store: MlflowStore, run: Run, run_id: str) -> None:
    """Add the weights of a run as a version with the alias `seed{seed}`; once per weights."""
    client, digest = store.client, sha256(run.path / WEIGHTS)
    name = f"{run.experiment}-{run.variant}"
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    versions = client.search_model_versions(f"name = '{name}'")
    if any(version.tags.get(WEIGHTS_TAG) == digest for version in versions):
        return
    tags = {WEIGHTS_TAG: digest, ROW: run.row, "maftp.commit": str(run.manifest.get("commit"))}
    source = _log_model(store, run, run_id)
    version = client.create_model_version(name, source, run_id, tags=tags)
    client.set_registered_model_alias(name, f"seed{run.seed}", version.version)


def _log_model(store: MlflowStore, run: Run, run_id: str) -> str:
    """Keep weights, parameters, signature and example in the run; return where."""
    import mlflow

    # Only MLflow's global functions log models.
    mlflow.set_tracking_uri(store.uri)
    mlflow.set_registry_uri(store.uri)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # advice to write the signature as type hints
        params = Path(folder) / "params.yaml"
        params.write_text(yaml.safe_dump(run.manifest["params"], sort_keys=False))
        packages = {k: v for k, v in package_versions().items() if k != "maftp"}
        image = np.arange(64 * 64 * 3).astype(np.uint8).reshape(1, 64, 64, 3)
        with mlflow.start_run(run_id=run_id, log_system_metrics=False):
            info = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(__file__).with_name("served_model.py")),
                artifacts={"weights": str(run.path / WEIGHTS), "params": str(params)},
                signature=_signature(run),
                input_example=(image, {"vocabulary": ["sky", "grass, lawn"]}),
                pip_requirements=[f"{name}=={version}" for name, version in packages.items()],
            )
    return info.model_uri


def _signature(run: Run) -> ModelSignature:
    from mlflow.models import ModelSignature, infer_signature
    from mlflow.types import Schema, TensorSpec
    from safetensors import safe_open

    with safe_open(run.path / WEIGHTS, framework="np") as file:
        names = json.loads(file.metadata()["maftp"])["training_vocabulary"]
    defaults = {"vocabulary": names, **run.manifest["params"]["input"]["test"]}
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, -1, -1, 3))]),
        outputs=Schema([TensorSpec(np.dtype("int64"), (-1, -1, -1))]),
        params=infer_signature(params=defaults).params,
    )
