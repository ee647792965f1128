"""The parts of the check: each yields tasks, a label and a function, the worthiest first."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import loading
import measure
import subject
import textbook
import torch
import watch
from setting import Setting, Steps, drawn_on_the_cpu, in_double, off_the_kinks, recipe_of

from maftp.data.loader import training_batches
from maftp.data.mapper import SemanticMapper
from maftp.modeling.convnext import ScaledResidualBlock
from maftp.modeling.segmenter import Segmenter
from maftp.ops import backends

Row = dict[str, Any]
Task = tuple[str, Callable[[], Row]]
Recipe = Callable[[], AbstractContextManager[None]]


def machine(setting: Setting) -> Iterator[Task]:
    """Bandwidth, products, copies from the host: what the other numbers are measured by."""
    count = 2**18 if setting.tiny else 2**28

    def copies() -> Row:
        source = torch.randn(count, device=setting.device)
        target = torch.empty_like(source)
        seconds = measure.seconds_by_events(lambda _: target.copy_(source), calls=5)
        return {"GB/s": round(8 * count / seconds / 1e9, 1)}

    def products(precision: str) -> Row:
        side = 128 if setting.tiny else 8192
        amp = recipe_of(precision)
        dtype = getattr(torch, amp["amp_dtype"]) if amp["amp"] else torch.float32
        a, b = (torch.randn(side, side, device=setting.device).to(dtype) for _ in range(2))
        seconds = measure.seconds_by_events(lambda _: a @ b, calls=5)
        return {"TFLOP/s": round(2 * side**3 / seconds / 1e12, 2)}

    def from_host(pinned: bool) -> Row:
        image = torch.zeros(3, *setting.size, dtype=torch.uint8)
        image = image.pin_memory() if pinned else image
        send = partial(image.to, setting.device, non_blocking=True, copy=True)
        seconds = measure.seconds_by_events(lambda _: send(), calls=9)
        return {"GB/s": round(image.numel() / seconds / 1e9, 2)}

    yield "copy on the device", copies
    for precision in setting.precisions:
        yield f"matrix product, {precision}", partial(products, precision)
    yield "image from the host", partial(from_host, False)
    if setting.device.type == "cuda":
        yield "image from the host, pinned", partial(from_host, True)


def step(setting: Setting) -> Iterator[Task]:
    """A whole training step of one image, ours and the plain recipe's, update included."""
    for experiment in ("maftp_base",) if setting.tiny else ("maftp_base", "maftp_large"):
        params = setting.params(experiment)
        model, batch = setting.model(params, training=True), setting.batch(1)
        usable = _usable(setting)
        base = experiment == "maftp_base"
        for precision in setting.precisions if base else setting.precisions[:1]:
            # In the paper's precision the operators and the plain recipe are told apart.
            paper = precision == setting.precisions[0]
            operators = usable if base and paper else usable[:1]
            rows: list[tuple[str, Recipe, str]]
            rows = [(f"ours, operator {name}", nullcontext, name) for name in operators]
            if paper or setting.tiny:
                rows.append(("plain recipe", textbook.textbook_step, "torch"))
            for name, recipe, backend in rows:
                task = partial(_step, setting, experiment, model, batch, precision, recipe, backend)
                yield f"{experiment}, {precision}, {name}", task
        del model


def _step(
    setting: Setting,
    experiment: str,
    model: Segmenter,
    batch: Any,
    precision: str,
    recipe: Recipe,
    backend: str,
) -> Row:
    params = setting.params(experiment, batch_size=len(batch), **recipe_of(precision))
    with recipe(), measure.environment(backends.VARIABLE, backend):
        steps = Steps(model, params, batch, setting.device)
        repeats = {"groups": 3, "calls": setting.repeats(5), "warm_up": setting.repeats(3)}
        row: Row = {"ms": round(watch.milliseconds(steps, **repeats), 2)}
        row |= {"images/s": round(1e3 * len(batch) / row["ms"], 2), "GiB": watch.peak_gib()}
        waits = watch.host_waits(steps)
        row |= {"host waits": sum(waits.values()), "where": waits}
        if recipe is nullcontext:  # the plain recipe's would take half a minute
            row |= watch.kernels(steps)
    return row | {"loss": round(sum(steps.losses.values()), 4)}


def memory(setting: Setting) -> Iterator[Task]:
    """The largest batch that fits, in the paper's mixed precision, and what TF32 adds to it."""
    sizes = (1,) if setting.tiny else (2, 4, 8, 12, 16, 24)

    def fits(model: Segmenter, experiment: str, size: int, precision: str) -> Row:
        params = setting.params(experiment, batch_size=size, **recipe_of(precision))
        model.zero_grad(set_to_none=True)
        steps = Steps(model, params, setting.batch(size), setting.device)
        ms = watch.milliseconds(steps, groups=1, calls=setting.repeats(2), warm_up=1)
        return {"images/s": round(1e3 * size / ms, 2), "GiB": watch.peak_gib()}

    for experiment in ("maftp_base",) if setting.tiny else ("maftp_base", "maftp_large"):
        model = setting.model(setting.params(experiment), training=True)
        for size in sizes:
            for precision in setting.precisions[: 2 if size == 8 else 1]:
                task = partial(fits, model, experiment, size, precision)
                yield f"{experiment}, {precision}, batch {size}", task
        del model


def evaluation(setting: Setting) -> Iterator[Task]:
    """Labels of an image, ours and the plain recipe's, by number of classes; segments."""
    model = setting.model(setting.params("maftp_base"), training=False)
    size = (48, 96) if setting.tiny else (512, 778)
    item = {"image": subject.image(*setting.size), "height": size[0], "width": size[1]}

    def labels(classes: int, precision: str, recipe: Recipe, backend: str) -> Row:
        names, embeddings = subject.vocabulary(classes, model.backbone.embed_dim)
        model.set_test_vocabulary(names, embeddings=embeddings)
        model.semantic_output = "labels"
        return timed(precision, recipe, backend)

    def segments() -> Row:
        names, embeddings = subject.vocabulary(133, model.backbone.embed_dim)
        model.set_test_vocabulary(names, things=range(80), embeddings=embeddings)
        model.semantic_output = "nothing"
        # Weights are random: every query shall be let in.
        model.inference = type(model.inference)(None, 0.0, 0.0)
        return timed("float32", nullcontext, _usable(setting)[0])

    def timed(precision: str, recipe: Recipe, backend: str) -> Row:
        recipe_of(precision)
        with torch.inference_mode(), recipe(), measure.environment(backends.VARIABLE, backend):
            call = partial(model, [item])
            repeats = {"groups": 3, "calls": setting.repeats(5), "warm_up": setting.repeats(2)}
            ms = watch.milliseconds(call, **repeats)
            waits = watch.host_waits(call)
        row: Row = {"ms": round(ms, 2), "images/s": round(1e3 / ms, 2), "GiB": watch.peak_gib()}
        return row | {"host waits": sum(waits.values()), "where": waits}

    for classes in (150, 847):
        plain = partial(labels, classes, "float32", textbook.textbook_evaluation, "torch")
        yield f"{classes} classes, plain recipe", plain
        for precision in ("float32", "tf32"):
            ours = partial(labels, classes, precision, nullcontext, _usable(setting)[0])
            yield f"{classes} classes, ours, {precision}", ours
    yield "panoptic, ours", segments


def equality(setting: Setting) -> Iterator[Task]:
    """Losses and gradients of a step, and losses of more steps, on the CPU and on the device."""
    yield "miniature: losses and gradients", partial(_equal_step, setting, "miniature")
    if not setting.tiny:
        yield "maftp_base: losses and gradients", partial(_equal_step, setting, "maftp_base")
    for seed in range(1 if setting.tiny else 4):
        yield f"miniature: training steps, seed {seed}", partial(_equal_training, setting, seed)
    yield "miniature: training steps in float64", partial(_equal_training_in_double, setting)


def _equal_step(setting: Setting, experiment: str) -> Row:
    params = setting.params(experiment)
    model = off_the_kinks(Setting(torch.device("cpu"), setting.tiny).model(params, training=True))
    batch = Setting(setting.device, tiny=True).batch(2)
    recipe_of("float32")
    found = []
    for device in (torch.device("cpu"), setting.device):
        copied = copy.deepcopy(model).to(device)
        torch.manual_seed(5)
        with drawn_on_the_cpu():
            losses = copied(batch)
        sum(losses.values()).backward()
        gradients = {n: p.grad.cpu() for n, p in copied.named_parameters() if p.grad is not None}
        found.append(({name: loss.item() for name, loss in losses.items()}, gradients))
    (expected, by_cpu), (losses, gradients) = found
    apart = {name: abs(losses[name] - e) / max(abs(e), 1e-6) for name, e in expected.items()}
    # Gradients that are zero but for rounding say nothing.
    norm = max(gradient.norm() for gradient in by_cpu.values())
    grown = {
        name: float((gradients[name] - gradient).norm() / gradient.norm())
        for name, gradient in by_cpu.items()
        if gradient.norm() > 1e-6 * norm
    }
    return {
        "worst loss": max(apart.values()),
        "worst gradient": max(grown.values()),
        "where": [max(apart, key=apart.__getitem__), max(grown, key=grown.__getitem__)],
    }


def _equal_training(setting: Setting, seed: int) -> Row:
    """Compare the losses of steps on the device and on the CPU.

    A recipe with matchings and thresholds can make much of little: how far float32 leads away from
    float64 on the CPU alone is what rounding does.
    """
    recipe_of("float32")
    cpu = _curve(torch.device("cpu"), setting, seed)
    found = _apart(_curve(setting.device, setting, seed), cpu)
    rounding = _apart(cpu, _curve(torch.device("cpu"), setting, seed, double=True))
    row: Row = {"steps": len(cpu), "worst loss": max(found), "by rounding": max(rounding)}
    return row | {"apart by step": found, "apart by rounding": rounding}


def _equal_training_in_double(setting: Setting) -> Row:
    curves = [
        _curve(device, setting, seed=0, double=True)
        for device in (setting.device, torch.device("cpu"))
    ]
    found = _apart(*curves)
    return {"steps": len(found), "worst loss": max(found), "apart by step": found}


def _apart(losses: list[float], expected: list[float]) -> list[float]:
    return [abs(a - b) / abs(b) for a, b in zip(losses, expected, strict=True)]


def _curve(
    device: torch.device, setting: Setting, seed: int, *, double: bool = False
) -> list[float]:
    """Return the losses of training steps of the miniature."""
    tiny = Setting(device, tiny=True)
    params = tiny.params("miniature", learning_rate=1e-4)
    model = off_the_kinks(tiny.model(params, training=True))
    batch = tiny.batch(4)
    with drawn_on_the_cpu(), in_double() if double else nullcontext():
        model = model.double() if double else model
        steps = Steps(model, params, batch, device, seed=seed)
        return [steps() for _ in range(2 if setting.tiny else 30)]


def waiting(setting: Setting) -> Iterator[Task]:
    """Steps with batches of a loader that reads pictures, by loader processes."""
    size = 2 if setting.tiny else 8
    precision = setting.precisions[0]
    params = setting.params("maftp_base", batch_size=size, **recipe_of(precision))
    model, mapper = setting.model(params, training=True), SemanticMapper.from_params(params)
    options = {"batch_size": size, "seed": 0, "pin_memory": setting.device.type == "cuda"}

    def wait(records: list[dict[str, object]], processes: int) -> Row:
        recipe_of(precision)
        batches = training_batches(records, mapper, num_workers=processes, **options)
        steps = Steps(model, params, batches, setting.device)
        for _ in range(setting.repeats(3)):  # the processes start, the memory is taken
            steps()
        steps.waited, calls = 0.0, setting.repeats(20)
        ms = watch.milliseconds(steps, groups=1, calls=calls, warm_up=0)
        row: Row = {"ms": round(ms, 2), "images/s": round(1e3 * size / ms, 2)}
        row |= {"GiB": watch.peak_gib()}
        return row | {"share of waiting": round(1e3 * steps.waited / calls / ms, 4)}

    with tempfile.TemporaryDirectory() as folder:
        records = [loading.draw(Path(folder), number) for number in range(4 * size)]
        for processes in (0, 1) if setting.tiny else (8, 4, 2, 0):
            label = f"maftp_base, batch {size}, {processes} loader processes"
            yield label, partial(wait, records, processes)


def compiled(setting: Setting) -> Iterator[Task]:
    """A step with CLIP's blocks, or the student's trunk, compiled; the first call compiles.

    Training images come in many sizes, so blocks are compiled for any.
    """

    def step_compiled(size: int, compile_parts: Callable[[Segmenter], None]) -> Row:
        precision = setting.precisions[0]
        params = setting.params("maftp_base", batch_size=size, **recipe_of(precision))
        model = setting.model(params, training=True)
        torch.compiler.reset()
        compile_parts(model)
        steps = Steps(model, params, setting.batch(size), setting.device)
        first = watch.milliseconds(steps, groups=1, calls=1, warm_up=0)
        ms = watch.milliseconds(steps, groups=3, calls=setting.repeats(4), warm_up=1)
        row: Row = {"first call, s": round(first / 1e3, 1), "ms": round(ms, 2)}
        row |= {"images/s": round(1e3 * size / ms, 2), "GiB": watch.peak_gib()}
        return row | watch.kernels(steps) | {"loss": round(sum(steps.losses.values()), 4)}

    def nothing(model: Segmenter) -> None:
        pass

    def blocks(model: Segmenter) -> None:
        for module in model.modules():
            if isinstance(module, ScaledResidualBlock):
                module.compile(backend=backend, dynamic=True)

    def trunk(model: Segmenter) -> None:
        student = model.backbone.clip_model.visual.trunk
        student.forward_intermediates = torch.compile(
            student.forward_intermediates, backend=backend
        )

    backend = "inductor" if setting.device.type == "cuda" else "aot_eager"
    variants = {"as it is": nothing, "blocks compiled": blocks, "trunk compiled": trunk}
    for name, compile_parts in variants.items():
        for size in (1,) if setting.tiny else (8, 1):
            label = f"maftp_base, batch {size}, {name}"
            yield label, partial(step_compiled, size, compile_parts)


def _usable(setting: Setting) -> list[str]:
    names = backends.PREFERENCE[setting.device.type]
    return [name for name in names if backends.status()[name] is None]


PARTS: dict[str, Callable[[Setting], Iterator[Task]]] = {
    part.__name__: part for part in (machine, step, equality, evaluation, memory, waiting, compiled)
}
"""In the order of their worth."""
