from maftp.demo.examples import draw_examples
from maftp.prediction.words import parse_words


def test_examples_come_with_words_that_fit():
    examples = draw_examples(3)
    assert len(examples) == 3
    for example in examples:
        assert example.pixels.shape == (192, 256, 3)
        assert len(parse_words(example.words, where="example")) >= 2
    assert draw_examples(1)[0].words == examples[0].words
