"""The words a picture is segmented with: typed on the command line, or lines of a text file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from maftp.data.vocabulary import read_vocabulary
from maftp.errors import DataError

_BENCHMARK_ROW = re.compile(r"\d+:")
_TEXT_FILES = {".txt", ".csv", ".text"}


def read_words(text: str) -> list[str]:
    """Return the class names of `text`, or of the text file it names; commas between synonyms.

    Classes are separated by semicolons or line ends; in a file a line may begin with `#`. A
    benchmark's file (`index:name` on each line, index 0 left out) is taken as it is.

    Raises:
        DataError: there is no such file, no class, or a name occurs twice.
    """
    path = Path(text)
    if _is_file(path):
        return _read_file(path)
    if path.suffix.lower() in _TEXT_FILES and not set(";\n") & set(text):
        raise DataError(f"--vocabulary {text}: no such text file; write it, or type the classes")
    return parse_words(text, where="--vocabulary")


def parse_words(text: str, *, where: str) -> list[str]:
    """Return the class names of `text`, which names no file; see `read_words`.

    Raises:
        DataError: there is no class, or a name occurs twice; begins with `where`.
    """
    return _checked(re.split(r"[;\n]", text), where=where)


def class_indices(text: str, names: Sequence[str]) -> list[int]:
    """Return the classes that `text` names, each by any of its synonyms.

    Raises:
        DataError: a name is not in the vocabulary.
    """
    index = {word: k for k, name in enumerate(names) for word in _synonyms(name)}
    wanted = [part.strip() for part in text.split(";") if part.strip()]
    if unknown := [part for part in wanted if part.casefold() not in index]:
        raise DataError(f"{unknown[0]!r} is not in the vocabulary; spell it as there")
    return sorted({index[part.casefold()] for part in wanted})


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # longer than a file name can be
        return False


def _read_file(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--vocabulary {path}: not readable as UTF-8 text ({error})") from None
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if lines and all(_BENCHMARK_ROW.match(line) for line in lines):
        return read_vocabulary(path).names
    names = [name for line in lines for name in line.split(";")]
    return _checked(names, where=f"--vocabulary {path}")


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
    return [word.strip().casefold() for word in name.split(",")]
