"""Panoptic and instance annotations in COCO's formats, checked once: fields, types, uniqueness.

What is wrong here would not stop later steps but change scores: of two annotations of one image the
last would win, and a segment with the id of void would take its pixels. Fields that are not listed
here are kept as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic import StringConstraints as Text
from typing_extensions import TypedDict

from maftp.errors import DataError

LARGEST_ID = 2**24 - 1
"""Of a segment: its id is a colour of three bytes, and 0 is void."""


def _plain_png(name: str) -> str:
    if "/" in name or "\\" in name or not name.endswith(".png"):
        raise ValueError("must be the name of a PNG, without a folder")
    return name


_Open = ConfigDict(extra="allow", strict=True)
_Flag = Annotated[int, Field(ge=0, le=1)]
_Count = Annotated[int, Field(ge=0)]
_Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Polygon = Annotated[list[float], Field(min_length=6)]
_ImageId = int | Annotated[str, Text(min_length=1)]


class _Segment(TypedDict):
    __pydantic_config__ = _Open
    id: Annotated[int, Field(ge=1, le=LARGEST_ID)]
    category_id: _Count
    area: _Count
    iscrowd: _Flag


class _PanopticAnnotation(TypedDict):
    __pydantic_config__ = _Open
    image_id: _ImageId
    file_name: Annotated[str, AfterValidator(_plain_png)]
    segments_info: list[_Segment]


class _PanopticCategory(TypedDict):
    __pydantic_config__ = _Open
    id: _Count
    name: str
    isthing: _Flag


class _InstanceCategory(TypedDict):
    __pydantic_config__ = _Open
    id: _Count
    name: str
    isthing: NotRequired[_Flag]


class _Image(TypedDict):
    __pydantic_config__ = _Open
    id: _ImageId
    height: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]
    file_name: NotRequired[Annotated[str, Text(min_length=1)]]


class _RunLengths(TypedDict):
    __pydantic_config__ = _Open
    size: Annotated[list[int], Field(min_length=2, max_length=2)]
    counts: Annotated[str, Text(pattern=r"^[0-o]*$")] | list[_Count]  # COCO's six bits a letter


class _Instance(TypedDict):
    __pydantic_config__ = _Open
    id: int
    image_id: _ImageId
    category_id: _Count
    area: _Number
    iscrowd: _Flag
    bbox: Annotated[list[float], Field(min_length=4, max_length=4)]
    segmentation: _RunLengths | Annotated[list[_Polygon], Field(min_length=1)]


_SEGMENTS = TypeAdapter(list[_Segment])
_PANOPTIC_ANNOTATION = TypeAdapter(_PanopticAnnotation)
_PANOPTIC_CATEGORY = TypeAdapter(_PanopticCategory)
_INSTANCE_CATEGORY = TypeAdapter(_InstanceCategory)
_IMAGE = TypeAdapter(_Image)
_INSTANCE = TypeAdapter(_Instance)


@dataclass(frozen=True, slots=True)
class PanopticFile:
    """A panoptic JSON: categories in the order of their ids, annotations by image stem."""

    categories: list[dict[str, Any]]
    annotations: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class InstanceFile:
    """An instance JSON: categories in the order of their ids, images and annotations by stem."""

    categories: list[dict[str, Any]]
    """`isthing` is 1 where the file does not say it: all categories with instances are things."""
    images: dict[str, dict[str, Any]]
    annotations: dict[str, list[dict[str, Any]]]
    content: dict[str, Any]
    """The whole file."""


def read_panoptic_json(path: Path, *, things: Sequence[str] = ()) -> PanopticFile:
    """Read a panoptic JSON in COCO's format.

    Args:
        path: the file.
        things: names of the categories that are things; by default the file says it.

    Raises:
        DataError: the file is missing, no JSON, or a field is missing, wrong or not unique.
    """
    content = _read(path, ("categories", "annotations"), "panoptic")
    if things:
        marked = (category for category in content["categories"] if isinstance(category, dict))
        for category in marked:
            category["isthing"] = int(category.get("name") in things)
    categories = _categories(content["categories"], _PANOPTIC_CATEGORY, path)
    known = {category["id"] for category in categories}
    annotations: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(content["annotations"]):
        where = f"annotations.{number}"
        _check(_PANOPTIC_ANNOTATION, entry, path, where)
        _check_segments(entry["segments_info"], path, f"{where}.segments_info")
        _check_known(entry, known, path, where)
        stem = entry["file_name"].removesuffix(".png")
        if stem in annotations:
            raise _wrong(path, f"{where}.file_name", f"{entry['file_name']!r} occurs twice")
        annotations[stem] = entry
    _check_unique((str(a["image_id"]) for a in annotations.values()), path, "annotations.image_id")
    return PanopticFile(categories, annotations)


def read_instance_json(path: Path) -> InstanceFile:
    """Read an instance JSON in COCO's format.

    Raises:
        DataError: the file is missing, no JSON, or a field is missing, wrong or not unique; or a
            mask has another size than its image.
    """
    content = _read(path, ("categories", "images", "annotations"), "COCO instance")
    categories = _categories(content["categories"], _INSTANCE_CATEGORY, path)
    known = {category["id"] for category in categories}
    images: dict[str, dict[str, Any]] = {}
    stems: dict[str | int, str] = {}
    for number, image in enumerate(content["images"]):
        _check(_IMAGE, image, path, f"images.{number}")
        stem = Path(str(image.get("file_name", image["id"]))).stem
        if stem in images or image["id"] in stems:
            raise _wrong(path, f"images.{number}", f"image {stem!r} occurs twice")
        images[stem], stems[image["id"]] = image, stem
    annotations: dict[str, list[dict[str, Any]]] = {stem: [] for stem in images}
    for number, entry in enumerate(content["annotations"]):
        where = f"annotations.{number}"
        _check(_INSTANCE, entry, path, where)
        if entry["image_id"] not in stems:
            raise _wrong(path, f"{where}.image_id", f"there is no image {entry['image_id']!r}")
        if entry["category_id"] not in known:
            raise _wrong(path, f"{where}.category_id", f"no category has id {entry['category_id']}")
        stem = stems[entry["image_id"]]
        _check_mask(entry, images[stem], path, where)
        annotations[stem].append(entry)
    _check_unique((entry["id"] for entry in content["annotations"]), path, "annotations.id")
    return InstanceFile(categories, images, annotations, content)


def decode_mask(segmentation: Any, size: tuple[int, ...], name: str) -> NDArray[np.bool_]:
    """Decode run lengths, compressed or not, or polygons, to a mask of `size` (height, width).

    Raises:
        DataError: the mask is damaged or of another size; begins with `name`.
    """
    try:
        code = segmentation
        if isinstance(code, list):
            code = coco_mask.merge(coco_mask.frPyObjects(code, *size))
        elif isinstance(code["counts"], list):
            code = coco_mask.frPyObjects(code, *size)
        mask = coco_mask.decode(code).astype(bool)
    except ValueError as error:
        raise DataError(f"{name}: a mask is damaged ({error}); convert the dataset again") from None
    if mask.shape != size:
        raise DataError(f"{name}: image and mask differ in size; convert the dataset again")
    return mask


def check_segments(segments: Any, path: Path) -> list[dict[str, Any]]:
    """Check a list of segments, as `segments_info` holds it, and return it.

    Raises:
        DataError: a field is missing, wrong or not unique; names `path`.
    """
    _check(_SEGMENTS, segments, path, "segments_info")
    _check_segments(segments, path, "segments_info")
    return segments


def _read(path: Path, keys: Iterable[str], kind: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file; unpack its archive, or convert the data set, first"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path}: no {kind} JSON ({reason}); delete it and obtain it again"
        ) from None
    for key in keys:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(
                f"{path}: no {kind} JSON (it has no list {key!r}); use a file in COCO's format"
            )
    return content


def _categories(entries: list[Any], schema: TypeAdapter, path: Path) -> list[dict[str, Any]]:
    for number, category in enumerate(entries):
        _check(schema, category, path, f"categories.{number}")
    _check_unique((category["id"] for category in entries), path, "categories.id")
    return [{"isthing": 1} | c if "isthing" not in c else c for c in sorted(entries, key=_by_id)]


def _by_id(category: Mapping[str, Any]) -> int:
    return category["id"]


def _check_segments(segments: list[dict[str, Any]], path: Path, where: str) -> None:
    if len({segment["id"] for segment in segments}) != len(segments):
        _check_unique((segment["id"] for segment in segments), path, f"{where}.id")


def _check_known(entry: Mapping[str, Any], known: set[int], path: Path, where: str) -> None:
    for segment in entry["segments_info"]:
        if segment["category_id"] not in known:
            what = f"segment {segment['id']} has the unknown category {segment['category_id']}"
            raise _wrong(path, f"{where}, {entry['file_name']}", what)


def _check_mask(entry: Mapping[str, Any], image: Mapping[str, Any], path: Path, where: str) -> None:
    """Check that run lengths have the size of the image, and as many pixels as the area says."""
    segmentation = entry["segmentation"]
    if isinstance(segmentation, list):
        return
    size, counts = [image["height"], image["width"]], segmentation["counts"]
    if segmentation["size"] != size:
        found, wanted = ("{1} x {0}".format(*s) for s in (segmentation["size"], size))
        what = f"mask of {found} pixels, but its image has {wanted}"
        raise _wrong(path, f"{where}.segmentation", what)
    if isinstance(counts, list) and sum(counts) != size[0] * size[1]:
        raise _wrong(path, f"{where}.segmentation", "the mask's run lengths do not fill the image")
    if isinstance(counts, list):
        pixels = sum(counts[1::2])
    else:
        pixels = int(coco_mask.area({"size": size, "counts": counts.encode()}))
    if abs(pixels - entry["area"]) > 0.5:
        what = f"the mask has {pixels} pixels, but area is {entry['area']}"
        raise _wrong(path, f"{where}.segmentation", what)


def _check(schema: TypeAdapter, value: Any, path: Path, where: str) -> None:
    try:
        schema.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = ".".join([where, *_keys(value, first["loc"])])
        message = first["msg"].removeprefix("Value error, ")
        given = first["input"]
        found = "" if first["type"] == "missing" else f", found {_short(given)}"
        raise _wrong(path, key, f"{message[0].lower()}{message[1:]}{found}") from None


def _keys(value: Any, location: Iterable[int | str]) -> Iterator[str]:
    """Yield the keys of a location, without the names of types that pydantic puts among them."""
    for part in location:
        if isinstance(value, list) and isinstance(part, int) or isinstance(value, dict):
            yield str(part)
            value = value[part] if isinstance(value, list) else value.get(part)


def _check_unique(values: Iterable[Any], path: Path, where: str) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise _wrong(path, where, f"{value!r} occurs twice")
        seen.add(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _wrong(path: Path, where: str, what: str) -> DataError:
    return DataError(f"{path}: {where}: {what}; mend the file, or obtain or convert it again")
