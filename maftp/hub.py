"""A model as a folder in the form of the Hugging Face hub: written, fetched, read.

model.safetensors   the tensors, with what training noted in the header
config.json         parameters of architecture, input and evaluation; digest of the tensors
CLIP.json           open_clip's description of the CLIP, where open_clip does not ship it
README.md, LICENSE  the model card, and what is known of the terms

A folder may come from anybody: nothing in it is run, no file outside of it is opened, and of its
parameters only the blocks that describe a model are taken.
"""  # fmt: skip

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from maftp.config import Params, recorded_params
from maftp.credentials import without_credentials
from maftp.errors import CheckpointError, DataError, OutputError
from maftp.files import atomic_path, check_output, find_file, sha256, write_json
from maftp.modeling.checkpoint import DERIVED
from maftp.modeling.checkpoint_file import METADATA, read_metadata
from maftp.modeling.tensor_files import save_tensors
from maftp.results import CARD, read_json

if TYPE_CHECKING:
    from maftp.modeling.segmenter import Segmenter

logger = logging.getLogger(__name__)

SCHEME = "hf://"
CONFIG, TENSORS, LICENCE = "config.json", "model.safetensors", "LICENSE"
FORMAT = 1
"""Version of the folder's form."""
_BLOCKS = ("input", "clip", "model", "evaluate")
"""What of the parameters a model is made of; all else is the user's own."""
_ADDRESS = re.compile(rf"{SCHEME}([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w-][\w./-]*))?")
_PLAIN = re.compile(r"[\w-][\w.-]*")
_NO_FOLDER = "give one that `maftp export --hub` wrote"


def check_new(folder: Path) -> None:
    """Refuse a place that is taken or cannot be written to.

    Raises:
        OutputError: says what is in the way.
    """
    check_output(folder, folder=True)
    if folder.exists() and any(folder.iterdir()):
        raise OutputError(f"{folder}: is not empty; name a new folder for the model")


def write_folder(
    folder: Path,
    *,
    model: Segmenter,
    params: Params,
    weights: Path,
    card: str,
    licence: str,
) -> None:
    """Write the folder of a model, whole or not at all.

    Args:
        folder: that is not there yet, or empty.
        model: as it was loaded from `weights`.
        params: of the variant.
        weights: its checkpoint; one of our own is taken as it is, so that its digest stays.
        card: text of the model card.
        licence: text of the terms.

    Raises:
        OutputError: the folder is not empty, or cannot be written.
    """
    check_new(folder)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        if noted := read_metadata(weights):
            shutil.copyfile(weights, temporary / TENSORS)
        else:
            state = {k: v for k, v in model.state_dict().items() if not k.endswith(DERIVED)}
            noted = dict(model.architecture)
            save_tensors(temporary / TENSORS, state, key=METADATA, noted=noted)
        if params.clip.config is not None:
            found = find_file(params.clip.config)
            if found is None:
                raise CheckpointError(f"clip.config: no file {params.clip.config}; put it back")
            shutil.copyfile(found, temporary / f"{params.clip.model}.json")
        write_json(temporary / CONFIG, _config(params, sha256(temporary / TENSORS)))
        (temporary / CARD).write_text(card)
        (temporary / LICENCE).write_text(licence)


def _config(params: Params, digest: str) -> dict[str, Any]:
    values = params.model_dump(mode="json")
    blocks = {name: values[name] for name in _BLOCKS}
    pretrained = PurePosixPath(params.clip.pretrained)
    if pretrained.is_absolute():  # of this machine
        blocks["clip"]["pretrained"] = pretrained.name
    if params.clip.config is not None:
        blocks["clip"]["config"] = f"{params.clip.model}.json"
    return {
        "library_name": "maftp",
        "format": FORMAT,
        "experiment": params.experiment,
        "trained_on": params.data.train,
        "weights_sha256": digest,
        "params": blocks,
    }


def fetch(address: str) -> Path:
    """Return the local folder of a model on the hub, fetched where it is not there.

    HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE mean what they mean to huggingface_hub.

    Args:
        address: hf://owner/name, or hf://owner/name@revision.

    Raises:
        CheckpointError: the address is wrong, there is no such model, or it cannot be fetched.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise CheckpointError(
            f"{address}: not the address of a model; write hf://owner/name[@revision]"
        )
    repository, revision = found.groups()
    config = _download(address, repository, CONFIG, revision)
    # All files of one commit, also when a branch moves on meanwhile.
    commit = config.parent.name
    _download(address, repository, TENSORS, commit)
    if name := _clip_file(_content(config.parent), config):
        _download(address, repository, name, commit)
    return config.parent


def _download(address: str, repository: str, name: str, revision: str | None) -> Path:
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except errors.GatedRepoError:
        sentence = "its owner grants access on request; ask there, then set HF_TOKEN"
    except errors.RepositoryNotFoundError:
        sentence = "the hub has no such model, or it is private; check the name, or set HF_TOKEN"
    except errors.RevisionNotFoundError:
        sentence = "the model has no such revision; check what follows the @"
    except errors.RemoteEntryNotFoundError:
        sentence = f"holds no {name}; {_NO_FOLDER}"
    except errors.LocalEntryNotFoundError as error:
        cause = error.__cause__ or error
        if isinstance(cause, errors.OfflineModeIsEnabled):
            reason = "HF_HUB_OFFLINE is set"
        else:
            reason = _first_line(cause)
        sentence = f"{name} is not in the cache and the hub cannot be reached ({reason}); try later"
    except Exception as error:  # whatever a server answers, or a connection that breaks
        logger.debug("download of %s failed", address, exc_info=True)
        sentence = f"{name} could not be fetched ({_first_line(error)}); try again later"
    raise CheckpointError(f"{address}: {sentence}")


def _first_line(error: BaseException) -> str:
    lines = without_credentials(str(error)).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def read_folder(folder: Path, base: Params) -> tuple[Params, Path]:
    """Return the parameters and the checked weights in the folder of a model.

    Args:
        folder: that `write_folder` wrote.
        base: parameters that say what the folder does not.

    Raises:
        CheckpointError: a file is missing or damaged, or the folder is something else.
        ParamsError: its parameters are wrong.
    """
    content, config, weights = _content(folder), folder / CONFIG, folder / TENSORS
    if not weights.is_file():
        raise CheckpointError(f"{folder}: no {TENSORS} in it; {_NO_FOLDER}")
    if sha256(weights) != content.get("weights_sha256"):
        raise CheckpointError(f"{weights}: is not the file that {CONFIG} states; fetch it again")
    if not read_metadata(weights):
        raise CheckpointError(f"{weights}: is not a safetensors file of maftp; {_NO_FOLDER}")
    blocks = {name: block for name, block in content["params"].items() if name in _BLOCKS}
    if name := _clip_file(content, config):
        _check_clip(folder / name)
        blocks["clip"]["config"] = str(folder / name)
    values = base.model_dump(mode="json") | blocks
    values |= {"experiment": content.get("experiment"), "weights": None}
    values["data"]["train"] = content.get("trained_on")
    return recorded_params(values, source=str(config)), weights


def _content(folder: Path) -> dict[str, Any]:
    """Return what the folder's config.json says; `params.clip` is a mapping in it."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {CONFIG} in it; {_NO_FOLDER}")
    try:
        content = read_json(path, remedy="export the model")
    except DataError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(content, dict) or content.get("library_name") != "maftp":
        raise CheckpointError(f"{path}: describes no model of maftp; {_NO_FOLDER}")
    if content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: has form {content.get('format')}, this version reads {FORMAT}; update maftp"
        )
    try:
        dict(content["params"]["clip"])
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{path}: does not describe its CLIP; {_NO_FOLDER}") from None
    return content


def _clip_file(content: Mapping[str, Any], config: Path) -> str | None:
    """Return the name of CLIP's description, which lies beside the weights and nowhere else."""
    clip = content["params"]["clip"]
    name, pretrained = clip.get("config"), PurePosixPath(str(clip.get("pretrained")))
    beside = name is None or (name == f"{clip.get('model')}.json" and _PLAIN.fullmatch(name))
    if not beside or pretrained.is_absolute() or ".." in pretrained.parts:
        raise CheckpointError(
            f"{config}: clip.config or clip.pretrained leads out of the folder; do not trust it"
        )
    return name


def _check_clip(path: Path) -> None:
    """Refuse a description with which open_clip would fetch parts from elsewhere.

    Raises:
        CheckpointError: names the file.
    """
    try:
        described = json.loads(path.read_text())
        vision, text = described["vision_cfg"], described["text_cfg"]
        fetched = vision.get("timm_model_pretrained") or any(key.startswith("hf_") for key in text)
        plain = _PLAIN.fullmatch(vision.get("timm_model_name", ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path}: describes no CLIP; {_NO_FOLDER}") from None
    if fetched or not plain:
        raise CheckpointError(f"{path}: wants parts from elsewhere; do not trust it")
