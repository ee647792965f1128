"""Links under the other names that published code uses for the same folders.

The README, the conversion scripts and the dataset registrations of the public projects disagree on
where things lie; with these links all of them find the data.
"""

from __future__ import annotations

from pathlib import Path

from maftp.errors import DataError

LINKS = {
    "ade20k": "ade",
    "pascal/VOCdevkit": "../VOCdevkit",
    "coco/coco17": ".",
    "coco/panoptic": ".",
    "coco/annotations/panoptic_train2017": "../panoptic_train2017",
    "coco/annotations/panoptic_val2017": "../panoptic_val2017",
    "VOCdevkit/VOC2010/val/image": "../images",
    "VOCdevkit/VOC2012/annotations_detectron2_ovs": "annotations_ovs",
    "ade/ADEChallengeData2016/panoptic": ".",
}
"""Target by link, as the link holds it: relative to the link's folder."""


def make_links(root: Path) -> list[Path]:
    """Make the links whose target is there; return those that are new.

    Raises:
        DataError: something else has the name of a link.
    """
    made = []
    for name, target in LINKS.items():
        link = root / name
        if link.is_symlink() and str(link.readlink()) == target:
            continue
        if link.is_symlink() or link.exists():
            raise DataError(f"{link}: exists and is no link to {target}; move it away")
        if (link.parent / target).resolve().is_dir():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)
            made.append(link)
    return made
