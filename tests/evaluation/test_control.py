"""The shuffled vocabulary: no class keeps its names, and embeddings follow the names."""

from __future__ import annotations

import pytest
import torch

from maftp.errors import DataError
from maftp.evaluation.control import reorder_embeddings, shuffled_order
from maftp.modeling.text_classifier import TextEmbeddings


@pytest.mark.parametrize("num_classes", [2, 3, 20, 847])
def test_order_is_a_fixed_derangement(num_classes: int):
    order = shuffled_order(num_classes)
    assert sorted(order) == list(range(num_classes))
    assert all(index != other for index, other in enumerate(order))
    assert order == shuffled_order(num_classes)


def test_one_class_cannot_be_shuffled():
    with pytest.raises(DataError, match=r"evaluate\.shuffle_vocabulary"):
        shuffled_order(1)


def test_embeddings_are_moved_class_by_class():
    # three classes with 2, 1 and 3 synonyms: rows 0 1 | 2 | 3 4 5
    rows = torch.arange(6.0)[:, None]
    embeddings = TextEmbeddings(weight=rows, num_synonyms=(2, 1, 3), names=("a,b", "c", "d,e,f"))
    moved = reorder_embeddings(embeddings, [2, 0, 1])
    assert moved.weight.flatten().tolist() == [3, 4, 5, 0, 1, 2]
    assert moved.num_synonyms == (3, 2, 1)
    assert moved.names == ("d,e,f", "a,b", "c")
