"""Training batches that depend on the seed and the iteration alone.

The samples form one endless stream of shuffled passes over the dataset. It is dealt into two
buckets, images wider than high and the rest, and whenever a bucket holds a batch, that is the next
batch; so a batch needs little padding. The stream is a function of the seed, and it deals whole
batches for all training workers together: worker r of R takes the r-th R-th of every batch. Sample
n of the run draws its augmentation from a generator of its own, seeded with (seed, n). A run that
resumes, or that has another number of workers or of loader processes, therefore sees the same
samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from detectron2.data.common import DatasetFromList
from detectron2.structures import Instances
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from maftp.data.records import Record
from maftp.errors import DataError, MaftpError

Mapper = Callable[[Record, np.random.Generator], dict[str, Any]]
Item = dict[str, Any]


def training_batches(
    dataset: Sequence[Record],
    mapper: Mapper,
    *,
    batch_size: int,
    seed: int,
    start_iteration: int = 0,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[list[Item]]:
    """Yield this worker's share of batch `start_iteration` and of all that follow, for ever.

    Args:
        dataset: records; those with `trainable` false are left out.
        mapper: record and random generator to item.
        batch_size: images per batch over all workers, a multiple of `world_size`.
        seed: of order and augmentation.
        start_iteration: batches to skip, as many as a resumed run has done.
        rank: this worker among `world_size`.
        world_size: number of workers.
        num_workers: loader processes; 0 loads here.
        pin_memory: put what goes to a GPU where it can take it by itself.

    Raises:
        DataError: no record can be trained on, or an image or label is missing or damaged.
        ValueError: the batch cannot be shared out evenly.
    """
    if batch_size % world_size:
        raise ValueError(f"batch_size {batch_size} is not a multiple of world_size {world_size}")
    records = [record for record in dataset if record.get("trainable", True)]
    if not records:
        raise DataError(
            f"none of {len(dataset)} training images has a label; convert the dataset again"
        )
    share = batch_size // world_size
    mine = slice(rank * share, (rank + 1) * share)
    wide = [record["width"] > record["height"] for record in records]
    batches = (batch[mine] for batch in sample_batches(wide, batch_size, seed, start_iteration))
    loader = DataLoader(
        _Samples(records, mapper, seed),
        batch_sampler=batches,  # type: ignore[arg-type]  # any iterable of lists will do
        num_workers=num_workers,
        collate_fn=_Items,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(seed),  # leaves torch's global generator alone
    )
    for batch in loader:
        for item in batch:
            if isinstance(item, MaftpError):
                raise item
        yield batch


def sample_batches(
    wide: Sequence[bool], batch_size: int, seed: int, start_iteration: int = 0
) -> Iterator[list[tuple[int, int]]]:
    """Yield batches of (sample number of the run, index of the record), from `start_iteration` on.

    Args:
        wide: for every record whether it is wider than high.
        batch_size: samples per batch.
        seed: of the order.
        start_iteration: batches to skip.
    """
    batches = enumerate(_dealt(wide, batch_size, seed))
    for iteration, batch in islice(batches, start_iteration, None):
        first = iteration * batch_size
        yield [(first + position, index) for position, index in enumerate(batch)]


def _dealt(wide: Sequence[bool], batch_size: int, seed: int) -> Iterator[list[int]]:
    buckets: dict[bool, list[int]] = {False: [], True: []}
    for epoch in count():
        for index in np.random.default_rng((seed, epoch)).permutation(len(wide)).tolist():
            bucket = buckets[wide[index]]
            bucket.append(index)
            if len(bucket) == batch_size:
                yield bucket.copy()
                bucket.clear()


class _Samples(TorchDataset):
    """Maps (sample number, index) to an item, or to the error that a user can mend."""

    def __init__(self, records: list[Record], mapper: Mapper, seed: int) -> None:
        # serialized: reference counts of a list would make every process copy its memory
        self._records = DatasetFromList(records, copy=False, serialize=True)
        self._mapper = mapper
        self._seed = seed

    def __getitem__(self, sample: tuple[int, int]) -> Item | MaftpError:
        number, index = sample
        try:
            return self._mapper(self._records[index], np.random.default_rng((self._seed, number)))
        except MaftpError as error:  # raised in a loader process it would come with a traceback
            return error


class _Items(list[Item | MaftpError]):
    """The items of a batch; `DataLoader` finds `pin_memory` and would not look into them itself."""

    def pin_memory(self) -> _Items:
        """Pin images and ground truth."""
        return _Items(item if isinstance(item, MaftpError) else _pinned(item) for item in self)


def _pinned(item: Item) -> Item:
    instances = item["instances"]
    fields = {name: value.pin_memory() for name, value in instances.get_fields().items()}
    pinned = Instances(instances.image_size, **fields)
    return item | {"image": item["image"].pin_memory(), "instances": pinned}
