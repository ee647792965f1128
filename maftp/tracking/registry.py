"""Final weights in MLflow's model registry, loadable without knowing this project.

model = mlflow.pyfunc.load_model("models:/miniature-maftp@seed0")
labels = model.predict(images, params={"vocabulary": ["sky", "red car"]})
"""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from maftp.files import sha256
from maftp.tracking.manifest import package_versions
from maftp.tracking.mlflow_store import MlflowStore
from maftp.tracking.run_record import RunRecord

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

logger = logging.getLogger(__name__)

WEIGHTS_TAG = "maftp.weights_sha256"
_EXAMPLE_SIDE = 64


def model_name(record: RunRecord) -> str:
    """Return the name in the registry; its versions are the trainings of one variant."""
    return f"{record.experiment}-{record.variant}"


def register(store: MlflowStore, record: RunRecord, run_id: str) -> None:
    """Add the weights of a run as a version with the alias `seed{seed}`; once per weights."""
    from mlflow.exceptions import MlflowException

    assert record.weights is not None
    name, digest = model_name(record), sha256(record.weights)
    try:
        store.client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = store.client.search_model_versions(f"name = '{name}'")
    if any(version.tags.get(WEIGHTS_TAG) == digest for version in versions):
        return
    tags = {WEIGHTS_TAG: digest, "maftp.row": record.row}
    tags["maftp.commit"] = str(record.manifest.get("commit"))
    with _global_store(store), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # advice to write the signature as type hints
        source = _log_model(record, run_id)
        version = store.client.create_model_version(name, source, run_id, tags=tags)
    store.client.set_registered_model_alias(name, f"seed{record.seed}", version.version)


def _log_model(record: RunRecord, run_id: str) -> str:
    """Keep weights, parameters, signature and example in the run; return where."""
    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        params = Path(folder) / "params.yaml"
        params.write_text(yaml.safe_dump(dict(record.manifest["params"]), sort_keys=False))
        packages = {k: v for k, v in package_versions().items() if k != "maftp"}
        with mlflow.start_run(run_id=run_id, log_system_metrics=False):
            info = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(__file__).with_name("served_model.py")),
                artifacts={"weights": str(record.weights), "params": str(params)},
                signature=_signature(record),
                input_example=(_example(), {"vocabulary": ["sky", "grass, lawn"]}),
                pip_requirements=[f"{name}=={version}" for name, version in packages.items()],
            )
    return info.model_uri


def _signature(record: RunRecord) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    size = record.manifest["params"]["input"]["test"]
    names = _training_vocabulary(record)
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("uint8"), (-1, -1, -1, 3), name=None)]),
        outputs=Schema([TensorSpec(np.dtype("int64"), (-1, -1, -1), name=None)]),
        params=ParamSchema(
            [
                ParamSpec("vocabulary", "string", names, shape=(-1,)),
                ParamSpec("short_side", "long", size["short_side"]),
                ParamSpec("max_side", "long", size["max_side"]),
            ]
        ),
    )


def _training_vocabulary(record: RunRecord) -> Sequence[str]:
    """Return the class names that training noted in the weights: the default vocabulary."""
    from safetensors import safe_open

    with safe_open(record.weights, framework="np") as file:
        return json.loads(file.metadata()["maftp"])["training_vocabulary"]


def _example() -> NDArray[np.uint8]:
    """Return one image of colour gradients, (1, H, W, 3)."""
    ramp = np.linspace(0, 255, _EXAMPLE_SIDE, dtype=np.uint8)
    red, green = np.meshgrid(ramp, ramp)
    return np.stack([red, green, red[::-1]], axis=-1)[None]


@contextmanager
def _global_store(store: MlflowStore) -> Iterator[Any]:
    """Point MLflow's global functions at the store: they alone log models, and look them up."""
    import mlflow

    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_tracking_uri(store.uri)
    mlflow.set_registry_uri(store.uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])
