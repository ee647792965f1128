"""Splits: every class gets its turn; strays and crowds are as asked."""

from collections import Counter

from maftp.miniworld.label_spaces import coco, pascal_voc_21
from maftp.miniworld.scenes import Style
from maftp.miniworld.splits import Split, draw_split

STYLE = Style(things=(), stuff=(), count=(2, 3))


def test_classes_take_turns():
    split = Split(space=pascal_voc_21(), style=STYLE, sizes=((64, 80), (80, 64)))
    pictures = list(draw_split(split, count=24, seed=(1,)))
    assert [p.scene.stuff.shape for p in pictures[:3]] == [(64, 80), (80, 64), (64, 80)]
    kinds = Counter(i.thing.kind for p in pictures for i in p.scene.instances)
    assert len(kinds) == 12
    assert not any(p.crowd for p in pictures)


def test_no_strays_unless_asked_for():
    space = coco()
    for stray, expected in ((0.0, False), (1.0, True)):
        split = Split(space=space, style=STYLE, sizes=((64, 64),), stray=stray)
        scenes = [p.scene for p in draw_split(split, count=12, seed=(2,))]
        members = [m for s in scenes for m in (*s.stuff_names, *(i.thing for i in s.instances))]
        assert any(space.code(member) is None for member in members) == expected


def test_crowds_are_one_instance():
    split = Split(space=coco(), style=STYLE, sizes=((96, 96),), crowds=1.0)
    for picture in draw_split(split, count=3, seed=(3,)):
        assert picture.crowd and len(picture.scene.instances) == 1
