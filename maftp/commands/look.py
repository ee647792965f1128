"""Commands that show what a model sees: on one's own pictures, in a page, in other programs."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from maftp.commands.parser import command

if TYPE_CHECKING:
    from maftp.api import Loaded

logger = logging.getLogger("maftp")


def add(commands: argparse._SubParsersAction) -> None:
    """Add these commands."""
    _add_predict(commands)
    _add_demo(commands)
    _add_export(commands)


def _add_predict(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "predict",
        "Segment your own pictures with your own words.",
        _predict,
        params=False,
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="images, videos, folders or patterns"
    )
    parser.add_argument(
        "--vocabulary",
        metavar="WORDS",
        help='classes, such as "sky; building, edifice; red car", or a text file of them'
        " (the classes the model was trained with)",
    )
    add_model_options(parser)
    parser.add_argument("--panoptic", action="store_true", help="find separate segments")
    parser.add_argument(
        "--stuff",
        default="",
        metavar="WORDS",
        help='with --panoptic: classes without instances, such as "sky; road" (none)',
    )
    parser.add_argument("--out", type=Path, default=Path("predictions"), help="(predictions)")
    parser.add_argument(
        "--every", type=positive, default=1, metavar="N", help="every Nth frame of videos (1)"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="end with an error when a file of a folder, or the end of a video, cannot be read",
    )


def add_model_options(parser: argparse.ArgumentParser, *, short_side: bool = True) -> None:
    """Add the options that choose a model, and the size it works at."""
    parser.add_argument(
        "--weights", type=Path, help="released or own checkpoint (the miniature world's)"
    )
    parser.add_argument(
        "--experiment", help="what released weights are of, such as maftp_base (own ones know it)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (a GPU when there is one)")
    if short_side:
        parser.add_argument(
            "--short-side",
            type=positive,
            metavar="N",
            help="pixels for the network (the experiment's)",
        )


def positive(text: str) -> int:
    """Parse a whole number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _predict(options: argparse.Namespace) -> None:
    from maftp.errors import DataError
    from maftp.prediction.pictures import find_sources
    from maftp.prediction.results import check_results
    from maftp.prediction.words import class_indices, read_words

    names = None if options.vocabulary is None else read_words(options.vocabulary)
    sources = find_sources(options.images)
    check_results(sources, options.out)
    from maftp.prediction.run import predict

    loaded = _load(options)
    if names is None:
        if loaded.training_names is None:
            raise DataError("--vocabulary: these weights do not say their classes; give some")
        names = list(loaded.training_names)
        logger.info("no --vocabulary given; using the %d classes of training", len(names))
    predictor = loaded.predictor(
        names,
        panoptic=options.panoptic,
        stuff=class_indices(options.stuff, names),
        short_side=options.short_side,
    )
    written = predict(sources, predictor, options.out, every=options.every, strict=options.strict)
    logger.info("%s: %d pictures segmented", options.out, len(written))


def _load(options: argparse.Namespace) -> Loaded:
    from maftp.api import load

    return load(options.weights, experiment=options.experiment, device=options.device)


def _add_demo(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "demo",
        "Serve a page on this machine: drop a picture, type words, see the segmentation.",
        _demo,
        params=False,
    )
    add_model_options(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=positive, default=8080, help="(8080)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")


def _demo(options: argparse.Namespace) -> None:
    from maftp.demo.page import Engine, serve
    from maftp.demo.port import check_free

    check_free(options.host, options.port)
    engine = Engine(_load(options), short_side=options.short_side)
    logger.info("the page is at http://%s:%d; Ctrl-C ends it", options.host, options.port)
    serve(engine, host=options.host, port=options.port, show=not options.no_browser)


def _add_export(commands: argparse._SubParsersAction) -> None:
    parser = command(
        commands,
        "export",
        "Write the image path for other runtimes, text embeddings being an input.",
        _export,
        params=False,
    )
    parser.add_argument("--format", choices=("torch-export", "onnx"), default="onnx", help="(onnx)")
    add_model_options(parser, short_side=False)
    parser.add_argument(
        "--size", nargs=2, type=positive, metavar=("H", "W"), help="pixels, multiples of 32"
        " (a square of the experiment's shorter side)",
    )  # fmt: skip
    parser.add_argument(
        "--vocabulary", metavar="WORDS", help="whose embeddings are written too (training's)"
    )
    parser.add_argument("--out", type=Path, help="file to write (model.onnx or model.pt2)")


def _export(options: argparse.Namespace) -> None:
    from maftp.export.run import LIMITS, SUFFIX, export_model
    from maftp.files import check_output
    from maftp.prediction.words import read_words

    names = None if options.vocabulary is None else read_words(options.vocabulary)
    out = options.out or Path("model").with_suffix(SUFFIX[options.format])
    check_output(out)
    loaded = _load(options)
    side = -(-loaded.params.input.test.short_side // 32) * 32
    export_model(
        loaded,
        names or list(loaded.training_names or ["thing"]),
        out,
        kind=options.format,
        size=tuple(options.size or (side, side)),
    )
    logger.info("%s: written and checked; limits: %s", out, LIMITS)
