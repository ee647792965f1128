"""The `maftp` command: each step of the pipeline, to be run by hand or by a Snakemake rule.

A command imports what it needs when it runs, so that `maftp --help` answers at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich_argparse import RichHelpFormatter

from maftp.errors import MaftpError

if TYPE_CHECKING:
    from maftp.config import Params
    from maftp.data.catalog import Catalog

logger = logging.getLogger("maftp")

DESCRIPTION = """\
Open-vocabulary segmentation with MAFT+: every step from archives to a table of results.

`snakemake --cores all results/table.csv` runs all of them in order; each can be run alone as well.
The steps: world, download, unpack, convert, clip, embed, train, evaluate, table."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a user's mistake ends in one sentence and exit code 1."""
    options = _parser().parse_args(arguments)
    _start_logging(options.log)
    try:
        options.run(options)
    except MaftpError as error:
        logger.debug("stopped", exc_info=True)
        print(f"maftp {options.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"maftp {options.command}: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="maftp", description=DESCRIPTION, formatter_class=RichHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        _add_params,
        _add_world,
        _add_download,
        _add_unpack,
        _add_convert,
        _add_clip,
        _add_miniature_clip,
        _add_embed,
        _add_train,
        _add_evaluate,
        _add_table,
        _add_merge_tables,
    ):
        add(commands)
    return parser


def _command(
    commands: argparse._SubParsersAction, name: str, help: str, run: object, *, params: bool = True
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=help, description=help, formatter_class=RichHelpFormatter
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--log", type=Path, help="also write everything, tracebacks too, to this file"
    )
    if params:
        parser.add_argument(
            "--params",
            nargs="+",
            type=Path,
            default=_default_params(),
            metavar="FILE",
            help="parameter files, later ones laid over earlier ones ($MAFTP_PARAMS, params.yaml)",
        )
    return parser


def _default_params() -> list[Path]:
    """Return the files that the workflow names, separated as in $PATH, or params.yaml."""
    named = os.environ.get("MAFTP_PARAMS", "params.yaml")
    return [Path(file) for file in named.split(os.pathsep)]


def _start_logging(log: Path | None) -> None:
    console = logging.StreamHandler()
    console.setLevel(logging.INFO)
    console.setFormatter(logging.Formatter("%(message)s"))
    handlers: list[logging.Handler] = [console]
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(log, mode="w")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handlers.append(file)
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    logger.setLevel(logging.DEBUG)


def _load(options: argparse.Namespace) -> Params:
    from maftp.config import load_params

    return load_params(*options.params)


def _add_params(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "params", "Check parameter files and print what they amount to.", _params
    )
    parser.add_argument("--schema", action="store_true", help="print what every key means instead")


def _params(options: argparse.Namespace) -> None:
    import yaml

    from maftp.config import describe_keys

    if options.schema:
        print(describe_keys())
    else:
        print(yaml.safe_dump(_load(options).model_dump(mode="json"), sort_keys=False), end="")


def _add_world(commands: argparse._SubParsersAction) -> None:
    _command(
        commands, "world", "Draw the miniature world and pack it as the official archives.", _world
    )


def _world(options: argparse.Namespace) -> None:
    from maftp.errors import ParamsError
    from maftp.miniworld.archives import write_world

    params = _load(options)
    world = params.data.world
    if world is None or params.data.catalog is None:
        raise ParamsError("data.world: this experiment uses data that exist; nothing to draw")
    write_world(
        Path(params.data.catalog).parent,
        seed=world.seed,
        train_images=world.train_images,
        val_images=world.val_images,
    )


def _add_download(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "download", "Fetch one source of the catalog and check its digest.", _download
    )
    parser.add_argument("source", help="name in the catalog, such as ade20k_challenge")


def _download(options: argparse.Namespace) -> None:
    from maftp.data.download import fetch
    from maftp.data.layout import archives_dir

    catalog, root = _catalog_and_root(_load(options))
    fetch(catalog.source(options.source), archives_dir(root))


def _add_unpack(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "unpack",
        "Unpack a downloaded source where the data sets' layout wants it.",
        _unpack,
    )
    parser.add_argument("source", help="name in the catalog, such as ade20k_challenge")


def _unpack(options: argparse.Namespace) -> None:
    from maftp.data.unpack import unpack_source

    catalog, root = _catalog_and_root(_load(options))
    unpack_source(options.source, catalog, root)


def _add_convert(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "convert",
        "Convert one data set to training ids and check every label map.",
        _convert,
    )
    parser.add_argument("dataset", help="name in the catalog, such as ade20k_150")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), help="processes (all cores of this machine)"
    )


def _convert(options: argparse.Namespace) -> None:
    from maftp.data.convert.run import convert

    catalog, root = _catalog_and_root(_load(options))
    convert(options.dataset, catalog, root, workers=options.jobs)


def _catalog_and_root(params: Params) -> tuple[Catalog, Path]:
    from maftp.data.catalog import load_catalog
    from maftp.data.layout import datasets_root

    return load_catalog(params.data.catalog), datasets_root(params.data.root)


def _add_clip(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "clip", "Fetch CLIP's pretrained weights into one checked file.", _clip
    )
    parser.add_argument("--out", type=Path, required=True, help=".safetensors file to write")


def _clip(options: argparse.Namespace) -> None:
    from maftp.modeling.clip_weights import fetch_clip

    fetch_clip(_load(options).clip, options.out)


def _add_miniature_clip(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "miniature-clip",
        "Train the miniature world's CLIP anew.",
        _miniature_clip,
        params=False,
    )
    parser.add_argument("--out", type=Path, required=True, help=".safetensors file to write")


def _miniature_clip(options: argparse.Namespace) -> None:
    from maftp.miniworld.clip import SHIPPED, train_clip

    train_clip(options.out, recipe=SHIPPED)


def _add_embed(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "embed", "Embed the class names of a vocabulary with CLIP's text tower.", _embed
    )
    parser.add_argument("vocabulary", type=Path, help="text file, one `index:name,synonym` a line")
    parser.add_argument("--keep-row-zero", action="store_true", help="row 0 is a class as well")
    parser.add_argument("--clip", type=Path, required=True, help="CLIP's weights (.safetensors)")
    parser.add_argument("--out", type=Path, required=True, help=".safetensors file to write")


def _embed(options: argparse.Namespace) -> None:
    from maftp.data.vocabulary import read_vocabulary
    from maftp.modeling.clip_backbone import ClipBackbone
    from maftp.modeling.text_classifier import TEMPLATES, embed_vocabulary

    params = _load(options)
    vocabulary = read_vocabulary(options.vocabulary, keep_row_zero=options.keep_row_zero)
    backbone = ClipBackbone.from_params(params, weights=options.clip)
    templates = TEMPLATES[: params.clip.templates]
    embed_vocabulary(backbone, vocabulary.names, templates=templates).save(options.out)


def _add_train(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands,
        "train",
        "Train one variant with one seed; continues from its last checkpoint if there is one.",
        _train,
    )
    _add_run_options(parser)
    parser.add_argument("--clip", type=Path, required=True, help="CLIP's weights (.safetensors)")
    parser.add_argument(
        "--text", type=Path, required=True, help="embeddings of the training vocabulary"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--variant", default="maftp", help="variant in the parameters (maftp)")
    parser.add_argument(
        "--seed", type=int, default=0, help="decides samples and initial weights (0)"
    )


def _train(options: argparse.Namespace) -> None:
    from maftp.data.layout import datasets_root, manifest_path
    from maftp.training.launch import launch

    params = _load(options).for_variant(options.variant)
    data = manifest_path(datasets_root(params.data.root), params.data.train)
    launch(
        params,
        variant=options.variant,
        seed=options.seed,
        clip=options.clip,
        embeddings=options.text,
        out=options.out,
        inputs=[data],
    )


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "evaluate", "Score a checkpoint on one benchmark and draw pictures.", _evaluate
    )
    parser.add_argument("benchmark", help="name in the catalog, such as A-150")
    _add_run_options(parser)
    parser.add_argument("--weights", type=Path, required=True, help="released or own checkpoint")
    parser.add_argument("--text", type=Path, help="cached embeddings of the vocabulary")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--overlays", type=Path, help="folder of pictures to write")


def _evaluate(options: argparse.Namespace) -> None:
    from maftp.evaluation.runner import evaluate

    params = _load(options)
    catalog, root = _catalog_and_root(params)
    evaluate(
        params.for_variant(options.variant),
        variant=options.variant,
        seed=options.seed,
        benchmark=options.benchmark,
        weights=options.weights,
        catalog=catalog,
        root=root,
        out=options.out,
        overlays_dir=options.overlays,
        embeddings=options.text,
    )


def _add_table(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "table", "Gather the scores of an experiment's runs into a table.", _table
    )
    parser.add_argument("runs", nargs="+", type=Path, help="results/EXPERIMENT/VARIANT/seedN")
    _add_table_outputs(parser)


def _add_table_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help=".csv file to write")
    parser.add_argument("--markdown", type=Path, required=True, help=".md file for people")


def _table(options: argparse.Namespace) -> None:
    from maftp.report.tables import experiment_table, write_table

    table = experiment_table(options.runs, benchmarks=_load(options).benchmarks)
    write_table(table, options.out, options.markdown)


def _add_merge_tables(commands: argparse._SubParsersAction) -> None:
    parser = _command(
        commands, "merge-tables", "Join the tables of experiments.", _merge_tables, params=False
    )
    parser.add_argument("tables", nargs="+", type=Path, help="results/EXPERIMENT/table.csv")
    _add_table_outputs(parser)


def _merge_tables(options: argparse.Namespace) -> None:
    from maftp.report.tables import merge_tables

    merge_tables(options.tables, options.out, options.markdown)
