"""The model card of trained weights, in the form of the Hugging Face hub, from what is recorded.

Data, recipe, scores with intervals, limits, terms, and how to make the weights again. What was not
measured is said to be so; nothing is filled in.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from maftp.data.catalog import load_catalog
from maftp.errors import DataError
from maftp.files import atomic_path
from maftp.report.bootstrap import counts_of, score_interval
from maftp.report.published import match_recipe, published_rows
from maftp.results import CARD, MANIFEST, WEIGHTS, Evaluation, Run, flatten

if TYPE_CHECKING:
    from maftp.config import Params

METHODS = {
    "maftp": "MAFT+", "fcclip": "FC-CLIP", "ovrcoat": "OVRCOAT", "maskclippp": "MaskCLIP++",
    "mask_adapter": "Mask-Adapter",
}  # fmt: skip
METRICS = {
    "mIoU_b": ("mean_iou", "mIoU (b), over the classes in the ground truth"),
    "mIoU_a": ("mean_iou", "mIoU (a), over the classes in ground truth or prediction"),
    "PQ": ("pq", "panoptic quality"), "SQ": ("sq", "segmentation quality"),
    "RQ": ("rq", "recognition quality"), "AP": ("ap", "average precision of instances"),
}  # fmt: skip
"""By score the hub's name of the metric, and a readable one."""
APACHE = "apache-2.0"
USE_WEIGHTS = """\
```sh
maftp predict photo.jpg --vocabulary "sky; house, cottage; red car" --weights {weights}
maftp export --hub FOLDER --weights {weights}   # a folder for the Hugging Face hub
```"""
USE_FOLDER = """\
```python
import maftp, numpy
from PIL import Image

model = maftp.load_model("FOLDER")  # this folder, or hf://owner/name where it was uploaded
photo = numpy.asarray(Image.open("photo.jpg").convert("RGB"))
found = maftp.segment(model, photo, ["sky", "house, cottage", "red car"])
```"""
_RECIPE = (
    *("train.iterations", "train.batch_size", "train.learning_rate", "train.backbone_multiplier"),
    *("train.weight_decay", "train.schedule", "train.amp", "input.train.mapper"),
    *("input.train.short_side", "clip.model", "clip.pretrained"),
)
"""Parameters that a reader looks for first; the manifest has them all."""


@dataclass(frozen=True)
class Subject:
    """The weights that a card is about."""

    name: str
    params: Mapping[str, Any]
    """Recorded parameters, nested."""
    use: str
    """How, as Markdown."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    evaluations: Sequence[Evaluation] = ()
    released: str | None = None
    """Name in the catalog of the authors' checkpoint."""
    licence: str | None = None
    """The hub's identifier; None where nobody has chosen one."""

    @property
    def drawn(self) -> bool:
        """Tell whether the data are the miniature world's."""
        data = self.params["data"]
        return data.get("world") is not None and data.get("own") is None

    @property
    def terms(self) -> str | None:
        """Return the licence's identifier; this project's own where it has drawn everything."""
        return self.licence or (APACHE if self.drawn and self.released is None else None)


def run_subject(run: Run, *, use: str | None = None, licence: str | None = None) -> Subject:
    """Return the weights of a finished run.

    Raises:
        DataError: it was not trained, or what it recorded is damaged.
    """
    use = use or USE_WEIGHTS.format(weights=shlex.quote(str(run.path / WEIGHTS)))
    name, manifest = f"{run.experiment}-{run.name}", run.manifest
    if not isinstance(manifest.get("params"), dict):
        raise DataError(f"{run.path / MANIFEST}: says nothing of parameters; train the run again")
    return Subject(name, manifest["params"], use, manifest, run.evaluations, licence=licence)


def weights_subject(
    weights: Path, params: Params, *, use: str, licence: str | None = None
) -> Subject:
    """Return the weights in a file: those of a run beside its manifest, released ones, or others.

    Raises:
        MaftpError: what is recorded of them is damaged.
    """
    folder = weights.absolute().parent
    if (folder / MANIFEST).is_file() and folder.name.startswith("seed"):
        return run_subject(Run(folder), use=use, licence=licence)
    named = None if params.weights is None else Path(params.weights).stem
    released = named if named in load_catalog().weights else None
    values = params.model_dump(mode="json")
    return Subject(released or weights.stem, values, use, released=released, licence=licence)


def write_cards(runs: Iterable[Run]) -> None:
    """Write the cards beside the weights of those runs that were trained.

    Raises:
        DataError: what a run recorded is damaged.
    """
    for run in runs:
        if run.trained:
            with atomic_path(run.path / CARD) as temporary:
                temporary.write_text(model_card(run_subject(run)))


def model_card(subject: Subject) -> str:
    """Return the text of a card: YAML for the hub, Markdown for people."""
    terms, scores = subject.terms, _eval_results(subject)
    data = ModelCardData(
        license=terms or "other",
        license_name=None if terms else "not-stated",
        license_link=None if terms else "LICENSE",
        library_name="maftp",
        pipeline_tag="image-segmentation",
        tags=["open-vocabulary-segmentation", subject.params["model"]["name"]],
        metrics=sorted({score.metric_type for score in scores}) or None,
        model_name=subject.name if scores else None,
        eval_results=scores or None,
    )
    parts = [_head(subject), f"## Use\n\n{subject.use}", _training(subject), _measured(subject)]
    parts += [_limits(subject), f"## Licence\n\n{licence_text(subject)}", _origin(subject)]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"))


def licence_text(subject: Subject) -> str:
    """Return what is known of the terms: of the weights, and of what they were made of."""
    lines = []
    if subject.terms:
        lines.append(f"The weights are under {subject.terms}.")
        if subject.terms == APACHE:
            lines[0] += " <https://www.apache.org/licenses/LICENSE-2.0>"
    elif subject.released:
        entry = load_catalog().released(subject.released)
        lines.append(f"{entry.title}. Licence: {entry.licence}. Ask them before you pass it on.")
    else:
        lines.append("No licence was chosen for these weights: ask whoever trained them.")
    lines += [f"- Data: {title}. {terms}" for title, terms in _data(subject)]
    if not subject.drawn:
        lines.append(f"- CLIP: {subject.params['clip']['model']}, under its own terms.")
    return "\n".join([lines[0], "", *lines[1:]])


def _data(subject: Subject) -> Iterator[tuple[str, str]]:
    """Yield title and terms of what the training set was made of."""
    name, catalog = subject.params["data"]["train"], load_catalog()
    if subject.drawn:
        yield f"{name} of the miniature world", "Drawn by maftp, in the form of the official data."
    elif subject.params["data"].get("catalog") or name not in catalog.datasets:
        yield name, "Of a catalog of one's own, which states the terms."
    else:
        for source in catalog.dataset(name).sources:
            entry = catalog.source(source)
            yield entry.title, f"{entry.licence}."


def _head(subject: Subject) -> str:
    method = METHODS[subject.params["model"]["name"]]
    lines = [
        f"# {subject.name}",
        f"{method} for open-vocabulary segmentation: classes are words that are given with an "
        "image. Made with maftp.",
    ]
    if subject.drawn:
        lines.append(
            "**Trained and scored on drawn scenes.** Its scores cannot be compared with those on "
            "photographs, and it knows no photographs."
        )
    match = match_recipe(subject.params, released=subject.released)
    if match.differences and not subject.drawn:
        lines.append(f"Not a published recipe; nearest to {match.recipe}, but {match}.")
    return "\n\n".join(lines)


def _training(subject: Subject) -> str:
    data = markdown_table(["data", "terms"], _data(subject))
    if subject.released:
        entry = load_catalog().released(subject.released)
        return f"## Training\n\nBy its authors: {entry.title}. {entry.note}.\n\n{data}"
    values = flatten(subject.params) | {"seed": subject.manifest.get("seed", "not recorded")}
    rows = [(f"`{key}`", values[key]) for key in (*_RECIPE, "seed") if key in values]
    return f"## Training\n\n{data}\n\n{markdown_table(['parameter', 'value'], rows)}"


def _scores(subject: Subject) -> Iterator[tuple[str, float, Evaluation]]:
    """Yield every main score that is a number."""
    for evaluation in subject.evaluations:
        for name, percent in evaluation.scores.items():
            if percent is not None:
                yield name, percent, evaluation


def _eval_results(subject: Subject) -> list[EvalResult]:
    of = ", drawn by maftp's miniature world" if subject.drawn else ""
    return [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=evaluation.benchmark,
            dataset_name=evaluation.benchmark + of,
            metric_type=METRICS[name][0],
            metric_name=METRICS[name][1],
            metric_value=round(percent, 2),
        )
        for name, percent, evaluation in _scores(subject)
    ]


def _measured(subject: Subject) -> str:
    parts = ["## Scores"]
    rows = [
        (e.benchmark, name, f"{percent:.2f}", _interval(name, e), _images(e))
        for name, percent, e in _scores(subject)
    ]
    if rows:
        parts.append(
            markdown_table(["benchmark", "score", "percent", "95 % interval", "images"], rows)
        )
        parts.append(
            "Intervals are about the choice of test images alone (bootstrap); another seed of the "
            "training moves scores as well."
        )
        names = dict.fromkeys(name for _, name, *_ in rows)
        parts.append("\n".join(f"- `{name}`: {METRICS[name][1]}" for name in names))
    else:
        parts.append("Not measured, or not recorded beside these weights.")
    recipe = match_recipe(subject.params, released=subject.released).recipe
    if subject.released and len(published_rows(recipe)):
        parts += ["What the authors state (not measured here):", published_table([recipe])]
    return "\n\n".join(parts)


def published_table(recipes: Iterable[str]) -> str:
    """Return what was published for some recipes, as Markdown."""
    table = pd.concat([published_rows(recipe) for recipe in recipes])
    table["source"] = table["source"].str.removeprefix("published: ")
    cells = table.drop(columns="experiment").dropna(axis=1, how="all").astype(object)
    return markdown_table(list(cells), cells.where(cells.notna(), "").itertuples(index=False))


def _interval(name: str, evaluation: Evaluation) -> str:
    main = next(iter(evaluation.scores))
    if name != main or evaluation.metric == "instance" or not evaluation.statistics.is_dir():
        return ""
    low, high = score_interval(counts_of(evaluation.statistics, evaluation.metric))
    return f"[{low:.2f}, {high:.2f}]"


def _images(evaluation: Evaluation) -> str:
    content = evaluation.content
    counts = (content["scores"].get("images"), content.get("images_of_benchmark"))
    return " of ".join(str(count) for count in counts if count is not None)


def _limits(subject: Subject) -> str:
    size = subject.params.get("input", {}).get("test", {})
    benchmarks = ", ".join(dict.fromkeys(e.benchmark for *_, e in _scores(subject)))
    lines = [
        f"- Measured on {benchmarks}; other pictures, words and sizes were not tried."
        if benchmarks
        else "- Nothing was measured.",
        "- A word that training did not show rests on what CLIP knows of it, its biases included. "
        "Neither bias nor safety was tested.",
        "- Every pixel gets one of the given words, also where none of them fits.",
    ]
    if size:
        lines.append(
            f"- Images are resized to a shorter side of {size['short_side']} pixels, the longer one"
            f" at most {size['max_side']}; small objects may be lost."
        )
    return "## Limits\n\n" + "\n".join(lines)


def _origin(subject: Subject) -> str:
    manifest = subject.manifest
    if not manifest:
        return "## How it was made\n\nNot recorded: the weights were not trained with maftp."
    command = shlex.join(manifest.get("command", ["not recorded"]))
    commit = manifest.get("commit")
    edited = ", edited since" if manifest.get("dirty") else ""
    seconds, memory = manifest.get("training_seconds"), manifest.get("peak_host_memory_mb")
    rows = [
        ("commit", f"{commit}{edited}" if commit else "not recorded"),
        ("digest of the parameters", manifest.get("params_digest")),
        ("training", None if seconds is None else f"{seconds / 60:.1f} min"),
        ("memory", None if memory is None else f"{memory / 1000:.1f} GB"),
        ("device", manifest.get("device")),
        ("platform", manifest.get("platform")),
        ("Python", manifest.get("python")),
        ("packages", ", ".join(f"{n} {v}" for n, v in manifest.get("packages", {}).items())),
    ]
    table = markdown_table(["environment", ""], [row for row in rows if row[1]])
    return f"## How it was made\n\n```sh\n{command}\n```\n\n{table}"


def markdown_table(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return a table whose cells are one line each."""
    lines = [columns, ["---"] * len(columns), *rows]
    cells = ([str(cell).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
