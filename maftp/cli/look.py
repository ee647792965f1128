"""`maftp predict | demo | export`: what a model sees in one's own pictures, or other programs."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cyclopts import Parameter

from maftp.cli.options import NewFile, NewFolder, Positive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from maftp.api import Loaded

logger = logging.getLogger("maftp")


@Parameter(name="*")
@dataclass(frozen=True)
class Model:
    """Which model.

    Attributes:
        weights: released or own checkpoint, a folder that `maftp export --hub` wrote, or
            hf://owner/name[@revision]; by default the miniature world's.
        experiment: recipe of released weights, such as maftp_base; own weights record it.
        device: cpu, cuda or cuda:1; by default a GPU if there is one.
    """

    weights: str | None = None
    experiment: str | None = None
    device: str | None = None

    def load(self) -> Loaded:
        """Read the weights."""
        from maftp.api import load

        return load(self.weights, experiment=self.experiment, device=self.device)


SHIPPED = Model()


def predict(
    images: tuple[str, ...],
    /,
    *,
    vocabulary: str | None = None,
    model: Model = SHIPPED,
    short_side: Positive | None = None,
    panoptic: bool = False,
    stuff: str | None = None,
    out: NewFolder = Path("predictions"),
    every: Positive = 1,
    strict: bool = False,
) -> None:
    """Segment your own pictures with your own words.

    Args:
        images: images, videos, folders or patterns.
        vocabulary: classes, such as "sky; building, edifice; red car", or a text file of them; by
            default those of the model's training.
        short_side: shorter side for the network, in pixels; by default the experiment's.
        panoptic: find separate segments.
        stuff: with --panoptic, classes without instances, such as "sky; road".
        out: folder to write.
        every: every Nth frame of videos.
        strict: end with an error when a file of a folder, or the end of a video, cannot be read.
    """
    from maftp.apps.pictures import check_results, find_sources
    from maftp.apps.words import class_indices, read_words
    from maftp.errors import DataError

    names = None if vocabulary is None else read_words(vocabulary)
    sources = find_sources(images)
    check_results(sources, out)
    from maftp.apps.predict import predict

    loaded = model.load()
    if names is None:
        if loaded.training_names is None:
            raise DataError("--vocabulary: these weights do not say their classes; give some")
        names = list(loaded.training_names)
        logger.info("no --vocabulary given; using the %d classes of training", len(names))
    predictor = loaded.predictor(
        names,
        panoptic=panoptic,
        stuff=class_indices(stuff or "", names),
        short_side=short_side,
    )
    written = predict(sources, predictor, out, every=every, strict=strict)
    logger.info("%s: %d pictures segmented", out, len(written))


def demo(
    *,
    model: Model = SHIPPED,
    beside: str | None = None,
    beside_experiment: str | None = None,
    short_side: Positive | None = None,
    host: str = "127.0.0.1",
    port: Positive = 8080,
    no_browser: bool = False,
) -> None:
    """Serve a page on this machine: drop a picture, type words, see the segmentation.

    Args:
        beside: checkpoint of a second model, shown beside the first.
        beside_experiment: its recipe, as --experiment is the first one's.
        short_side: shorter side for the network, in pixels; by default the experiment's.
        host: address to listen on.
        port: port to listen on.
        no_browser: do not open a browser.
    """
    from maftp.apps.demo import check_free, serve
    from maftp.apps.demo_answer import Engine

    check_free(host, port)
    models = [model]
    if beside is not None:
        models.append(Model(beside, beside_experiment, model.device))
    engines = [Engine(each.load(), short_side=short_side) for each in models]
    logger.info("the page is at http://%s:%d; Ctrl-C ends it", host, port)
    serve(engines, _word_lists(engines[0].loaded), host=host, port=port, show=not no_browser)


def _word_lists(loaded: Loaded) -> dict[str, Sequence[str]]:
    """Return the words of a model's training, and of the benchmarks whose lists are here."""
    from maftp.data.catalog import load_catalog
    from maftp.data.inventory import benchmark_words
    from maftp.errors import DataError

    data = loaded.params.data
    try:
        catalog = load_catalog(data.catalog, data.own)
    except DataError:  # what was laid over the catalog at training is not on this machine
        catalog = load_catalog()
    training = {"training": loaded.training_names} if loaded.training_names else {}
    return training | benchmark_words(catalog, Path(data.root))


def export(
    *,
    format: Literal["torch-export", "onnx"] = "onnx",
    model: Model = SHIPPED,
    size: tuple[Positive, Positive] | None = None,
    vocabulary: str | None = None,
    out: NewFile | None = None,
    hub: NewFolder | None = None,
    licence: str | None = None,
) -> None:
    """Write a model for other runtimes, or as a folder for the Hugging Face hub.

    Args:
        format: what the other runtime reads; text embeddings are an input.
        size: height and width in pixels, multiples of 32; by default a square of the
            experiment's shorter side.
        vocabulary: words whose embeddings are written too; by default training's.
        out: file to write; by default model.onnx or model.pt2.
        hub: folder to write instead, whole, with a model card, for the Hugging Face hub.
        licence: with --hub, the hub's identifier of the licence you give the weights, such as mit.
    """
    from maftp.errors import ParamsError

    if hub is not None and (size or vocabulary or out):
        raise ParamsError("--hub: writes the whole model; leave out --size, --vocabulary and --out")
    if hub is None and licence is not None:
        raise ParamsError("--licence: is written into the folder of --hub; name one")
    if licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence):
        raise ParamsError(f"--licence {licence!r}: is not an identifier of the hub, as mit is")
    if hub is not None:
        return _export_hub(model, hub, licence)
    from maftp.apps.export import LIMITS, SUFFIX, export_model
    from maftp.apps.words import read_words
    from maftp.files import check_output

    names = None if vocabulary is None else read_words(vocabulary)
    out = out or Path("model").with_suffix(SUFFIX[format])
    check_output(out)
    loaded = model.load()
    side = -(-loaded.params.input.test.short_side // 32) * 32
    export_model(
        loaded,
        names or list(loaded.training_names or ["thing"]),
        out,
        kind=format,
        size=size or (side, side),
    )
    logger.info("%s: written and checked; limits: %s", out, LIMITS)
    return None


def _export_hub(model: Model, folder: Path, licence: str | None) -> None:
    from maftp.hub import check_new, write_folder
    from maftp.report.model_card import USE_FOLDER, licence_text, model_card, weights_subject

    check_new(folder)
    loaded = model.load()
    about = weights_subject(loaded.weights, loaded.params, use=USE_FOLDER, licence=licence)
    write_folder(
        folder,
        model=loaded.model,
        params=loaded.params,
        weights=loaded.weights,
        card=model_card(about),
        licence=licence_text(about) + "\n",
    )
    if about.terms is None:
        logger.warning("%s: no licence was chosen; read LICENSE before you upload it", folder)
    logger.info("%s: written; maftp.load_model(%r) loads it", folder, str(folder))
