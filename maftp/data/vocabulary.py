"""Class vocabularies: names, synonyms and colours, and which classes were seen in training.

A vocabulary is a text file with one row per class, `index:name[,synonym]*`. The lists of the
open-vocabulary benchmarks (OpenSeg, ECCV 2022) hold duplicates and misspellings that belong to the
benchmark; nothing is trimmed, lower-cased or mended here.
"""

from __future__ import annotations

import colorsys
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maftp.errors import DataError

Color = tuple[int, int, int]

_NOT_A_CLASS = "invalid_class_id"
_STEPS = (0.6180340, 0.8191725, 0.5497005)
"""Irrational steps of hue, saturation and value: even spread for any number of classes."""


@dataclass(frozen=True, slots=True)
class Category:
    """One class of a vocabulary."""

    name: str
    """Whole text of the row, synonyms comma-separated: what names the class everywhere."""
    row: int
    """Index that the file gives the class; its meaning is the data set's."""
    color: Color
    """R, G, B in 0..255, for drawing only."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Classes in order; position = class index."""

    categories: tuple[Category, ...]
    digest: str
    """SHA-256 of the file."""

    @property
    def names(self) -> list[str]:
        """Whole text of every row, in class order."""
        return [category.name for category in self.categories]

    def __len__(self) -> int:
        return len(self.categories)


def split_synonyms(name: str) -> list[str]:
    """Split a class name into its synonyms: comma-space counts as comma; nothing is trimmed."""
    return name.replace(", ", ",").split(",")


def read_vocabulary(path: Path, *, keep_row_zero: bool = False) -> Vocabulary:
    """Read a vocabulary file.

    Args:
        path: text file, `index:name[,synonym]*` per line.
        keep_row_zero: row 0 is a real class (VOC with background, Cityscapes) and no placeholder.

    Raises:
        DataError: the file is missing, holds no class, or a row has the wrong form; names the line.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such vocabulary; download it or name another file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); mend that") from None
    return parse_vocabulary(data, str(path), keep_row_zero=keep_row_zero)


def parse_vocabulary(data: bytes, where: str, *, keep_row_zero: bool = False) -> Vocabulary:
    """Parse the contents of a vocabulary file; see `read_vocabulary`.

    A byte order mark, which some editors leave, is passed over.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not readable as UTF-8 text ({error}); save it as such") from None
    categories: list[Category] = []
    rows: set[int] = set()
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        row, name = _parse_row(line.removesuffix("\r"), where=f"{where}, line {number}")
        if row in rows:
            raise DataError(
                f"{where}, line {number}: index {row} occurs twice; give it its own index"
            )
        rows.add(row)
        if name == _NOT_A_CLASS or (row == 0 and not keep_row_zero):
            continue
        categories.append(Category(name, row, class_color(len(categories))))
    if not categories:
        raise DataError(f"{where}: no class in it; write one 'index:name' per line, from index 1")
    return Vocabulary(tuple(categories), hashlib.sha256(data).hexdigest())


def seen_categories(test: Sequence[str], train: Sequence[str]) -> list[bool]:
    """Tell for every name of `test` whether one of its synonyms equals one of `train`'s exactly."""
    known = {synonym for name in train for synonym in split_synonyms(name)}
    return [not known.isdisjoint(split_synonyms(name)) for name in test]


def class_color(index: int) -> Color:
    """Return the colour of class `index`, unlike those of the classes near it."""
    hue, saturation, value = ((0.07 + index * step) % 1.0 for step in _STEPS)
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.4 + 0.4 * saturation, 0.6 + 0.38 * value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _parse_row(line: str, *, where: str) -> tuple[int, str]:
    index, colon, name = line.partition(":")
    well_formed = index.isascii() and index.isdigit() and colon and ":" not in name
    if not well_formed or not all(synonym.strip() for synonym in split_synonyms(name)):
        raise DataError(f"{where}: expected 'index:name[,synonym]', found {line!r}; mend that line")
    return int(index), name
