import pytest
import torch
from detectron2.structures import BitMasks

from maftp.errors import DataError, MaftpError, TrainingError
from maftp.modeling.text_classifier import embed_vocabulary

TRAIN = ["person, child", "car", "sky"]
TEST = ["wall", "building, edifice", "dog,puppy", "sky"]


@pytest.fixture
def model(build):
    model = build()
    model.set_training_vocabulary(TRAIN)
    model.set_test_vocabulary(TEST)
    return model


def gradients(model, losses):
    model.zero_grad()
    sum(losses).backward(retain_graph=True)
    return {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}


def test_losses_have_the_names_of_the_public_code(model, batch):
    losses = model.train()(batch)
    calls = ["", "_0", "_1", "_2"]  # three decoder layers: three auxiliary calls
    expected = {f"loss_{kind}{call}" for kind in ("ce", "mask", "dice") for call in calls}
    assert set(losses) == expected | {"ranking_loss", "rc_loss"}
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_student_starts_as_its_teacher(model, batch):
    assert model.train()(batch)["rc_loss"].item() == 0.0


def test_each_loss_reaches_its_own_parts(model, batch):
    with torch.no_grad():  # else student and teacher are equal and the compensation has no gradient
        model.backbone_t.clip_model.visual.trunk.stem[0].weight.mul_(1.5)
    losses = model.train()(batch)
    sets = [loss for name, loss in losses.items() if name.startswith("loss_")]
    reached = gradients(model, sets)
    assert {name.split(".")[0] for name in reached} == {"sem_seg_head", "void_embedding"}
    reached = gradients(model, [losses["ranking_loss"]])
    assert {name.split(".")[0] for name in reached} == {"cdt", "backbone"}
    assert "backbone.clip_model.visual.trunk.stem.0.weight" in reached
    reached = gradients(model, [losses["rc_loss"]])
    assert {name.split(".")[0] for name in reached} == {"backbone"}


def test_every_trainable_parameter_gets_a_gradient(model, batch):
    sum(model.train()(batch).values()).backward()
    trainable = set(model.trainable_names())
    assert trainable == {n for n, p in model.named_parameters() if p.grad is not None}
    groups = model.parameter_groups()
    assert {name.split(".")[0] for name, _ in groups["backbone"]} == {"backbone"}
    heads = {name.split(".")[0] for name, _ in groups["head"]}
    assert heads == {"sem_seg_head", "void_embedding", "cdt"}


def test_two_passes_of_the_student_would_give_the_same_gradients(build, batch):
    def step(separate):
        model = build()
        model.set_training_vocabulary(TRAIN)
        if separate:
            model._head_features = lambda features, images: {
                name: feature.detach() for name, feature in model.backbone(images).items()
            }
        torch.manual_seed(0)
        sum(model.train()(batch).values()).backward()
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    once, twice = step(False), step(True)
    for name, gradient in once.items():
        torch.testing.assert_close(gradient, twice[name], atol=1e-6, rtol=1e-5)


def test_recomputing_the_trunk_gives_the_same_gradients_from_less_memory(build, batch):
    gradients, kept = [], []
    for recompute in (False, True):
        model = build(execution={"gradient_checkpointing": recompute}).train()
        model.set_training_vocabulary(TRAIN)
        saved = {}

        def pack(tensor, saved=saved):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            losses = model(batch)
        sum(losses.values()).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        kept.append(sum(saved.values()))
    assert kept[1] < 0.9 * kept[0]
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-7)


def test_losses_in_bfloat16_are_those_in_float32_roughly(model, batch):
    torch.manual_seed(0)
    expected = model(batch)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch)
    for name in ("ranking_loss", "rc_loss"):  # computed in float32 from rounded features
        assert losses[name].dtype == torch.float32
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(expected[name].item(), rel=0.1, abs=0.02), name


def test_bit_masks_are_taken_too(model, batch):
    torch.manual_seed(0)
    expected = model.train()(batch)["loss_mask"]
    for item in batch:
        item["instances"].gt_masks = BitMasks(item["instances"].gt_masks)
    torch.manual_seed(0)
    assert torch.equal(model(batch)["loss_mask"], expected)


def test_image_without_ground_truth(model, batch):
    for item in batch:
        item["instances"] = item["instances"][torch.zeros(2, dtype=torch.bool)]
    losses = model.train()(batch)
    assert losses["ranking_loss"].item() == 0.0
    sum(losses.values()).backward()
    assert model.backbone.clip_model.visual.trunk.stem[0].weight.grad is not None


def test_losses_left_out(build, batch):
    model = build(teacher=False, train={"rc_weight": 0.0, "mask_aware_weight": 0.0})
    model.set_training_vocabulary(TRAIN)
    losses = model.train()(batch)
    assert not {"ranking_loss", "rc_loss"} & set(losses)
    # nothing would train CLIP or the transfer, so they are frozen
    assert model.parameter_groups()["backbone"] == []
    assert not any(name.startswith("cdt.") for name in model.trainable_names())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_compensation_without_teacher(build, batch):
    model = build(teacher=False)
    model.set_training_vocabulary(TRAIN)
    with pytest.raises(TrainingError, match="build the model with a teacher"):
        model.train()(batch)


def test_criterion_follows_the_training_vocabulary(build):
    model = build(classes=171)
    model.set_training_vocabulary(TRAIN)
    assert model.criterion.num_classes == 3
    torch.testing.assert_close(model.criterion.empty_weight, torch.tensor([1.0, 1.0, 1.0, 0.1]))


def test_stochastic_depth_takes_two_passes(build, batch):
    model = build(clip={"stochastic_depth": True})
    model.set_training_vocabulary(TRAIN)
    for backbone in (model.backbone, model.backbone_t):
        for name, parameter in backbone.named_parameters():
            if name.endswith("gamma"):
                torch.nn.init.ones_(parameter)
    assert model.train()(batch)["rc_loss"].item() > 0  # equal towers, different draws


def test_results_per_image(model, batch):
    batch[0] |= {"height": 64, "width": 80}
    with torch.no_grad():
        results = model.eval()(batch)
    assert [tuple(r["sem_seg"].shape) for r in results] == [(4, 64, 80), (4, 96, 128)]
    assert all(set(r) == {"sem_seg"} for r in results)


def test_batch_of_one_equals_batch_of_two_of_one_size(model, batch):
    batch[1]["image"] = batch[0]["image"].flip(-1)
    with torch.no_grad():
        both, alone = model.eval()(batch), model([batch[1]])
    torch.testing.assert_close(both[1]["sem_seg"], alone[0]["sem_seg"], atol=1e-4, rtol=1e-4)


def test_both_orders_agree_without_padding_and_resizing(build, batch):
    # 128 x 160 is a multiple of 32 and the output size: cropping and resizing do nothing
    found = []
    for first in (False, True):
        model = build(evaluate={"post_process_first": first})
        model.set_test_vocabulary(TEST)
        with torch.no_grad():
            found.append(model.eval()(batch[:1])[0]["sem_seg"])
    torch.testing.assert_close(found[0], found[1])


def test_panoptic_follows_things(model, batch):
    model.set_test_vocabulary(TEST, things=[2])
    with torch.no_grad():
        ids, segments = model.eval()(batch)[1]["panoptic_seg"]
    assert ids.shape == (96, 128)
    assert ids.dtype == torch.int32
    assert {segment["id"] for segment in segments} == set(range(1, len(segments) + 1))
    model.set_test_vocabulary(TEST)
    with torch.no_grad():
        assert "panoptic_seg" not in model(batch)[0]
    with pytest.raises(DataError, match="thing class 4 is not in a vocabulary of 4"):
        model.set_test_vocabulary(TEST, things=[4])


def test_panoptic_experiments_give_panoptic_output(build):
    model = build(data={"train": "coco_panoptic"})
    model.set_test_vocabulary(TEST)
    assert model.panoptic_on


def test_instances(model, batch):
    model.instance_on = True
    with torch.no_grad():
        found = model.eval()(batch)[0]["instances"]
    assert len(found) == 24  # 6 queries x 4 classes
    assert found.pred_masks.shape == (24, 128, 160)


def test_vocabulary_is_needed(build, batch):
    model = build()
    with pytest.raises(MaftpError, match="call set_test_vocabulary"):
        model.eval()(batch)
    with pytest.raises(MaftpError, match="call set_training_vocabulary"):
        model.train()(batch)


def test_embeddings_made_earlier(build, model, batch):
    embeddings = embed_vocabulary(model.backbone, TEST)
    other = build()
    other.set_test_vocabulary(TEST, embeddings=embeddings)
    assert other.text_embeddings(tuple(TEST)) is embeddings
    with pytest.raises(DataError, match="of another vocabulary"):
        other.set_test_vocabulary(TEST[:2], embeddings=embeddings)
    with torch.no_grad():
        other.backbone.clip_model.ln_final.weight.add_(1)
    with pytest.raises(DataError, match="another CLIP"):
        other.set_test_vocabulary(TEST, embeddings=embeddings)


def test_loading_weights_forgets_embeddings(model):
    before = model.text_embeddings(tuple(TEST))
    assert model.text_embeddings(tuple(TEST)) is before
    state = model.state_dict()
    state["backbone.clip_model.text_projection"] = torch.randn(32, 32)
    model.load_state_dict(state)
    assert not torch.equal(model.text_embeddings(tuple(TEST)).weight, before.weight)


def test_embeddings_of_an_evaluation_serve_training(model, batch):
    model.set_test_vocabulary(TRAIN)
    with torch.inference_mode():
        model.eval()(batch)
    sum(model.train()(batch).values()).backward()


def test_without_transfer(build, batch, tiny_params):
    cdt = tiny_params.model.cdt.model_copy(update={"enabled": False})
    model = build(model={"cdt": cdt})
    model.set_training_vocabulary(TRAIN)
    assert not any(name.startswith("cdt") for name in model.state_dict())
    assert "ranking_loss" in model.train()(batch)


@pytest.mark.parametrize("panoptic", [False, True])
def test_labels_instead_of_scores(build, batch, panoptic):
    model = build().eval()
    model.set_test_vocabulary(["cat", "dog,hound", "sky", "grass"])
    model.panoptic_on = panoptic
    items = [dict(item, height=100, width=90) for item in batch]
    with torch.no_grad():
        scores = [result["sem_seg"] for result in model(items)]
        model.semantic_output = "labels"
        results = model(items)
    for result, expected in zip(results, scores, strict=True):
        assert "sem_seg" not in result and ("panoptic_seg" in result) == panoptic
        assert (result["labels"] != expected.argmax(0)).float().mean() < 1e-3


def test_segments_do_not_depend_on_queries_that_are_left_out(build, batch):
    model = build().eval()
    model.set_test_vocabulary(["cat", "dog,hound", "sky"], things=[0])
    with torch.no_grad():
        results = model(batch)
        model.semantic_output = "nothing"
        alone = model(batch)
    for result, other in zip(results, alone, strict=True):
        assert set(other) == {"panoptic_seg"}
        assert torch.equal(result["panoptic_seg"][0], other["panoptic_seg"][0])
        assert result["panoptic_seg"][1] == other["panoptic_seg"][1]


def test_images_are_normalised_and_padded_to_the_canvas(model):
    # The first image wants 70 x 40, the second is 30 x 90: the canvas is 96 x 96, in steps of 32.
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((33, 20), (30, 90))]
    items = [{"image": images[0], "canvas": (70, 40)}, {"image": images[1]}]
    found = model.preprocess(items)
    assert found.tensor.shape == (2, 3, 96, 96)
    assert found.image_sizes == [(33, 20), (30, 90)]
    for padded, image in zip(found.tensor, images, strict=True):
        height, width = image.shape[1:]
        expected = (image.float() - model.pixel_mean) / model.pixel_std
        assert torch.equal(padded[:, :height, :width], expected)
        padded[:, :height, :width] = 0
        assert not padded.any()
