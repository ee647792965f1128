"""Label spaces: official numbering, and what training leaves for the benchmarks."""

import numpy as np

from maftp.data.convert.ade20k import STUFF_IDS
from maftp.data.convert.coco import stuff_table
from maftp.data.convert.pascal_context import CONTEXT_59_IDS
from maftp.data.vocabulary import read_vocabulary, seen_categories
from maftp.miniworld import label_spaces
from maftp.miniworld.scenes import Instance, Scene
from maftp.miniworld.words import Thing


def texts(space):
    return [row.text for row in space.rows]


def test_coco_uses_official_ids():
    space = label_spaces.coco()
    codes = [row.code for row in space.rows]
    stuff_table(codes)  # refuses ids that COCO-Stuff does not have
    assert all((row.code > 90) == (not row.isthing) for row in space.rows)
    assert len(space) == 50 + 14  # 10 kinds in 5 of 8 colours


def test_ade_puts_stuff_where_the_official_list_has_it():
    space = label_spaces.ade20k_150()
    assert [row.code for row in space.rows] == list(range(1, 41))
    assert [row.code - 1 for row in space.rows if not row.isthing] == [
        i for i in STUFF_IDS if i < 40
    ]


def test_numbering_of_the_others():
    assert [r.code for r in label_spaces.pascal_ctx_59().rows] == list(CONTEXT_59_IDS[:27])
    fine = label_spaces.pascal_ctx_459()
    assert [r.code for r in fine.rows] == list(range(1, len(fine) + 1))
    full = [r.code for r in label_spaces.ade20k_847().rows]
    assert len(set(full)) == len(full) and max(full) < 26 * 256
    assert [r.code for r in label_spaces.pascal_voc_21().rows] == list(range(13))


def test_benchmarks_hold_what_training_never_named():
    train = texts(label_spaces.coco())
    seen = seen_categories(texts(label_spaces.ade20k_150()), train)
    assert 10 <= sum(seen) <= 20 and len(seen) == 40
    fine = label_spaces.pascal_ctx_459()
    assert all(len(row.names) == 1 for row in fine.rows)  # the second words only
    assert not any(seen_categories(texts(label_spaces.ade20k_847())[:58], train))
    named = {thing.kind for thing in label_spaces.coco().things()}
    assert named.isdisjoint(label_spaces.UNANNOTATED_KINDS)


def test_label_map():
    red, other = Thing("ball", "red", "spotted"), Thing("duck", "red")
    left, middle = np.zeros((2, 4), bool), np.zeros((2, 4), bool)
    left[:, 0], middle[:, 1] = True, True
    stuff = np.array([[0, 0, 0, 0], [1, 1, 1, 1]], np.uint8)
    scene = Scene(
        np.zeros((2, 4, 3), np.uint8),
        stuff,
        ("blue sky", "soil"),
        (Instance(red, left), Instance(other, middle)),
    )
    space = label_spaces.coco()
    ball, sky = space.code(red), space.code("blue sky")
    # Soil and the duck have no class in training.
    expected = [[ball, 255, sky, sky], [ball, 255, 255, 255]]
    assert space.label_map(scene, unlabelled=255).tolist() == expected


def test_vocabulary_text_reads_back(tmp_path):
    space = label_spaces.coco()
    path = tmp_path / "coco_stuff_with_prompt_eng.txt"
    path.write_text(label_spaces.vocabulary_text(space, by_rank=False))
    vocabulary = read_vocabulary(path)
    assert [category.row for category in vocabulary.categories] == [row.code for row in space.rows]
    assert vocabulary.names == texts(space)
    path.write_text(label_spaces.vocabulary_text(label_spaces.pascal_ctx_59(), by_rank=True))
    assert [c.row for c in read_vocabulary(path).categories] == list(range(1, 28))
