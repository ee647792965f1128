"""Raw archives of ADE20K: the scene parsing challenge, its instance maps, and the full release."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maftp.data.convert.ade20k import thing_ids
from maftp.miniworld.label_spaces import LabelSpace, Row, ade20k_150, ade20k_847
from maftp.miniworld.packing import jpeg, png, tar_bytes, zip_bytes
from maftp.miniworld.scenes import Scene, Style
from maftp.miniworld.splits import Picture, Split, draw_split

_RELEASE = "ADE20K_2021_17_01"
_STREETS = Style(
    things=(), stuff=(), count=(2, 4), size=(0.34, 0.6), middle=0.8, tint=0.1, gloom=0.35
)
_CLOSE_UPS = Style(things=(), stuff=(), count=(1, 3), size=(0.4, 0.62), middle=0.3, tint=0.05)
_CHALLENGE_SIZES = ((128, 176), (144, 192), (128, 192), (176, 128))
_FULL_SIZES = ((192, 256), (256, 192), (160, 208), (208, 256))
_LARGE = (540, 688)
"""Height and width of one picture per split of the full release; conversion shrinks it."""
_SPLITS = (("training", "train"), ("validation", "val"))


def challenge_archives(*, seed: int, train_images: int, val_images: int) -> dict[str, bytes]:
    """Return ADEChallengeData2016.zip and annotations_instance.tar, by file name."""
    space = ade20k_150()
    split = Split(space=space, style=_STREETS, sizes=_CHALLENGE_SIZES, stray=0.06)
    root = "ADEChallengeData2016"
    files = {f"{root}/objectInfo150.txt": _object_info(space).encode()}
    instances: dict[str, bytes] = {}
    for part, (folder, short) in enumerate(_SPLITS):
        pictures = draw_split(split, count=(train_images, val_images)[part], seed=(seed, 20 + part))
        for number, picture in enumerate(pictures, start=1):
            stem = f"ADE_{short}_{number:08d}"
            label = space.label_map(picture.scene, unlabelled=0).astype(np.uint8)
            files[f"{root}/images/{folder}/{stem}.jpg"] = jpeg(picture.scene.image)
            files[f"{root}/annotations/{folder}/{stem}.png"] = png(label)
            codes = _instance_codes(picture.scene, space)
            instances[f"annotations_instance/{folder}/{stem}.png"] = png(codes)
    return {
        f"{root}.zip": zip_bytes(files),
        "annotations_instance.tar": tar_bytes(instances),
    }


def _instance_codes(scene: Scene, space: LabelSpace) -> NDArray[np.uint8]:
    """Return the instance PNG (H, W, 3): R = rank of the class among things, G = instance."""
    ranks = {category + 1: rank for rank, category in enumerate(thing_ids(len(space)), start=1)}
    codes = np.zeros((*scene.stuff.shape, 3), np.uint8)
    for number, instance in enumerate(scene.instances, start=1):
        code = space.code(instance.thing)
        if code is not None:
            codes[instance.mask] = (ranks[code], number, 0)
    return codes


def _object_info(space: LabelSpace) -> str:
    lines = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    lines += [
        f"{r.code}\t0.0\t0\t0\t{int(not r.isthing)}\t{', '.join(r.names)}" for r in space.rows
    ]
    return "\n".join(lines) + "\n"


def full_archive(*, seed: int, train_images: int, val_images: int) -> dict[str, bytes]:
    """Return the archive of the full release, by file name: images, `_seg.png`, JSON, index."""
    space = ade20k_847()
    files: dict[str, bytes] = {}
    names: list[str] = []
    for part, (folder, short) in enumerate(_SPLITS):
        count = (train_images, val_images)[part]
        for number, picture in enumerate(_full_pictures(space, count, (seed, 30 + part)), start=1):
            place = _RELEASE + f"/images/ADE/{folder}/toys/{_room(picture.scene)}"
            stem = f"ADE_{short}_{number:08d}"
            names.append(f"{place}/{stem}.jpg")
            record = _record(picture.scene, space, place, stem)
            files[f"{place}/{stem}.jpg"] = jpeg(picture.scene.image)
            files[f"{place}/{stem}_seg.png"] = png(_class_codes(picture.scene, space))
            files[f"{place}/{stem}.json"] = json.dumps({"annotation": record}).encode("latin-1")
    files[f"{_RELEASE}/objects.txt"] = "".join(f"{r.code}\t{r.text}\n" for r in space.rows).encode()
    files[f"{_RELEASE}/index_ade20k.pkl"] = _index(names)
    return {f"{_RELEASE}.zip": zip_bytes(files)}


def _full_pictures(space: LabelSpace, count: int, seed: tuple[int, int]) -> list[Picture]:
    large = Split(space=space, style=_CLOSE_UPS, sizes=(_LARGE,))
    usual = Split(space=space, style=_CLOSE_UPS, sizes=_FULL_SIZES, stray=0.06)
    first = list(draw_split(large, count=min(count, 1), seed=(*seed, 1)))
    return first + list(draw_split(usual, count=count - len(first), seed=(*seed, 2)))


def _room(scene: Scene) -> str:
    return scene.stuff_names[0].replace(" ", "_")


def _class_codes(scene: Scene, space: LabelSpace) -> NDArray[np.uint8]:
    """Return `_seg.png` (H, W, 3): id = R // 10 * 256 + G, B = number of the instance or region."""
    ids = space.label_map(scene, unlabelled=0)
    numbers = scene.stuff.astype(np.uint8) + 1
    for number, instance in enumerate(scene.instances, start=len(scene.stuff_names) + 1):
        numbers[instance.mask] = number
    return np.stack([ids // 256 * 10, ids % 256, numbers], axis=-1).astype(np.uint8)


def _record(scene: Scene, space: LabelSpace, place: str, stem: str) -> dict[str, Any]:
    by_code = {row.code: row for row in space.rows}
    codes = [space.code(name) for name in scene.stuff_names]
    codes += [space.code(instance.thing) for instance in scene.instances]
    objects = [
        {
            "id": number,
            "name": by_code[code].text.replace(",", ", "),
            "name_ndx": code,
            "raw_name": by_code[code].names[0],
            "parts": {"hasparts": [], "ispartof": [], "part_level": 0},
        }
        for number, code in enumerate(codes)
        if code is not None
    ]
    return {
        "filename": f"{stem}.jpg",
        "folder": place,
        "imsize": [*scene.stuff.shape, 3],
        "source": {"origin": "generated"},
        "scene": ["toys", _room(scene)],
        "object": objects,
    }


def _index(names: list[str]) -> bytes:
    """Return the release's pickled index, written out by hand: nothing here reads or makes pickles.

    Protocol 0: `(` marks, `V` is a string up to the line's end, `l` and `d` collect a list, a dict.
    """
    folders, files = zip(*(name.rsplit("/", 1) for name in names), strict=True)
    columns = {"filename": files, "folder": folders}
    text = "".join(
        f"V{key}\n(" + "".join(f"V{value}\n" for value in column) + "l"
        for key, column in columns.items()
    )
    return f"({text}d.".encode("ascii")


def id_table_source() -> bytes:
    """Return a source file whose one literal list holds name, id and trainId of every class."""
    rows: list[Row] = ade20k_847().rows
    lines = ['"""Classes of the miniature world\'s full ADE20K."""', "", "CATEGORIES = ["]
    lines += [
        f'    {{"name": "{row.text}", "id": {row.code}, "trainId": {index}}},'
        for index, row in enumerate(rows)
    ]
    return ("\n".join([*lines, "]"]) + "\n").encode()
