"""Which model to segment with: the weights that were named, else the miniature world's."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from maftp.api import experiment_params, load_model
from maftp.config import Params, recorded_params
from maftp.errors import CheckpointError, ParamsError
from maftp.modeling.checkpoint_file import read_metadata
from maftp.modeling.clip_backbone import PROJECT_ROOT

if TYPE_CHECKING:
    from maftp.modeling.fcclip import FCCLIP
    from maftp.modeling.maft_plus import MaftPlus

logger = logging.getLogger(__name__)

MINIATURE = Path("results/miniature/maftp/seed0/weights.safetensors")
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode, with what it was made of."""

    model: MaftPlus | FCCLIP
    params: Params
    weights: Path
    training_names: tuple[str, ...] | None
    """Classes it was trained with; None where the weights do not say."""


def load(
    weights: Path | None, *, experiment: str | None = None, device: str | None = None
) -> Loaded:
    """Load a model.

    Args:
        weights: a checkpoint; None takes the miniature world's when it is there, and says so.
        experiment: a name or parameter file, as `maftp.load_model` takes it; None finds out from
            the weights: own ones know it.
        device: torch device; None takes a GPU when there is one.

    Raises:
        CheckpointError: the weights are missing, damaged, or of another model.
        ParamsError: it cannot be found out which experiment the weights are of.
    """
    path = _miniature() if weights is None else weights
    if not path.is_file():
        raise CheckpointError(f"--weights {path}: no such checkpoint file; mend the path")
    params = _params_of(path) if experiment is None else experiment_params(experiment)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model = load_model(params, path, chosen)
    except RuntimeError as error:  # torch's answer to a device that is not there
        raise ParamsError(f"--device {chosen}: {str(error).splitlines()[0]}") from None
    return Loaded(model, params, path, model.training_names)


def _miniature() -> Path:
    for path in (MINIATURE, PROJECT_ROOT / MINIATURE):
        if path.is_file():
            logger.info("no --weights given; using the miniature world's model, %s", path)
            return path
    raise CheckpointError(
        f"no weights: {MINIATURE} is not there either; name a checkpoint with --weights, or train "
        "the miniature model with `make table`"
    )


def _params_of(weights: Path) -> Params:
    """Read the parameters of own weights: from the manifest beside them, else by their names."""
    manifest = weights.with_name(_MANIFEST)
    if manifest.is_file():
        try:
            values = json.loads(manifest.read_text())["params"]
        except (ValueError, KeyError, TypeError) as error:
            raise ParamsError(f"{manifest}: no manifest of a run ({error!r})") from None
        return recorded_params(values, source=str(manifest))
    noted = read_metadata(weights)
    if "experiment" in noted:
        return experiment_params(":".join([noted["experiment"], noted.get("variant", "maftp")]))
    raise ParamsError(
        f"{weights}: the file does not say which experiment it is of; name it, such as "
        "--experiment maftp_base"
    )
