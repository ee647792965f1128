from itertools import islice

import numpy as np
import pytest
import torch
from detectron2.structures import Instances

from maftp.data.disjoint_masks import DisjointMasks
from maftp.data.loader import sample_batches, training_batches
from maftp.errors import DataError

RECORDS = [
    {"image_id": i, "width": 10 + i % 3, "height": 11, "trainable": i != 4} for i in range(23)
]
WIDE = [record["width"] > record["height"] for record in RECORDS]


def mapper(record, rng):
    """Return what a real mapper would: something of the record and something drawn."""
    return {"id": record["image_id"], "draw": rng.random()}


def failing(record, rng):
    raise DataError(f"image {record['image_id']}: damaged")


def taken(count, **options):
    options = {"batch_size": 4, "seed": 3} | options
    return list(islice(training_batches(RECORDS, mapper, **options), count))


def test_every_image_once_per_pass():
    indices = [i for batch in islice(sample_batches(WIDE, 1, 0), 23) for _, i in batch]
    assert sorted(indices) == list(range(23))
    second = [i for batch in islice(sample_batches(WIDE, 1, 0, 23), 23) for _, i in batch]
    assert sorted(second) == list(range(23)) and second != indices


def test_no_image_is_lost_between_buckets():
    counts = np.zeros(23, int)
    for batch in islice(sample_batches(WIDE, 4, 0), 500):
        for _, index in batch:
            counts[index] += 1
    # 2,000 samples of 23 images: 87 each, but for a pass under way and what waits in the buckets
    assert counts.min() >= 86 and counts.max() <= 88


def test_batches_hold_one_shape():
    for batch in islice(sample_batches(WIDE, 4, 1), 50):
        assert len({WIDE[index] for _, index in batch}) == 1


def test_sample_numbers_count_through():
    numbers = [n for batch in islice(sample_batches(WIDE, 4, 1, 7), 5) for n, _ in batch]
    assert numbers == list(range(28, 48))


def test_untrainable_images_are_left_out():
    ids = {item["id"] for batch in taken(40) for item in batch}
    assert ids == set(range(23)) - {4}


def test_seeds_differ_and_repeat():
    assert taken(5) == taken(5)
    assert taken(5) != taken(5, seed=4)


def test_a_resumed_run_sees_the_same_samples():
    assert taken(3, start_iteration=9) == taken(12)[9:]


@pytest.mark.parametrize("world_size", [2, 4])
def test_workers_share_the_same_batches(world_size):
    shares = [taken(6, rank=rank, world_size=world_size) for rank in range(world_size)]
    joined = [sum(parts, []) for parts in zip(*shares, strict=True)]
    assert joined == taken(6)


def test_loader_processes_change_nothing():
    assert taken(6, num_workers=2) == taken(6)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    taken(3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_errors_stay_one_sentence(num_workers):
    batches = training_batches(RECORDS, failing, batch_size=2, seed=0, num_workers=num_workers)
    with pytest.raises(DataError, match=r"^image \d+: damaged$"):
        next(batches)


def test_nothing_to_train_on():
    with pytest.raises(DataError, match="none of 1 training images has a label"):
        next(training_batches([RECORDS[4]], mapper, batch_size=1, seed=0))


def test_uneven_shares_are_refused():
    with pytest.raises(ValueError, match="not a multiple of world_size"):
        next(training_batches(RECORDS, mapper, batch_size=3, world_size=2, seed=0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_pinned_batches_hold_the_same():
    def mapper(record, rng):
        instances = Instances((2, 3))
        instances.gt_masks = DisjointMasks(torch.ones(2, 3, dtype=torch.uint8), torch.tensor([1]))
        return {"image": torch.full((3, 2, 3), record["width"]), "instances": instances}

    options = {"batch_size": 2, "seed": 0}
    plain, pinned = (
        next(training_batches(RECORDS, mapper, pin_memory=pin, **options)) for pin in (False, True)
    )
    for one, other in zip(plain, pinned, strict=True):
        assert torch.equal(one["image"], other["image"]) and other["image"].is_pinned()
        masks = other["instances"].gt_masks
        assert masks.labels.is_pinned() and torch.equal(
            masks.tensor, one["instances"].gt_masks.tensor
        )
