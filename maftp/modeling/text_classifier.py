"""Text classifier: every synonym in 14 sentences, embedded, averaged and normalised (FC-CLIP)."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from maftp.data.vocabulary import split_synonyms
from maftp.errors import CheckpointError, DataError
from maftp.files import atomic_path
from maftp.modeling.checkpoint import check_finite
from maftp.modeling.tensor_files import read_noted, save_tensors
from maftp.progress import track

if TYPE_CHECKING:
    from maftp.modeling.clip_backbone import ClipBackbone

logger = logging.getLogger(__name__)

TEMPLATES = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a small {}.",
    "This is a photo of a medium {}.",
    "This is a photo of a large {}.",
    "There is a small {} in the scene.",
    "There is a medium {} in the scene.",
    "There is a large {} in the scene.",
)
"""Four of them have no full stop; released models were trained so."""
_NOTED = "text_embeddings"
CHUNK = 128
"""Sentences embedded at once, for memory."""
_UNWATCHED_CHUNKS = 32
_UNFINISHED = "unfinished_text_embeddings"
_SECONDS_BETWEEN_SAVES = 20.0


@dataclass(frozen=True)
class TextEmbeddings:
    """The text classifier of a vocabulary."""

    weight: Tensor
    """(S, D) float32, unit rows: class by class, synonym by synonym."""
    num_synonyms: tuple[int, ...]
    """Rows of each of the K classes."""
    names: tuple[str, ...]
    """The vocabulary as given, K strings with commas between synonyms."""
    clip_digest: str = ""
    """Digest of the text tower that made them; empty when not known."""
    templates_digest: str = ""
    """Digest of the sentences they were made with; empty when not known."""

    @cached_property
    def rows(self) -> Tensor:
        """(K, n) int64, the rows of each class; those with fewer synonyms repeat their last."""
        counts = torch.tensor(self.num_synonyms)
        first = counts.cumsum(0) - counts
        offsets = torch.arange(max(self.num_synonyms))
        rows = first[:, None] + torch.minimum(offsets, counts[:, None] - 1)
        return rows.to(self.weight.device)

    @property
    def vocabulary_digest(self) -> str:
        """SHA-256 of the names, in order."""
        return digest(self.names)

    def save(self, path: Path) -> None:
        """Write a .safetensors file with names and digests in its metadata, atomically."""
        noted = {
            "names": self.names,
            "num_synonyms": self.num_synonyms,
            "vocabulary_digest": self.vocabulary_digest,
            "clip_digest": self.clip_digest,
            "templates_digest": self.templates_digest,
        }
        with atomic_path(Path(path)) as temporary:
            save_tensors(temporary, {"weight": self.weight}, key=_NOTED, noted=noted)

    @classmethod
    def load(cls, path: Path) -> TextEmbeddings:
        """Read what `save` wrote.

        Raises:
            CheckpointError: the file is missing, damaged, of another kind, or not finite.
        """
        try:
            with safe_open(path, framework="pt") as file:
                noted = _noted(file.metadata() or {})
                weight = file.get_tensor("weight")
            embeddings = cls(
                weight=weight,
                num_synonyms=tuple(noted["num_synonyms"]),
                names=tuple(noted["names"]),
                clip_digest=noted["clip_digest"],
                templates_digest=noted["templates_digest"],
            )
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{path}: no readable text embeddings ({error}); remove it and embed again"
            ) from None
        if weight.ndim != 2 or len(weight) != sum(embeddings.num_synonyms):
            raise CheckpointError(f"{path}: embeddings and names differ in number; embed again")
        check_finite({"weight": weight}, path)
        if noted.get("vocabulary_digest") != embeddings.vocabulary_digest:
            raise CheckpointError(f"{path}: names and digest differ; remove it and embed again")
        return embeddings


def _noted(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return names and digests; earlier files have an entry for each."""
    if _NOTED in metadata:
        return json.loads(metadata[_NOTED])
    lists = {name: json.loads(metadata[name]) for name in ("names", "num_synonyms")}
    return {**metadata, **lists}


def digest(texts: Sequence[str]) -> str:
    """Return the SHA-256 of a list of strings."""
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


@torch.no_grad()
def embed_vocabulary(
    backbone: ClipBackbone,
    names: Sequence[str],
    *,
    templates: Sequence[str] = TEMPLATES,
    unfinished: Path | None = None,
) -> TextEmbeddings:
    """Embed the synonyms of every class, each as the normalised mean over the templates.

    Args:
        backbone: a CLIP with its text tower.
        names: K class names, commas between synonyms.
        templates: sentences with one `{}` each.
        unfinished: file that keeps what is embedded so far, for a run that is interrupted and
            begun again; removed at the end. None keeps nothing.

    Returns:
        Embeddings in float32 on the backbone's device.

    Raises:
        DataError: the vocabulary is empty, or a name is blank.
    """
    if not names:
        raise DataError("the vocabulary is empty; give at least one class name")
    for index, name in enumerate(names):
        if not name.strip():
            raise DataError(f"vocabulary: the name of class {index} is blank; fill it or remove it")
    synonyms = [split_synonyms(name) for name in names]
    unique = list(dict.fromkeys(part for parts in synonyms for part in parts))
    rows = _embed_synonyms(backbone, unique, templates, unfinished)  # (different synonyms, D)
    index = {synonym: row for row, synonym in enumerate(unique)}
    order = torch.tensor([index[part] for parts in synonyms for part in parts], device=rows.device)
    return TextEmbeddings(
        weight=rows[order],
        num_synonyms=tuple(len(parts) for parts in synonyms),
        names=tuple(names),
        clip_digest=backbone.text_digest(),
        templates_digest=digest(templates),
    )


def _embed_synonyms(
    backbone: ClipBackbone,
    synonyms: Sequence[str],
    templates: Sequence[str],
    unfinished: Path | None,
) -> Tensor:
    """Embed each synonym, (n, D) unit rows: normalise each sentence, average, normalise."""
    sentences = [template.format(synonym) for synonym in synonyms for template in templates]
    embedded = F.normalize(_embed_sentences(backbone, sentences, unfinished), dim=-1)
    return F.normalize(embedded.unflatten(0, (-1, len(templates))).mean(1), dim=-1)


def _embed_sentences(
    backbone: ClipBackbone, sentences: Sequence[str], unfinished: Path | None
) -> Tensor:
    """Embed each sentence, (n, D), a chunk at a time, after those that `unfinished` holds."""
    starts = range(0, len(sentences), CHUNK)
    many = len(starts) > _UNWATCHED_CHUNKS
    task = digest([backbone.text_digest(), *sentences]) if unfinished else ""
    chunks = _read_chunks(unfinished, task, backbone) if unfinished else []
    if chunks:
        logger.info("going on after %d of %d sentences", len(chunks) * CHUNK, len(sentences))
    saved = time.monotonic()
    for start in track(starts, "embed") if many else starts:
        if start < len(chunks) * CHUNK:
            continue
        chunks.append(backbone.encode_text(sentences[start : start + CHUNK]))
        if unfinished and time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
            with atomic_path(unfinished) as temporary:
                save_tensors(temporary, {"chunks": torch.cat(chunks)}, key=_UNFINISHED, noted=task)
            saved = time.monotonic()
    if unfinished:
        unfinished.unlink(missing_ok=True)
    return torch.cat(chunks)


def _read_chunks(unfinished: Path, task: str, backbone: ClipBackbone) -> list[Tensor]:
    """Return the whole chunks that an earlier run with the same tower and sentences has made."""
    try:
        if read_noted(unfinished, _UNFINISHED) != task:
            return []
        with safe_open(unfinished, framework="pt") as file:
            chunks = file.get_tensor("chunks").split(CHUNK)
    except (OSError, SafetensorError, ValueError):
        return []
    device = backbone.clip_model.logit_scale.device
    return [chunk.to(device) for chunk in chunks if len(chunk) == CHUNK]
