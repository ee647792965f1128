"""Parameter files: read, laid over each other, checked, and typed as one frozen object.

`load_params` names the file and the key of what is wrong; `maftp/blocks.py` says what is right.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator
from pydantic.json_schema import GenerateJsonSchema

from maftp.blocks import (
    Ablations,
    Block,
    Checkpoint,
    Clip,
    Count,
    Data,
    Evaluate,
    Execution,
    Input,
    Model,
    Name,
    Overrides,
    Resources,
    Several,
    Text,
    Tracking,
    Train,
)
from maftp.errors import ParamsError
from maftp.grid import FOLDER, OTHER_WEIGHTS, PREFIX, Grid, expand
from maftp.yaml_file import read_yaml


class Params(Block):
    """One experiment, or one of its variants."""

    experiment: Name
    """Name of the experiment; its files are under results/{experiment}."""
    seeds: Several[Count]
    """One training per variant and seed; it decides initial weights and the order of images."""
    benchmarks: Several[Text]
    """Benchmarks to score, by their names in the catalog: the columns of the table."""
    baseline: Name | None = None
    """Variant that all others are compared with; null: fcclip, where there is one."""
    data: Data
    input: Input
    clip: Clip
    model: Model
    train: Train
    execution: Execution
    evaluate: Evaluate
    tracking: Tracking
    resources: Resources = Resources()
    weights: Checkpoint | None
    """Checkpoint to evaluate, with {experiment} and {seed} filled in; null: train one."""
    variants: dict[Name, Overrides]
    """Rows of the table, by name: the keys that differ. A later file replaces them all."""
    ablations: Ablations | None = None
    """Grid of cells that differ from one another in one parameter; equal cells are one run."""

    @model_validator(mode="after")
    def _check(self) -> Params:
        for variant, overrides in self.variants.items():
            for key in _dotted(overrides):
                _refuse_shared(key, where=f"variants.{variant}", shared=SHARED)
        if self.baseline is not None and self.baseline not in self.variants:
            known = ", ".join(self.variants)
            raise ValueError(f"baseline: {self.baseline!r} is not a variant; known: {known}")
        if self.experiment == FOLDER:
            raise ValueError(f"experiment: {FOLDER} is where grids lie; choose another name")
        if self.ablations is not None:
            self._check_grid_keys(self.ablations)
        workers = self.execution.workers
        if self.train.batch_size % workers:
            raise ValueError("train.batch_size: must be a multiple of execution.workers")
        share = self.train.batch_size // workers
        if share % (self.execution.micro_batch_size or share):
            raise ValueError(
                f"execution.micro_batch_size: must divide the {share} images of a worker "
                "(train.batch_size / execution.workers)"
            )
        if workers % self.resources.nodes:
            raise ValueError("execution.workers: must be a multiple of resources.nodes")
        if self.model.hidden_dim % 32 or self.model.hidden_dim % self.model.num_heads:
            raise ValueError("model.hidden_dim: must be a multiple of 32 and of model.num_heads")
        return self

    @staticmethod
    def _check_grid_keys(grid: Ablations) -> None:
        for key in _dotted(grid.overrides):
            _refuse_shared(key, where="ablations.overrides", shared=SHARED)
        for group, cells in (("parts", grid.parts), ("sweeps", grid.sweeps)):
            for name, cell in cells.items():
                # trained cells have weights of their own
                where = f"ablations.{group}.{name}.key"
                _refuse_shared(cell.key, where=where, shared=(*SHARED, "weights"))
        for name, part in grid.parts.items():
            for key in _dotted(part.also):
                where = f"ablations.parts.{name}.also"
                _refuse_shared(key, where=where, shared=(*SHARED, "weights"))

    def for_variant(self, variant: str) -> Params:
        """Return these parameters with the overrides of `variant` applied and no variants left.

        Raises:
            ParamsError: there is no such variant, or its overrides are wrong.
        """
        if variant in self.variants:
            return parse_params(self._variant_values(variant), source=f"variants.{variant}")
        if variant.startswith(PREFIX) and variant in (runs := self.grid.runs):
            return parse_params(runs[variant], source=f"ablations, run {variant}")
        raise ParamsError(
            f"variant {variant!r} is not in the parameters; known: {', '.join(self.variants)}"
        )

    @property
    def has_grid(self) -> bool:
        """Whether there is a grid whose full model is a variant; a later file may replace these."""
        return self.ablations is not None and self.ablations.full in self.variants

    @property
    def compared_with(self) -> str | None:
        """The variant that all others are compared with, if any."""
        default = "fcclip" if "fcclip" in self.variants else None
        return self.baseline or default

    def other_weights(self, seed: int) -> dict[str, Path]:
        """Return the checkpoints of other runs that a training takes, by what it takes of them.

        A variant whose weights are given is evaluated only: it starts from nothing.
        """
        named = {name: getattr(self.train, name) for name in OTHER_WEIGHTS}
        if self.weights is not None:
            named["start"] = None
        return {
            name: Path(path.format(experiment=self.experiment, seed=seed))
            for name, path in named.items()
            if path is not None
        }

    @cached_property
    def grid(self) -> Grid:
        """The ablation grid: its table's rows and the values of its runs.

        Raises:
            ParamsError: there is none, or it names what is not there.
        """
        if self.ablations is None:
            raise ParamsError("ablations: these parameters have no grid; write one")
        variants = {variant: self._variant_values(variant) for variant in self.variants}
        plain = self.model_dump(mode="python", include={"ablations"})["ablations"]
        try:
            return expand(variants, plain)
        except ValueError as error:
            raise ParamsError(str(error)) from None

    def _variant_values(self, variant: str) -> dict[str, Any]:
        values = self.model_dump(mode="python", exclude={"ablations"})
        overrides = values.pop("variants")[variant]
        alone = {"variants": {}, "ablations": None, "baseline": None}
        return _tuples(_merge(values, overrides)) | alone


def parse_params(values: Mapping[str, Any], *, source: str) -> Params:
    """Check `values` against the shape of `params.yaml`.

    Raises:
        ParamsError: names `source` and the first wrong key, what was found and what is wanted.
    """
    try:
        return Params.model_validate(_tuples(dict(values)))
    except ValidationError as error:
        errors = error.errors(include_url=False)
        # a mistyped key is unknown and missing at once: name it as it was typed
        first = min(errors, key=lambda found: found["type"] != "extra_forbidden")
        raise ParamsError(f"{source}: {_sentence(first, len(errors))}") from None


def recorded_params(values: Mapping[str, Any], *, source: str) -> Params:
    """Check parameters that an earlier version may have recorded: keys get their names of today.

    Raises:
        ParamsError: see `parse_params`.
    """
    renamed = copy.deepcopy(dict(values))
    for old, new in MOVED.items():
        block, key = old.split(".")
        if key in renamed.get(block, {}):
            target, name = new.split(".")
            renamed.setdefault(target, {})[name] = renamed[block].pop(key)
    return parse_params(renamed, source=source)


def load_params(path: Path | str, *overlays: Path | str) -> Params:
    """Read a parameter file and lay others over it, key by key; lists are replaced.

    Raises:
        ParamsError: a file is missing or no YAML mapping, or a key or value is wrong.
    """
    values: dict[str, Any] = {}
    for file in (path, *overlays):
        values = _merge(values, read_yaml(Path(file), kind="parameter file", error=ParamsError))
    source = ", ".join(str(file) for file in (path, *overlays))
    params = parse_params(values, source=source)
    for variant in params.variants:
        params.for_variant(variant)
    if params.has_grid:
        for run in params.grid.runs:
            params.for_variant(run)
    return params


SHARED = (
    *("variants", "ablations", "seeds", "experiment", "benchmarks", "baseline", "data"),
    *("resources", "tracking", "train.validation"),
    *("execution.workers", "execution.gpus_per_worker"),
    *("execution.cpus_per_worker", "execution.loader_workers"),
)
"""What all variants of an experiment have in common."""


def _dotted(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted keys of all values that are not mappings."""
    found = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found += _dotted(value, f"{prefix}{key}.")
        else:
            found.append(f"{prefix}{key}")
    return found


def _refuse_shared(key: str, *, where: str, shared: Sequence[str]) -> None:
    for block in shared:
        if f"{key}.".startswith(f"{block}."):
            raise ValueError(
                f"{where}: a variant cannot change {key}; write an experiment of its own, a file "
                "for --configfile"
            )


MOVED = {
    "data.workers": "execution.loader_workers",
    "train.images_per_pass": "execution.micro_batch_size",
    "train.recompute_trunk": "execution.gradient_checkpointing",
} | {
    f"train.{name}": f"execution.{name}"
    for name in (
        *("workers", "gpus_per_worker", "cpus_per_worker", "checkpoint_period"),
        *("checkpoint_minutes", "checkpoints_kept", "log_period"),
    )
}
"""Keys of version 0.1, by their old name."""


_REPLACED = ("variants", "overrides", "parts", "sweeps", "also")
"""Blocks that a later file replaces instead of merging."""


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        if (
            key not in _REPLACED
            and isinstance(value, Mapping)
            and isinstance(merged.get(key), Mapping)
        ):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _tuples(value: Any) -> Any:
    """Turn YAML's lists into tuples, which strict frozen models ask for."""
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_tuples(item) for item in value)
    return value


def _sentence(error: Mapping[str, Any], count: int) -> str:
    key = ".".join(str(part) for part in error["loc"] if part != "[key]")
    more = f" ({count - 1} more like this)" if count > 1 else ""
    if error["type"] == "missing":
        return f"key {key!r} is missing; add it{more}"
    if error["type"] == "extra_forbidden":
        if key in MOVED:
            return f"key {key!r} is called {MOVED[key]!r} now; rename it{more}"
        return f"key {key!r} is not known; remove it or mend its spelling{more}"
    if error["type"] == "value_error":
        message = str(error["ctx"]["error"])
        return (f"key {key!r} is {_shown(error['input'])}: {message}" if key else message) + more
    message = error["msg"]  # patterns keep their case
    return f"key {key!r} is {_shown(error['input'])}: {message[:1].lower()}{message[1:]}{more}"


def _shown(value: Any) -> str:
    """Return a value as a parameter file has it, cut where it is long."""
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a parameter file, for editors and `maftp params --schema`."""
    schema = Params.model_json_schema(schema_generator=_LayerSchema)
    whole = {"$ref": "#"}  # overrides have the form of the file they stand in
    variants = schema["properties"]["variants"]
    variants["patternProperties"] = dict.fromkeys(variants["patternProperties"], whole)
    schema["$defs"]["Ablations"]["properties"]["overrides"] |= whole
    schema["$defs"]["AblationPart"]["properties"]["also"] |= whole
    return {"$schema": _LayerSchema.schema_dialect} | schema


class _LayerSchema(GenerateJsonSchema):
    """A file may leave out what the one below it says; names of keys are titles enough."""

    def field_is_required(self, field: Any, total: bool) -> bool:
        return False

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False
