"""The loop of one worker: exact resume, seeds, rows, failures."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

from maftp.data.fingerprint import picture_digests
from maftp.errors import TrainingError
from maftp.ops import backends
from maftp.training.checkpoint import newest_checkpoint, read_numbers, step_folder
from maftp.training.distributed import Worker
from maftp.training.meter import TIMINGS, history_csv
from maftp.training.run_folder import WEIGHTS
from maftp.training.trainer import seed_step
from maftp.training.worker import train


class Killed(Exception):
    """Stands for the end of the process."""


def run(
    tiny,
    folder,
    params,
    *,
    seed=0,
    stop_after=None,
    batches=None,
    asked_to_stop=None,
    validate=None,
):
    """Train the tiny model; return its reports, or stop after some step as a kill would."""
    reports = []

    def report(row, checkpoint):
        reports.append((row, checkpoint))
        if stop_after is not None and row["step"] >= stop_after:
            raise Killed

    train(
        tiny.TinyModel(seed),
        batches or tiny.tiny_batches(),
        params=params,
        seed=seed,
        folder=folder,
        report=report,
        facts={"run": "abc"},
        worker=Worker(rank=0, world_size=1, device=torch.device("cpu")),
        asked_to_stop=asked_to_stop or (lambda: False),
        validate=validate,
    )
    return reports


def history(folder):
    rows = read_numbers(newest_checkpoint(folder))["history"]
    return [{key: value for key, value in row.items() if key not in TIMINGS} for row in rows]


def assert_equal_runs(first, second):
    one, two = load_file(first / "weights.safetensors"), load_file(second / "weights.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert history(first) == history(second)


def test_two_runs_are_equal_to_the_bit(tiny, params, tmp_path):
    run(tiny, tmp_path / "a", params)
    run(tiny, tmp_path / "b", params)
    assert_equal_runs(tmp_path / "a", tmp_path / "b")


def test_seeds_differ(tiny, params, tmp_path):
    run(tiny, tmp_path / "a", params)
    run(tiny, tmp_path / "b", params, seed=1)
    assert history(tmp_path / "a") != history(tmp_path / "b")


@pytest.mark.parametrize("stop_after", [3, 4, 6, 8, 9, 12])
def test_resumed_run_equals_an_unbroken_one(tiny, params, tmp_path, stop_after):
    # Checkpoints at 4, 8, 12; rows at 3, 4, 6, 8, 9, 12. Stopping at 3 starts from nothing.
    run(tiny, tmp_path / "a", params)
    with pytest.raises(Killed):
        run(tiny, tmp_path / "b", params, stop_after=stop_after)
    torch.rand(7)  # what ran before in the process must not matter
    resumed = run(tiny, tmp_path / "b", params)
    assert all(row["step"] > stop_after // 4 * 4 for row, _ in resumed)
    assert_equal_runs(tmp_path / "a", tmp_path / "b")


def after(calls):
    """Return a function that says yes from its call number `calls` on."""
    asked = iter([False] * (calls - 1))
    return lambda: next(asked, True)


@pytest.mark.parametrize("steps", [0, 1, 4, 5, 7])
def test_stopping_costs_nothing(tiny, params, tmp_path, steps):
    # It is asked before every step, so the call number n + 1 stops after n steps, wherever a row
    # (3, 6, 9) or a checkpoint (4, 8) is; at 0 and 4 there is nothing new to write.
    run(tiny, tmp_path / "a", params)
    run(tiny, tmp_path / "b", params, asked_to_stop=after(steps + 1))
    newest = newest_checkpoint(tmp_path / "b")
    assert newest == (step_folder(tmp_path / "b", steps) if steps else None)
    assert not (tmp_path / "b" / "weights.safetensors").exists()
    rows = [row["step"] for row, _ in run(tiny, tmp_path / "b", params)]
    assert rows == [step for step in (3, 4, 6, 8, 9, 12) if step > steps]
    assert_equal_runs(tmp_path / "a", tmp_path / "b")


def test_checkpoints_by_the_clock(tiny, tmp_path, monkeypatch):
    # A millisecond each: every step has one, and the history is that of a run without.
    run(tiny, tmp_path / "a", tiny.tiny_params())
    params = tiny.tiny_params(checkpoint_minutes=1e-9, checkpoints_kept=99)
    run(tiny, tmp_path / "b", params)
    assert all(step_folder(tmp_path / "b", step).exists() for step in range(1, 13))
    assert_equal_runs(tmp_path / "a", tmp_path / "b")
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    for step in range(6, 13):
        shutil.rmtree(step_folder(tmp_path / "c", step))
    run(tiny, tmp_path / "c", params)
    assert_equal_runs(tmp_path / "a", tmp_path / "c")


def test_accumulation_gives_the_same_training(tiny, params, tmp_path):
    run(tiny, tmp_path / "a", params)
    for images in (1, 2, 4):
        folder = tmp_path / str(images)
        run(tiny, folder, tiny.tiny_params(micro_batch_size=images))
        one, two = (
            load_file(tmp_path / "a/weights.safetensors"),
            load_file(folder / "weights.safetensors"),
        )
        for name in one:
            torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-6)
        for first, second in zip(history(tmp_path / "a"), history(folder), strict=True):
            assert second == pytest.approx(first, rel=1e-5)


def test_rows_and_checkpoints(tiny, params, tmp_path):
    reports = run(tiny, tmp_path, params)
    assert [row["step"] for row, _ in reports] == [3, 4, 6, 8, 9, 12]
    assert [path and path.name for _, path in reports] == [
        None, "step-00000004", None, "step-00000008", None, "step-00000012"
    ]  # fmt: skip
    assert list(reports[0][0]) == [
        "step", "loss", "loss_ce", "rc_loss", "learning_rate", "gradient_norm",
        "images_per_second", "data_wait", "memory_mb", "seconds",
    ]  # fmt: skip
    assert not step_folder(tmp_path, 4).exists()  # two are kept
    first, last = reports[0][0], reports[-1][0]
    # lr of the last step a row covers: 1e-3 (1 - 2/12)^0.9 and 1e-3 (1 - 11/12)^0.9.
    assert first["learning_rate"] == pytest.approx(1e-3 * (10 / 12) ** 0.9)
    assert last["learning_rate"] == pytest.approx(1e-3 * (1 / 12) ** 0.9)


def test_checkpoint_says_what_training_cost(tiny, params, tmp_path):
    run(tiny, tmp_path, params)
    numbers = read_numbers(newest_checkpoint(tmp_path))
    model = tiny.TinyModel()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert numbers["trainable_parameters"] == trained
    assert numbers["operators"] == {"ms_deform_attn": backends.describe("cpu")}
    assert numbers["pictures"] == picture_digests()
    assert numbers["peak_host_memory_mb"] > 50  # Python and torch alone take more
    assert (numbers["step"], numbers["run"]) == (12, "abc")
    assert numbers["seconds"] > 0


def test_frozen_parameters_stay(tiny, params, tmp_path):
    run(tiny, tmp_path, params)
    trained, fresh = load_file(tmp_path / "weights.safetensors"), tiny.TinyModel().state_dict()
    assert torch.equal(trained["frozen.weight"], fresh["frozen.weight"])
    assert not torch.equal(trained["head.weight"], fresh["head.weight"])


def test_infinite_loss_names_step_terms_and_files(tiny, params, tmp_path):
    def batches(start):
        for step, batch in enumerate(tiny.tiny_batches()(start), start):
            if step == 5:
                batch[1]["target"] = torch.tensor(torch.inf)
            yield batch

    with pytest.raises(TrainingError, match=r"step 6: .*loss_ce = inf.*image_20.jpg, image_21.jpg"):
        run(tiny, tmp_path, params, batches=batches)
    assert newest_checkpoint(tmp_path) == step_folder(tmp_path, 4)


def test_a_step_that_is_not_finite_can_be_repeated(tiny, params, tmp_path):
    def batches(start):
        for step, batch in enumerate(tiny.tiny_batches()(start), start):
            if step == 5:
                batch[1]["target"] = torch.tensor(torch.nan)
            yield batch

    with pytest.raises(TrainingError, match="holds model and images") as error:
        run(tiny, tmp_path / "run/checkpoints", params, batches=batches)
    file = tmp_path / "run/not-finite-step-00000006-image-0.pt"
    assert str(file) in str(error.value)
    kept = torch.load(file, weights_only=True)
    assert kept["step"] == 6 and kept["losses"]["loss_ce"] != kept["losses"]["loss_ce"]
    model = tiny.TinyModel()
    model.load_state_dict(kept["model"], strict=False)
    torch.manual_seed(kept["seed"])
    again = model([item | {"instances": [0] * (20 % 3)} for item in kept["batch"]])
    assert again["rc_loss"].item() == kept["losses"]["rc_loss"]


def test_memory_that_does_not_suffice_names_the_setting(tiny, tmp_path, monkeypatch):
    def forward(self, batch):
        if len(batch) > 1:
            torch.empty(1 << 60)  # torch's own error for more than there is
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(tiny.TinyModel, "forward", forward)
    with pytest.raises(TrainingError, match="for 4 images of 2 x 2 pixels .*micro_batch_size to 2"):
        run(tiny, tmp_path, tiny.tiny_params())
    with pytest.raises(TrainingError, match="lower input.train.short_side and max_side"):
        run(tiny, tmp_path, tiny.tiny_params(micro_batch_size=1))


def test_loss_scaling_resumes_too(tiny, tmp_path):
    # float16 on the CPU; the scale doubles after 2000 steps, so its count of steps must be kept.
    params = tiny.tiny_params(amp=True)
    run(tiny, tmp_path / "a", params)
    with pytest.raises(Killed):
        run(tiny, tmp_path / "b", params, stop_after=6)
    run(tiny, tmp_path / "b", params)
    assert_equal_runs(tmp_path / "a", tmp_path / "b")
    parts = torch.load(newest_checkpoint(tmp_path / "b") / "optimizer.pt", weights_only=True)
    assert parts["scaler"]["scale"] >= 1.0 and parts["scaler"]["_growth_tracker"] >= 0


def test_gradients_that_overflow_for_ever_end_the_training(tiny, tmp_path, monkeypatch):
    """Every step would be left out, with losses that look like those of a training."""
    forward = tiny.TinyModel.forward

    class Overflowing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, loss):
            return loss.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * torch.inf

    def broken(self, batch):
        return {name: Overflowing.apply(loss) for name, loss in forward(self, batch).items()}

    run(tiny, tmp_path / "sound", tiny.tiny_params(amp=True, iterations=40))
    monkeypatch.setattr(tiny.TinyModel, "forward", broken)
    with pytest.raises(TrainingError, match="step 30: the gradients overflow float16 .* bfloat16"):
        run(tiny, tmp_path / "broken", tiny.tiny_params(amp=True, iterations=40, log_period=10))


def test_lost_weights_are_written_again(tiny, params, tmp_path):
    run(tiny, tmp_path / "a", params)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "weights.safetensors").unlink()
    assert run(tiny, tmp_path / "b", params) == []
    assert_equal_runs(tmp_path / "a", tmp_path / "b")


def test_random_points_differ_between_steps_and_workers():
    def draw(*place):
        seed_step(*place)
        return torch.rand(3)

    assert torch.equal(draw(0, 5, 1), draw(0, 5, 1))
    draws = [draw(*place) for place in ((0, 5, 1), (1, 5, 1), (0, 6, 1), (0, 5, 0), (5, 0, 1))]
    assert len({tuple(values.tolist()) for values in draws}) == len(draws)


@pytest.mark.parametrize("stop_after", [None, 6, 10])
def test_the_best_weights_are_kept(tiny, tmp_path, stop_after):
    # Validated at 5, 10 and 12; 10 is the best. A kill at 6 or 10 goes on from 5.
    scores = {5: 20.0, 10: 30.0, 12: 25.0}
    recipe = {"checkpoint_period": 5, "checkpoints_kept": 9}
    params = tiny.tiny_params(validation={"benchmark": "A-150", "period": 5}, **recipe)
    if stop_after is not None:
        with pytest.raises(Killed):
            run(tiny, tmp_path / "a", params, stop_after=stop_after, validate=scores.get)
    run(tiny, tmp_path / "a", params, validate=scores.get)
    run(tiny, tmp_path / "b", tiny.tiny_params(**recipe))
    best, last = load_file(tmp_path / "a/best.safetensors"), load_file(tmp_path / "a" / WEIGHTS)
    unvalidated = load_file(tmp_path / "b" / WEIGHTS)
    assert all(torch.equal(last[name], unvalidated[name]) for name in last)
    tenth = load_file(step_folder(tmp_path / "b", 10) / "model.safetensors")
    assert all(torch.equal(best[name], tenth[name]) for name in tenth)
    rows = history(tmp_path / "a")
    assert {row["step"]: row["validation"] for row in rows if "validation" in row} == scores
    text = history_csv(rows).splitlines()
    assert text[0].endswith(",validation") and text[1].endswith(",") and text[-1].endswith(",25.0")


def test_a_score_that_is_no_number_is_never_the_best(tiny, tmp_path):
    params = tiny.tiny_params(validation={"benchmark": "A-150", "period": 12})
    run(tiny, tmp_path, params, validate=lambda step: float("nan"))
    assert not (tmp_path / "best.safetensors").exists()


def test_bfloat16_needs_no_loss_scaling(tiny, tmp_path):
    run(tiny, tmp_path / "a", tiny.tiny_params())
    run(tiny, tmp_path / "b", tiny.tiny_params(amp=True, amp_dtype="bfloat16"))
    parts = torch.load(newest_checkpoint(tmp_path / "b") / "optimizer.pt", weights_only=True)
    assert parts["scaler"] == {}
    exact, rounded = ([row["loss"] for row in history(tmp_path / name)] for name in "ab")
    assert rounded == pytest.approx(exact, rel=0.05) and rounded != exact


def test_weights_that_are_not_finite_make_no_checkpoint(tiny, tmp_path, monkeypatch):
    """The loss is finite, its gradient is 0 times infinity: from NaN no training comes back."""
    forward = tiny.TinyModel.forward

    def broken(self, batch):
        losses = forward(self, batch)
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == 6:
            losses["loss_ce"] = losses["loss_ce"] + (self.scale - self.scale.detach()).sqrt()
        return losses

    monkeypatch.setattr(tiny.TinyModel, "forward", broken)
    with pytest.raises(TrainingError, match=r"step 6: \d+ weights are not finite any more"):
        run(tiny, tmp_path, tiny.tiny_params(checkpoint_period=3))
    assert newest_checkpoint(tmp_path) == step_folder(tmp_path, 3)


@pytest.mark.parametrize("allowed", [True, False])
def test_precision_of_products_is_a_parameter(tiny, tmp_path, allowed):
    places = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [place.allow_tf32 for place in places]
    try:
        run(tiny, tmp_path, tiny.tiny_params(iterations=1, tf32=allowed))
        assert [place.allow_tf32 for place in places] == [allowed, allowed]
    finally:
        for place, value in zip(places, before, strict=True):
            place.allow_tf32 = value
