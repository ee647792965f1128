"""Which classes each data set of the miniature world names, in the numbering of the official one.

The training set names a part of the compositions. The benchmarks name others: unseen compositions,
unseen words, coarser classes and finer ones. Official label spaces are used as prefixes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from maftp.data.convert.ade20k import thing_ids
from maftp.data.convert.coco import REMOVED_IDS
from maftp.data.convert.pascal_context import CONTEXT_59_IDS
from maftp.miniworld.scenes import Scene
from maftp.miniworld.words import Thing, read_words

_COCO_LAST_THING = 90
_COCO_STUFF_IDS = (92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141)
"""The first stuff ids that COCO-Stuff and COCO panoptic share."""

UNANNOTATED_KINDS = ("umbrella", "duck")
"""Kinds of things that no training annotation names in any colour."""
TRAINING_STUFF = (
    "blue sky",
    "sunset sky",
    "hedge",
    "water",
    "green grass",
    "sand",
    "snow",
    "road",
    "red brick wall",
    "white brick wall",
    "wallpaper",
    "wooden floor",
    "blue tiles",
    "red carpet",
)


@dataclass(frozen=True)
class Row:
    """One class: its code in the raw labels, its words, and what in a scene belongs to it."""

    code: int
    names: tuple[str, ...]
    isthing: bool
    members: frozenset[Thing | str]

    @property
    def text(self) -> str:
        """The names as a vocabulary file holds them."""
        return ",".join(self.names)


class LabelSpace:
    """The classes of a data set, by ascending code."""

    def __init__(self, rows: Iterable[Row]) -> None:
        """Take the rows; no two of them may share a code or a member."""
        self.rows = sorted(rows, key=lambda row: row.code)
        self._codes = {member: row.code for row in self.rows for member in row.members}
        if len({row.code for row in self.rows}) != len(self.rows):
            raise ValueError("two classes share a code")
        if len(self._codes) != sum(len(row.members) for row in self.rows):
            raise ValueError("two classes share a member")

    def __len__(self) -> int:
        return len(self.rows)

    def code(self, member: Thing | str) -> int | None:
        """Return the code of a thing, or of a stuff by name; None where no class holds it."""
        return self._codes.get(member)

    def things(self) -> list[Thing]:
        """Every thing that has a class, in the order of the classes."""
        return [
            m for row in self.rows for m in sorted(row.members, key=str) if isinstance(m, Thing)
        ]

    def stuff(self) -> list[str]:
        """Every stuff that has a class, in the order of the classes."""
        return [member for member in self._members() if isinstance(member, str)]

    def _members(self) -> list[Thing | str]:
        return [member for row in self.rows for member in sorted(row.members, key=str)]

    def label_map(self, scene: Scene, *, unlabelled: int, shift: int = 0) -> NDArray[np.uint16]:
        """Return the code plus `shift` of every pixel (H, W); `unlabelled` where no class is."""
        codes = [self.code(name) for name in scene.stuff_names]
        table = np.array([unlabelled if c is None else c + shift for c in codes], np.uint16)
        label = table[scene.stuff]
        for instance in scene.instances:
            code = self.code(instance.thing)
            label[instance.mask] = unlabelled if code is None else code + shift
        return label


def all_things() -> list[Thing]:
    """Every composition of kind, colour and pattern."""
    words = read_words()
    return [Thing(k, c, p) for k in words.kinds for c in words.colours for p in words.patterns]


def is_training_thing(thing: Thing) -> bool:
    """Tell whether training annotations name the thing: five of eight colours of most kinds."""
    words = read_words()
    if thing.kind in UNANNOTATED_KINDS:
        return False
    return (
        3 * list(words.kinds).index(thing.kind) + list(words.colours).index(thing.colour)
    ) % 8 < 5


@cache
def coco() -> LabelSpace:
    """Training classes, `colour kind` and stuff, under COCO's category ids."""
    ids = [i for i in range(1, _COCO_LAST_THING + 1) if i not in REMOVED_IDS]
    things = [group for group in _by_colour_and_kind() if is_training_thing(group[0])]
    rows = [_thing_row(code, group) for code, group in zip(ids, things, strict=False)]
    stuff = zip(_COCO_STUFF_IDS, TRAINING_STUFF, strict=False)
    return LabelSpace([*rows, *(_stuff_row(code, name) for code, name in stuff)])


@cache
def ade20k_150() -> LabelSpace:
    """40 classes, half of the things and most of the stuff not in training; codes 1..40."""
    things = thing_ids(40)
    groups = _by_colour_and_kind()
    order = np.random.default_rng(150).permutation(len(groups))
    seen = [i for i in order if is_training_thing(groups[i][0])][: len(things) // 2]
    unseen = [i for i in order if not is_training_thing(groups[i][0])][: len(things) - len(seen)]
    chosen = [groups[i] for i in sorted([*seen, *unseen])]
    fresh = [name for name in read_words().stuff if name not in TRAINING_STUFF]
    stuff = [*fresh, *TRAINING_STUFF][: 40 - len(things)]
    codes = [i for i in range(40) if i not in things]
    return LabelSpace(
        [
            *(_thing_row(code + 1, group) for code, group in zip(things, chosen, strict=True)),
            *(_stuff_row(code + 1, name) for code, name in zip(codes, stuff, strict=True)),
        ]
    )


@cache
def ade20k_847() -> LabelSpace:
    """The finest classes, `pattern colour kind` and every stuff, under ids with gaps."""
    members = [thing for index, thing in enumerate(all_things()) if index % 5 == 0]
    rows = [Row(0, tuple(thing.names(pattern=True)), True, frozenset([thing])) for thing in members]
    rows += [_stuff_row(0, name) for name in read_words().stuff]
    return LabelSpace(
        Row(17 + 37 * index, row.names, row.isthing, row.members) for index, row in enumerate(rows)
    )


@cache
def pascal_ctx_459() -> LabelSpace:
    """`colour kind` and stuff by their second words only, which training never says; codes 1..K."""
    width = len(read_words().colours)
    groups = [g for i, g in enumerate(_by_colour_and_kind()) if (i // width + i % width) % 2 == 0]
    names = list(read_words().stuff)
    rows = [_thing_row(code, group, words=_second) for code, group in enumerate(groups, start=1)]
    stuff = enumerate(names, start=len(rows) + 1)
    return LabelSpace([*rows, *(_stuff_row(code, name, words=_second) for code, name in stuff)])


@cache
def pascal_ctx_59() -> LabelSpace:
    """Coarse classes, kinds of any colour and coarse stuff, under the first of the 59 ids."""
    words = read_words()
    coarse = dict.fromkeys(stuff.coarse for stuff in words.stuff.values())
    rows = [_kind_row(0, kind) for kind in words.kinds]
    for name in coarse:
        members = frozenset(s.name for s in words.stuff.values() if s.coarse == name)
        rows.append(Row(0, (name,), False, members))
    return LabelSpace(
        Row(code, row.names, row.isthing, row.members)
        for code, row in zip(CONTEXT_59_IDS, rows, strict=False)
    )


@cache
def pascal_voc_21() -> LabelSpace:
    """Kinds of any colour, codes 1..12; code 0 is the background, all stuff."""
    words = read_words()
    coarse = tuple(dict.fromkeys(stuff.coarse for stuff in words.stuff.values()))
    background = Row(0, ("background", *coarse), False, frozenset(words.stuff))
    return LabelSpace([background, *(_kind_row(i, k) for i, k in enumerate(words.kinds, start=1))])


def vocabulary_text(space: LabelSpace, *, by_rank: bool) -> str:
    """Write a vocabulary file: gaps are filled with invalid_class_id, no newline at the end.

    Args:
        space: the classes.
        by_rank: number the rows 1, 2, ... instead of by their codes.
    """
    texts = {
        rank if by_rank else row.code: row.text for rank, row in enumerate(space.rows, start=1)
    }
    rows = range(max(texts) + 1)
    return "\n".join(f"{index}:{texts.get(index, 'invalid_class_id')}" for index in rows)


def _first_and_second(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(words)


def _second(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(words[1:])


Choice = Callable[[Sequence[str]], tuple[str, ...]]


def _by_colour_and_kind() -> list[list[Thing]]:
    words = read_words()
    return [[Thing(k, c, p) for p in words.patterns] for k in words.kinds for c in words.colours]


def _thing_row(code: int, group: Sequence[Thing], *, words: Choice = _first_and_second) -> Row:
    return Row(code, words(group[0].names()), True, frozenset(group))


def _kind_row(code: int, kind: str) -> Row:
    members = frozenset(thing for thing in all_things() if thing.kind == kind)
    return Row(code, read_words().kinds[kind], True, members)


def _stuff_row(code: int, name: str, *, words: Choice = _first_and_second) -> Row:
    return Row(code, words(read_words().stuff[name].words), False, frozenset([name]))
