"""Write the image path as a torch.export program or an ONNX file, and check what was written."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from maftp.api import Loaded
from maftp.data.vocabulary import seen_categories
from maftp.errors import MaftpError
from maftp.files import atomic_path, check_output, write_json
from maftp.modeling.maft_plus import MaftPlus
from maftp.modeling.postprocessing import semantic_inference
from maftp.modeling.segmenter import SIZE_DIVISIBILITY, Segmenter
from maftp.ops.ms_deform_attn import decompositions

logger = logging.getLogger(__name__)

Format = Literal["torch-export", "onnx"]
Runner = Callable[..., NDArray[np.float32]]
SUFFIX: dict[Format, str] = {"torch-export": ".pt2", "onnx": ".onnx"}
INPUTS = ("image", "text", "rows", "seen")
_TRACED = (3, 2)  # classes and synonyms of the trace; others are checked
_OPSET = 20
_AGREEMENT = 0.999
LIMITS = (
    "batch of one image; height and width are fixed; the image is RGB in 0..255, resized and "
    "padded by the caller; scores are of the padded size; semantic output only; float32 on CPU"
)


def export_model(
    loaded: Loaded, names: Sequence[str], out: Path, *, kind: Format, size: tuple[int, int]
) -> dict[str, Any]:
    """Export a model, check the file against PyTorch, and describe it beside it.

    Writes `out`, `out` with `.json` (inputs, limits, the check) and with `.npz` (`text`, `rows`
    and `seen` of the vocabulary).

    Args:
        loaded: the model.
        names: vocabulary that the check uses and the .npz file holds.
        out: file to write.
        kind: format.
        size: height and width, multiples of 32.

    Returns:
        What the JSON file holds.

    Raises:
        MaftpError: the size is wrong, or the written program gives other labels than PyTorch.
    """
    if any(side < SIZE_DIVISIBILITY or side % SIZE_DIVISIBILITY for side in size):
        raise MaftpError(f"--size {size[0]} {size[1]}: both must be multiples of 32")
    if not loaded.model.exportable:
        raise MaftpError(
            f"{loaded.params.model.name} cannot be exported: its two networks see the image at "
            "sizes of their own; export the model that proposes its masks"
        )
    _check_outputs(out)
    path = ImagePath(loaded.model)
    inputs = text_inputs(loaded, names)
    program = _trace(path, inputs["text"].shape[1], size)
    with atomic_path(out) as temporary:
        _WRITE[kind](program, temporary)
        check = _compare(path, _OPEN[kind](temporary), inputs, size)
    with atomic_path(out.with_suffix(".npz")) as temporary, open(temporary, "wb") as file:
        np.savez(file, **{name: tensor.numpy() for name, tensor in inputs.items()})
    description = {
        "format": kind,
        "weights": str(loaded.weights),
        "experiment": loaded.params.experiment,
        "inputs": {
            "image": [1, 3, *size],
            "text": ["synonyms", int(inputs["text"].shape[1])],
            "rows": ["classes", "most synonyms of a class"],
            "seen": ["classes"],
        },
        "output": ["classes", *size],
        "vocabulary": list(names),
        "limits": LIMITS,
        "check": check,
    }
    write_json(out.with_suffix(".json"), description)
    return description


def _check_outputs(out: Path) -> None:
    """Check that the files can be written and that no foreign `.json` beside them is lost."""
    record = out.with_suffix(".json")
    for file in (out, out.with_suffix(".npz"), record):
        check_output(file)
    if record.exists():
        try:
            content = json.loads(record.read_bytes())
        except (OSError, ValueError):
            content = None
        if not (isinstance(content, dict) and {"format", "inputs", "limits"} <= content.keys()):
            raise MaftpError(
                f"{record}: is not a description of an exported model and would be lost; choose"
                " another name with --out"
            )


@torch.no_grad()
def text_inputs(loaded: Loaded, names: Sequence[str]) -> dict[str, Tensor]:
    """Return `text`, `rows` and `seen` of a vocabulary."""
    embeddings = loaded.model.text_embeddings(tuple(names))
    known = loaded.model.proposal_names or loaded.training_names or ()
    seen = seen_categories(names, known)
    return {
        "text": embeddings.weight.cpu().float(),
        "rows": embeddings.rows.cpu(),
        "seen": torch.tensor(seen),
    }


def open_onnx(path: Path) -> Runner:
    """Return what runs an ONNX file on the CPU; takes and gives arrays."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    used = {node.name for node in session.get_inputs()}

    def run(*arrays: NDArray[Any]) -> NDArray[np.float32]:
        feed = {name: a for name, a in zip(INPUTS, arrays, strict=True) if name in used}
        return session.run(None, feed)[0]

    return run


def open_program(path: Path) -> Runner:
    """Return what runs a torch.export program; takes and gives arrays."""
    module = torch.export.load(path).module()

    def run(*arrays: NDArray[Any]) -> NDArray[np.float32]:
        with torch.no_grad():
            return module(*(torch.from_numpy(array) for array in arrays)).numpy()

    return run


def _trace(path: ImagePath, width: int, size: tuple[int, int]) -> torch.export.ExportedProgram:
    classes, synonyms = _TRACED
    count = classes * synonyms
    example = (
        torch.zeros(1, 3, *size),
        torch.nn.functional.normalize(torch.ones(count, width), dim=-1),
        torch.arange(count).view(classes, synonyms),
        torch.ones(classes, dtype=torch.bool),
    )
    classes_axis = torch.export.Dim("classes", min=1)
    shapes = {
        "image": None,
        "text": {0: torch.export.Dim("synonyms", min=1)},
        "rows": {0: classes_axis, 1: torch.export.Dim("most_synonyms", min=1)},
        "seen": {0: classes_axis},
    }
    with torch.no_grad():
        program = torch.export.export(path, example, dynamic_shapes=shapes)
        # Whoever runs the file does not have our operator.
        return program.run_decompositions(decompositions())


def _write_program(program: torch.export.ExportedProgram, path: Path) -> None:
    torch.export.save(program, path)


def _write_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # every node it leaves as it is
    written = torch.onnx.export(
        program, dynamo=True, opset_version=_OPSET, input_names=list(INPUTS),
        output_names=["scores"], verbose=False,
    )  # fmt: skip
    written.save(str(path), external_data=False)


def _compare(
    path: ImagePath, run: Runner, inputs: dict[str, Tensor], size: tuple[int, int]
) -> dict[str, float]:
    """Compare labels and scores on noise, with a vocabulary other than the traced one.

    Raises:
        MaftpError: labels differ at more than one pixel in a thousand.
    """
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, *size, generator=generator) * 255
    arguments = (image, inputs["text"], inputs["rows"], inputs["seen"])
    with torch.no_grad():
        wanted = path(*arguments).numpy()
    found = run(*(argument.numpy() for argument in arguments))
    same = float((found.argmax(0) == wanted.argmax(0)).mean())
    worst = float(np.abs(found - wanted).max())
    if found.shape != wanted.shape or same < _AGREEMENT:
        raise MaftpError(
            f"the exported program agrees with PyTorch at {same:.1%} of the pixels only; "
            "nothing was written"
        )
    logger.info("labels agree with PyTorch at %.4f of the pixels", same)
    return {"equal_labels": same, "largest_score_difference": worst}


_WRITE: dict[Format, Callable[[torch.export.ExportedProgram, Path], None]] = {
    "torch-export": _write_program,
    "onnx": _write_onnx,
}
_OPEN: dict[Format, Callable[[Path], Runner]] = {
    "torch-export": open_program,
    "onnx": open_onnx,
}


class ImagePath(nn.Module):
    """Semantic scores of one image for the classes of its text input."""

    def __init__(self, model: Segmenter) -> None:
        """Copy what inference needs of a model; the text tower and the teacher are left out."""
        super().__init__()
        kept = copy.deepcopy(model).cpu().float().eval()
        if isinstance(kept, MaftPlus):
            kept.backbone_t = None
        clip = kept.backbone.clip_model
        for name, _ in list(clip.named_children()):
            if name != "visual":
                setattr(clip, name, nn.Identity())
        clip.positional_embedding = None
        clip.text_projection = None
        self.model = kept.requires_grad_(False)

    def forward(self, image: Tensor, text: Tensor, rows: Tensor, seen: Tensor) -> Tensor:
        """Score every pixel.

        Args:
            image: (1, 3, H, W) float32, RGB in 0..255; H and W multiples of 32.
            text: (S, D) unit rows, one per synonym.
            rows: (K, n) int64, the rows of `text` that belong to each class; a class with fewer
                synonyms repeats one.
            seen: (K,) bool, classes of the training vocabulary; used by the frozen baseline only.

        Returns:
            (K, H, W) scores, not normalised; the largest is the pixel's class.
        """
        model = self.model
        images = (image - model.pixel_mean) / model.pixel_std
        scores, masks = model.scores(images, model.with_void(text), rows, seen)
        size = image.shape[-2:]
        full = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
        return semantic_inference(scores[0], full[0])
