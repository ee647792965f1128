"""The shuffled-vocabulary control: every class is described by another class's names.

A model that reads the names must fall to chance; one that does not would have learned the classes'
order instead of open-vocabulary recognition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from maftp.errors import DataError
from maftp.modeling.text_classifier import TextEmbeddings

_SEED = 0


def shuffled_order(num_classes: int) -> list[int]:
    """Return for every class the one whose names it gets: one fixed cycle through all classes.

    A cycle (Sattolo's algorithm) leaves no class its own names.

    Raises:
        DataError: there is only one class.
    """
    if num_classes < 2:
        raise DataError("evaluate.shuffle_vocabulary: needs two classes; set it to false")
    generator = np.random.default_rng(_SEED)
    order = list(range(num_classes))
    for last in range(num_classes - 1, 0, -1):
        other = int(generator.integers(last))
        order[last], order[other] = order[other], order[last]
    return order


def reorder_embeddings(embeddings: TextEmbeddings, order: Sequence[int]) -> TextEmbeddings:
    """Return the embeddings of the classes `order`, in that order."""
    classes = embeddings.weight.split(embeddings.num_synonyms)
    return replace(
        embeddings,
        weight=torch.cat([classes[index] for index in order]),
        num_synonyms=tuple(embeddings.num_synonyms[index] for index in order),
        names=tuple(embeddings.names[index] for index in order),
    )
