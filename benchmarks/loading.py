"""Images per second of the training loader: the paper's semantic samples, by loader processes."""

from __future__ import annotations

import tempfile
import time
from itertools import islice
from pathlib import Path

import conversion
import measure
import numpy as np
import torch

from maftp.api import experiment_params
from maftp.data.loader import training_batches
from maftp.data.mapper import SemanticMapper

SIZES = ((480, 640), (640, 480))
"""(height, width) of COCO's usual images."""
BATCH = 8
CLASSES = 171
NOTE = (
    "JPEGs and label maps of 640 x 480 and 480 x 640 with 10 classes each to items of the semantic "
    "mapper of {experiment}: decoded, resized, flipped, a mask per class. Batches of {batch}; wall "
    "clock, median of {repetitions} runs of {images} images, after the first batch. 0 processes: "
    "loaded in the training process itself."
)


def main() -> None:
    """Draw a data set and load it with more and more processes."""
    parser = measure.parser(__doc__)
    parser.add_argument("--experiment", default="maftp_base")
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--processes", type=int, nargs="+", default=[0, 1, 2, 4])
    options = parser.parse_args()
    mapper = SemanticMapper.from_params(experiment_params(options.experiment))
    torch.set_num_threads(1)
    rates: dict[int, list[float]] = {count: [] for count in options.processes}
    with tempfile.TemporaryDirectory() as folder:
        records = [draw(Path(folder), number) for number in range(16)]
        for _ in range(options.repetitions):
            for count in options.processes:
                rates[count].append(rate(records, mapper, images=options.images, processes=count))
    medians = {count: float(np.median(values)) for count, values in rates.items()}
    first = medians[options.processes[0]]
    rows = [
        {"loader processes": count, "images/s": value, "ratio": measure.ratio(value, first)}
        for count, value in medians.items()
    ]
    note = NOTE.format(**vars(options), batch=BATCH)
    measure.publish("loading", rows, options=options, note=note)


def draw(folder: Path, number: int) -> dict[str, object]:
    """Write one image with its label map and return its record."""
    height, width = SIZES[number % len(SIZES)]
    image, label = folder / f"{number}.jpg", folder / f"{number}.png"
    conversion.write_photo(image, (height, width), number)
    classes = np.random.default_rng(number).permutation(CLASSES)[:10].astype(np.uint8)
    conversion.save(classes[conversion.regions((height, width), 10, number)], label)
    files = {"file_name": str(image), "sem_seg_file_name": str(label)}
    return {**files, "image_id": str(number), "height": height, "width": width}


def rate(
    records: list[dict[str, object]], mapper: SemanticMapper, *, images: int, processes: int
) -> float:
    """Return images per second; starting the processes is not counted."""
    batches = training_batches(records, mapper, batch_size=BATCH, seed=0, num_workers=processes)
    next(batches)
    start = time.perf_counter()
    for _ in islice(batches, images // BATCH):
        pass
    return images / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
