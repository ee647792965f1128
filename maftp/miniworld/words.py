"""The miniature world's words: kinds, colours and patterns of things, stuff, and their synonyms.

A thing is a composition, `pattern colour kind`; fewer parts name a coarser class. Everything
that names or draws a class reads the one table, `words.yaml`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import yaml

Rgb = tuple[int, int, int]


@dataclass(frozen=True)
class Stuff:
    """A kind of stuff: what it is called, where it lies and how it is drawn."""

    name: str
    words: tuple[str, ...]
    """Its names; the first is `name`."""
    coarse: str
    """Name of the coarser class it belongs to."""
    place: Literal["back", "middle", "ground"]
    scene: Literal["outdoor", "indoor"]
    material: str
    rgb: tuple[Rgb, Rgb]
    """Dark and light end of its colours, 0..255."""


@dataclass(frozen=True)
class Words:
    """The whole table; dictionaries keep the order of the file."""

    kinds: dict[str, tuple[str, ...]]
    colours: dict[str, tuple[str, ...]]
    rgb: dict[str, Rgb]
    """Colour name to R, G, B."""
    patterns: dict[str, tuple[str, ...]]
    stuff: dict[str, Stuff]


@cache
def read_words() -> Words:
    """Read `words.yaml`."""
    table = yaml.safe_load(files("maftp.miniworld").joinpath("words.yaml").read_text())
    colours: dict[str, dict[str, Any]] = table["colours"]
    return Words(
        kinds={kind: tuple(words) for kind, words in table["kinds"].items()},
        colours={colour: tuple(row["words"]) for colour, row in colours.items()},
        rgb={colour: tuple(row["rgb"]) for colour, row in colours.items()},
        patterns={pattern: tuple(words) for pattern, words in table["patterns"].items()},
        stuff={
            name: Stuff(
                name=name,
                words=tuple(row["words"]),
                coarse=row["coarse"],
                place=row["place"],
                scene=row["scene"],
                material=row["material"],
                rgb=tuple(tuple(end) for end in row["rgb"]),
            )
            for name, row in table["stuff"].items()
        },
    )


@dataclass(frozen=True, order=True)
class Thing:
    """What a thing is: its kind, colour and pattern, by the first words of their rows."""

    kind: str
    colour: str
    pattern: str = "plain"

    def names(self, *, colour: bool = True, pattern: bool = False, synonyms: int = 2) -> list[str]:
        """Name the thing, each name using the same synonym rank for every part.

        Args:
            colour: say the colour.
            pattern: say the pattern.
            synonyms: at most so many names, the usual one first.
        """
        words = read_words()
        rows = [words.kinds[self.kind]]
        if colour:
            rows.insert(0, words.colours[self.colour])
        if pattern:
            rows.insert(0, words.patterns[self.pattern])
        return [" ".join(parts) for parts in list(zip(*rows, strict=True))[:synonyms]]


@dataclass(frozen=True)
class Sentences:
    """Forms of the captions: `forms` take a name, the others join two names into one."""

    forms: tuple[str, ...]
    beside: str
    standing: str
    behind: str


@cache
def sentences() -> Sentences:
    """Read the caption forms of `words.yaml`."""
    table = yaml.safe_load(files("maftp.miniworld").joinpath("words.yaml").read_text())
    return Sentences(tuple(table["sentences"]), table["beside"], table["standing"], table["behind"])
