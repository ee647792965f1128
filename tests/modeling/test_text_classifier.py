import json

import pytest
import torch
from safetensors.torch import save_file

from maftp.errors import CheckpointError, DataError
from maftp.modeling.clip_backbone import ClipBackbone
from maftp.modeling.text_classifier import TEMPLATES, TextEmbeddings, embed_vocabulary

NAMES = ["person, child", "sky", "traffic light,signal,lamp"]


@pytest.fixture(scope="module")
def backbone(tiny_params):
    torch.manual_seed(0)
    return ClipBackbone.from_params(tiny_params, weights=None)


def test_templates_keep_their_missing_stops():
    assert len(TEMPLATES) == 14
    assert [i for i, t in enumerate(TEMPLATES, start=1) if not t.endswith(".")] == [2, 3, 4, 5]


def test_rows_follow_classes_and_synonyms(backbone):
    embeddings = embed_vocabulary(backbone, NAMES)
    assert embeddings.num_synonyms == (2, 1, 3)
    assert embeddings.weight.shape == (6, 32)
    torch.testing.assert_close(embeddings.weight.norm(dim=-1), torch.ones(6))
    alone = embed_vocabulary(backbone, ["sky"]).weight
    torch.testing.assert_close(embeddings.weight[2:3], alone, atol=1e-5, rtol=1e-4)


def test_rows_of_shorter_classes_repeat_their_last_synonym():
    embeddings = TextEmbeddings(torch.eye(6), num_synonyms=(1, 3, 2), names=("a", "b", "c"))
    assert embeddings.rows.tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 5]]


def test_mean_of_normalised_sentences(backbone):
    sentences = [template.format("sky") for template in TEMPLATES]
    embedded = backbone.clip_model.encode_text(backbone.tokenizer(sentences))
    mean = (embedded / embedded.norm(dim=-1, keepdim=True)).mean(0)
    expected = (mean / mean.norm()).detach()
    row = embed_vocabulary(backbone, ["sky"]).weight[0]
    torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-4)


def test_repeated_synonyms_keep_their_rows(backbone):
    embeddings = embed_vocabulary(backbone, ["sky", "cloud,sky"])
    assert embeddings.num_synonyms == (1, 2)
    assert torch.equal(embeddings.weight[0], embeddings.weight[2])


def test_chunks_do_not_matter(backbone, monkeypatch):
    whole = embed_vocabulary(backbone, NAMES).weight
    monkeypatch.setattr("maftp.modeling.text_classifier.CHUNK", 32)  # the text's own length
    torch.testing.assert_close(embed_vocabulary(backbone, NAMES).weight, whole, atol=1e-5, rtol=0)


def test_an_interrupted_run_goes_on_with_the_same_bits(backbone, tmp_path, monkeypatch):
    names = [f"thing {index}" for index in range(10)]  # 140 sentences
    monkeypatch.setattr("maftp.modeling.text_classifier.CHUNK", 32)
    monkeypatch.setattr("maftp.modeling.text_classifier._SECONDS_BETWEEN_SAVES", 0.0)
    whole = embed_vocabulary(backbone, names).weight
    unfinished, embedded = tmp_path / "unfinished", []

    class Interrupted(ClipBackbone):
        left = 2

        def encode_text(self, sentences):
            if self.left == 0:
                raise KeyboardInterrupt
            type(self).left -= 1
            embedded.extend(sentences)
            return super().encode_text(sentences)

    monkeypatch.setattr(backbone, "__class__", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed_vocabulary(backbone, names, unfinished=unfinished)
    Interrupted.left = 100
    with pytest.raises(KeyboardInterrupt):  # other sentences do not take what belongs to these
        Interrupted.left = 0
        embed_vocabulary(backbone, names[::-1], unfinished=unfinished)
    Interrupted.left = 100
    assert torch.equal(embed_vocabulary(backbone, names, unfinished=unfinished).weight, whole)
    assert len(embedded) == 140 and not unfinished.exists()


@pytest.mark.parametrize("content", [b"", b"damaged", b"\x10\x00"])
def test_damaged_remains_are_begun_anew(backbone, tmp_path, content):
    unfinished = tmp_path / "unfinished"
    unfinished.write_bytes(content)
    weight = embed_vocabulary(backbone, NAMES, unfinished=unfinished).weight
    assert torch.equal(weight, embed_vocabulary(backbone, NAMES).weight)


def test_save_and_load(backbone, tmp_path):
    embeddings = embed_vocabulary(backbone, NAMES)
    embeddings.save(tmp_path / "text" / "test.safetensors")
    loaded = TextEmbeddings.load(tmp_path / "text" / "test.safetensors")
    assert torch.equal(loaded.weight, embeddings.weight)
    assert loaded.names == tuple(NAMES)
    assert loaded.num_synonyms == (2, 1, 3)
    assert loaded.clip_digest == backbone.text_digest()
    assert loaded.vocabulary_digest == embeddings.vocabulary_digest


def test_damaged_or_foreign_files(tmp_path):
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    save_file({"weight": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    for name in ("cut", "foreign", "absent"):
        with pytest.raises(CheckpointError, match=f"{name}.safetensors"):
            TextEmbeddings.load(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize(("names", "message"), [([], "empty"), (["sky", " "], "class 1 is blank")])
def test_bad_vocabularies(backbone, names, message):
    with pytest.raises(DataError, match=message):
        embed_vocabulary(backbone, names)


def test_embeddings_that_are_not_finite_are_refused(tmp_path):
    weight = torch.eye(3)
    weight[1, 1] = float("nan")
    TextEmbeddings(weight, (1, 2), ("sky", "car,auto")).save(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"a\.safetensors: 1 entries are not finite: weight"):
        TextEmbeddings.load(tmp_path / "a.safetensors")


def test_files_with_an_entry_for_each_fact_are_read(tmp_path):
    """As written before 0.2: several metadata entries, in an order that safetensors chooses."""
    embeddings = TextEmbeddings(torch.eye(3), (1, 2), ("sky", "car,auto"), "c", "t")
    metadata = {
        "names": json.dumps(embeddings.names),
        "num_synonyms": json.dumps(embeddings.num_synonyms),
        "vocabulary_digest": embeddings.vocabulary_digest,
        "clip_digest": "c",
        "templates_digest": "t",
    }
    save_file({"weight": embeddings.weight}, tmp_path / "old.safetensors", metadata=metadata)
    found = TextEmbeddings.load(tmp_path / "old.safetensors")
    assert torch.equal(found.weight, embeddings.weight)
    assert found.names == embeddings.names and found.num_synonyms == (1, 2)
    assert (found.clip_digest, found.templates_digest) == ("c", "t")
