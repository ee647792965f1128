"""The words a picture is segmented with: typed on the command line, or read from a file of them.

Lists come as text, CSV, JSON and YAML. A file that is missing, or of another form, is never taken
for a class name.
"""

from __future__ import annotations

import csv
import json
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from maftp.data.vocabulary import parse_vocabulary
from maftp.errors import DataError

logger = logging.getLogger(__name__)

_BENCHMARK_ROW = re.compile(r"\d+:")
_BENCHMARK_ROW_ZERO = re.compile(r"0+:(?!invalid_class_id$)(.+)")
_ENDING = re.compile(r"[^\s.,]\.[A-Za-z][A-Za-z0-9]{1,6}$")
_NAMES = ("name", "names", "class", "classes", "class_name", "label", "labels", "categories")
"""Columns and keys under which lists of other programs hold their names."""
_STDIN = "-"


def read_words(text: str) -> list[str]:
    """Return the class names of `text`, or of the file it names; commas between synonyms.

    Classes are separated by semicolons or line ends; in a text file a line may begin with `#`. A
    benchmark's file (`index:name` on each line, index 0 left out) is taken as it is. CSV is read by
    its column of names; JSON and YAML as a list of names, of records with a `name`, or by index.
    `-` reads text from standard input.

    Raises:
        DataError: there is no such file, no class, or a name occurs twice.
    """
    if text == _STDIN:
        return _parse_file(sys.stdin.buffer.read(), Path("standard input"))
    path = Path(text)
    if text.strip() and _exists(path):
        if path.is_dir():
            raise DataError(f"--vocabulary {path}: is a folder; name a file, or type the classes")
        return _parse_file(_read(path), path)
    if _looks_like_a_file(text):
        raise DataError(
            f"--vocabulary {text}: no such text file; write it, or type the classes (a class of"
            f" that very name: '{text};')"
        )
    return parse_words(text, where="--vocabulary")


def parse_words(text: str, *, where: str) -> list[str]:
    """Return the class names of `text`, which names no file; see `read_words`.

    Raises:
        DataError: there is no class, or a name occurs twice; begins with `where`.
    """
    return _checked(re.split(r"[;\n]", text), where=where)


def class_indices(text: str, names: Sequence[str]) -> list[int]:
    """Return the classes that `text` names, each by its whole name or any of its synonyms.

    Raises:
        DataError: a name is not in the vocabulary, or belongs to several classes.
    """
    wanted = [part for part in text.split(";") if part.strip(" ,")]
    return sorted({_class_index(part, names) for part in wanted})


def _class_index(part: str, names: Sequence[str]) -> int:
    words = _synonyms(part)
    whole = [k for k, name in enumerate(names) if _synonyms(name) == words]
    if len(whole) == 1:
        return whole[0]
    for word in words:
        if not any(word in _synonyms(name) for name in names):
            shown = part.strip() if len(words) == 1 else word
            raise DataError(f"{shown!r} is not in the vocabulary; spell it as there")
    found = [k for k, name in enumerate(names) if set(words) <= set(_synonyms(name))]
    if len(found) != 1:
        raise DataError(
            f"{part.strip()!r} names {len(found) or 'parts of several'} classes of the vocabulary;"
            " give the whole name of one, and semicolons between classes"
        )
    return found[0]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # longer than a file name can be, or with a zero
        return False


def _looks_like_a_file(text: str) -> bool:
    if set(";\n") & set(text):
        return False
    return bool(_ENDING.search(text) or ("/" in text or "\\" in text) and ", " not in text)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"--vocabulary {path}: cannot be read ({error.strerror})") from None


def _parse_file(data: bytes, path: Path) -> list[str]:
    where = f"--vocabulary {path}"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not readable as UTF-8 text ({error}); save it as such") from None
    if "\0" in text:
        raise DataError(f"{where}: holds zero bytes, so it is not text; name a list of classes")
    ending = path.suffix.lower()
    if ending in (".csv", ".tsv"):
        return _checked(_from_table(text, where), where=where)
    if ending == ".json" or text.lstrip().startswith(("[", "{")):
        return _checked(_from_values(_json(text, where), where), where=where)
    if ending in (".yaml", ".yml"):
        return _checked(_from_values(_yaml(text, where), where), where=where)
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if lines and all(_BENCHMARK_ROW.match(line) for line in lines):
        for match in filter(None, map(_BENCHMARK_ROW_ZERO.match, lines)):
            logger.warning(
                "%s: %r is left out, as index 0 is not a class in a benchmark's list; give it"
                " another index to have it", where, match[1],
            )  # fmt: skip
        return parse_vocabulary("\n".join(lines).encode(), where).names
    return _checked([name for line in lines for name in line.split(";")], where=where)


def _from_table(text: str, where: str) -> list[str]:
    """Return the names in a table with a header, or of one column without."""
    start = text.partition("\n")[0]
    delimiter = max(",;\t", key=start.count)
    try:
        rows = [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if any(row)]
    except csv.Error as error:
        raise DataError(
            f"{where}: no table ({error}); write it as CSV, or a class a line"
        ) from None
    header = [cell.strip().casefold() for cell in rows[0]] if rows else []
    columns = [column for column, cell in enumerate(header) if cell in _NAMES]
    if len(columns) == 1:
        column = columns[0]
        for number, row in enumerate(rows[1:], start=2):
            if len(row) != len(header):
                raise DataError(
                    f"{where}: row {number} has {len(row)} cells, the first {len(header)}; quote"
                    " names that hold commas"
                )
        return [row[column] for row in rows[1:]]
    if all(len(row) == 1 for row in rows) and not columns:
        return [row[0] for row in rows]
    raise DataError(
        f"{where}: {len(columns) or 'no'} columns hold names; call one column 'name', or write a"
        " class a line into a .txt file"
    )


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not readable as JSON ({error}); mend it") from None


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{where}: not readable as YAML ({reason}); mend it") from None


def _from_values(values: Any, where: str) -> list[str]:
    """Return the names in a list, in a list of records with a name, or in a mapping by index."""
    if isinstance(values, dict):
        keys = [key for key in values if str(key).casefold() in _NAMES]
        if len(keys) == 1:
            return _from_values(values[keys[0]], where)
        if values and all(str(key).isdecimal() for key in values):
            values = [values[key] for key in sorted(values, key=lambda key: int(str(key)))]
    if isinstance(values, list):
        values = [entry.get("name") if isinstance(entry, dict) else entry for entry in values]
        odd = [name for name in values if not isinstance(name, str)]
        if not odd:
            return values
        raise DataError(f"{where}: {str(odd[0])[:40]!r} is not a name; quote it, or give it a name")
    raise DataError(
        f'{where}: holds no list of names; write ["sky", "red car"], or a class a line into a .txt'
        " file"
    )


def _checked(parts: Sequence[str], *, where: str) -> list[str]:
    """Trim names and synonyms, drop empty ones, refuse one word for two classes."""
    names = []
    owners: dict[str, str] = {}
    for part in parts:
        words = [word.strip() for word in part.split(",") if word.strip()]
        for word in words:
            # CLIP reads lower case only, so that Sky and sky would be one class.
            if word.casefold() in owners:
                raise DataError(f"{where}: {word!r} occurs twice; give every name once")
            owners[word.casefold()] = word
        if words:
            names.append(", ".join(words))
    if not names:
        raise DataError(f'{where}: no class in it; write names, such as "sky; building, edifice"')
    return names


def _synonyms(name: str) -> list[str]:
    return [word.strip().casefold() for word in name.split(",") if word.strip()]
