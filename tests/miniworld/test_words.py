"""The table of words."""

from maftp.miniworld.words import Thing, read_words, sentences


def test_names_of_a_thing():
    thing = Thing("car", "red", "striped")
    assert thing.names() == ["red car", "crimson automobile"]
    assert thing.names(colour=False) == ["car", "automobile"]
    assert thing.names(pattern=True, synonyms=1) == ["striped red car"]


def test_words_are_told_apart():
    words = read_words()
    rows = [*words.kinds.values(), *words.colours.values(), *words.patterns.values()]
    flat = [word for row in rows for word in row] + [
        w for s in words.stuff.values() for w in s.words
    ]
    assert len(flat) == len(set(flat))
    assert not any("," in word or ":" in word for word in flat)  # the vocabulary file's separators


def test_sentences_hold_the_templates_of_the_method():
    from maftp.modeling.text_classifier import TEMPLATES

    assert sentences().forms[:14] == TEMPLATES
