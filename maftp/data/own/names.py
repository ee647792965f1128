"""Class names and colours as people write them down."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from maftp.data.vocabulary import Vocabulary, parse_vocabulary, split_synonyms
from maftp.errors import DataError

NO_CLASS = "ignore"
"""Name of a colour that is no class."""
LARGEST = 65535
"""Value of a 16-bit mask."""
_PLACEHOLDER = "invalid_class_id"
_INDEXED = re.compile(r"\d{1,9}:")
_COLOUR = re.compile(
    r"(?:#([0-9a-fA-F]{6})|(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3}))(?:[\s,]+(.+))?"
)


@dataclass(frozen=True)
class Names:
    """The classes of a set, by the value that masks have for them."""

    vocabulary: Vocabulary
    text: bytes
    """The list in the project's form, `value:name,synonym`."""
    ignored: frozenset[int]
    """Values that the list marks as no class."""
    where: str
    """What messages call the list."""

    @property
    def rows(self) -> list[int]:
        """The value of every class, in class order."""
        return [category.row for category in self.vocabulary.categories]


def read_names(path: Path) -> Names:
    """Read a list of names: `value:name,synonym` a line, or names alone, with values from 0 on.

    Raises:
        DataError: the file is missing or not text, or a line of it is wrong; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such list of names; mend the path of --names") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as UTF-8 text ({error}); save it as such") from None
    lines = text.rstrip().splitlines()
    if not all(_INDEXED.match(line) for line in lines):
        for number, line in enumerate(lines, start=1):
            if not line.strip() or ":" in line:
                raise DataError(
                    f"{path}, line {number}: {line!r} is no name; write one name a line, or "
                    "'value:name' in every line"
                )
        lines = [f"{value}:{line}" for value, line in enumerate(lines)]
    return parse_names("\n".join(lines), str(path))


def parse_names(text: str, where: str) -> Names:
    """Read a list in the project's form; a name must not stand for two classes.

    Raises:
        DataError: a line is wrong, or two classes share a name.
    """
    data = f"{text.strip()}\n".encode()
    vocabulary = parse_vocabulary(data, where, keep_row_zero=True)
    owner: dict[str, int] = {}
    for category in vocabulary.categories:
        if category.row > LARGEST:
            raise DataError(f"{where}: value {category.row} is larger than masks hold, {LARGEST}")
        for synonym in split_synonyms(category.name):
            if owner.setdefault(synonym.strip(), category.row) != category.row:
                raise DataError(
                    f"{where}: {synonym.strip()!r} names the classes {owner[synonym.strip()]} and "
                    f"{category.row}; give each names of its own"
                )
    marked = (line.partition(":") for line in text.splitlines())
    ignored = frozenset(int(value) for value, _, name in marked if name.strip() == _PLACEHOLDER)
    return Names(vocabulary, data, ignored, where)


def read_palette(path: Path, names: Names, *, void: int) -> dict[int, int]:
    """Read which colour of a mask is which class: `R G B name` or `#RRGGBB name` a line.

    Without names, the colours are those of the classes in their order.

    Args:
        path: the file.
        names: the classes.
        void: value for the colours named `ignore`.

    Returns:
        Value by colour, R + 256 G + 65536 B.

    Raises:
        DataError: the file is missing, or a line is wrong; names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: no such palette; mend the path of --palette") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as UTF-8 text ({error}); save it as such") from None
    categories = names.vocabulary.categories
    known = {s.strip(): c.row for c in categories for s in split_synonyms(c.name)}
    known[NO_CLASS] = void
    found: dict[int, int] = {}
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        colour, name = _colour(line, where)
        if colour in found:
            raise DataError(
                f"{where}: the colour of {line!r} occurs twice; remove one of the lines"
            )
        if name is None and number > len(categories):
            raise DataError(
                f"{where}: {names.where} has {len(categories)} classes only; write the name after "
                f"the colour, or {NO_CLASS!r} if it is no class"
            )
        found[colour] = categories[number - 1].row if name is None else _row(name, known, where)
    if not found:
        raise DataError(f"{path}: no colour in it; write 'R G B name' a line")
    return found


def _colour(line: str, where: str) -> tuple[int, str | None]:
    match = _COLOUR.fullmatch(line.strip())
    if match is not None:
        digits, *numbers, name = match.groups()
        red, green, blue = bytes.fromhex(digits) if digits else map(int, numbers)
        if max(red, green, blue) <= 255:
            return red + 256 * green + 65536 * blue, name
    raise DataError(f"{where}: {line!r} is no colour; write 'R G B name' (0 to 255) or '#RRGGBB'")


def _row(name: str, known: Mapping[str, int], where: str) -> int:
    if name.strip() not in known:
        raise DataError(
            f"{where}: {name.strip()!r} is no class of the list of names; mend it, or write "
            f"{NO_CLASS!r}"
        )
    return known[name.strip()]
