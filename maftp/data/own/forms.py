"""The forms in which people have ground truth, told apart by what is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from maftp.data.own.checked import Checked
from maftp.data.own.coco import check_instances, check_panoptic
from maftp.data.own.masks import check_label_maps
from maftp.data.own.names import read_names
from maftp.errors import DataError


@dataclass(frozen=True)
class Given:
    """What a user gives, as `maftp data add` takes it."""

    images: Path
    masks: Path | None = None
    annotations: Path | None = None
    names: Path | None = None
    palette: Path | None = None
    ignore: tuple[int, ...] = ()
    things: tuple[str, ...] = ()


def check(given: Given, *, workers: int = 1) -> Checked:
    """Check all of what is given; nothing is written.

    Raises:
        DataError: says of every fault where it is and what to do.
    """
    names = None if given.names is None else read_names(given.names)
    if given.annotations is None:
        if given.masks is None or names is None:
            raise DataError(
                "name the folder of the masks with --masks and the class names with --names, or "
                "COCO's JSON with --annotations"
            )
        _refuse_idle(given, "things", "label maps have no segments; a panoptic JSON has")
        return check_label_maps(
            given.images,
            given.masks,
            names,
            palette=given.palette,
            ignore=given.ignore,
            workers=workers,
        )
    _refuse_idle(given, "palette", "COCO's JSON says what the colours are")
    _refuse_idle(given, "ignore", "what has no segment in COCO's JSON is ignored")
    if given.masks is None:
        _refuse_idle(given, "things", "all instances are things")
        return check_instances(given.images, given.annotations, names, workers=workers)
    return check_panoptic(
        given.images,
        given.masks,
        given.annotations,
        names,
        things=given.things,
        workers=workers,
    )


def _refuse_idle(given: Given, option: str, why: str) -> None:
    if getattr(given, option):
        raise DataError(f"--{option} does nothing here: {why}; leave it out")
