"""The catalog of sources, datasets and benchmarks: `sources.yaml`, typed, with overlays.

`load_catalog` reads it, `register` makes its datasets known to Detectron2. A new benchmark is an
entry in the catalog, a vocabulary and at most one converter.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import quote

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from maftp.errors import DataError
from maftp.yaml_file import read_yaml

_MAKE_CATALOG = "make it, or set data.catalog to null"
_ADD_DATA = "run 'maftp data add' first, or set data.own to null"
_OF_ONE_FILE = ("mirrors", "megabytes", "bytes", "sha256", "sha1", "md5")


def _check_below(path: str) -> str:
    """Another version of a source is removed before it is unpacked: never outside the root."""
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\0" in path:
        raise ValueError(f"{path!r} must be a path below the datasets root, without '..'")
    return path


_Below = Annotated[str, AfterValidator(_check_below)]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Obtainable(_Entry):
    """One file to obtain; the keys are explained at the top of `sources.yaml`."""

    title: str
    url: str | None = None
    mirrors: tuple[str, ...] = ()
    file: str = Field(pattern=r"^[^/\\]*[^/\\.][^/\\]*$")
    megabytes: int | None = None
    bytes: int | None = None
    sha256: str | None = None
    sha1: str | None = None
    md5: str | None = None
    licence: str
    note: str = ""
    registration: str | None = None
    own: bool = False
    _name: str = PrivateAttr("NAME")

    @property
    def name(self) -> str:
        """Name in the catalog."""
        return self._name

    @property
    def urls(self) -> tuple[str, ...]:
        """Addresses in the order in which they are tried; empty when registration is needed."""
        return ((self.url,) if self.url else ()) + self.mirrors

    @property
    def digests(self) -> dict[str, str]:
        """Published digests by the name of their algorithm."""
        found = {"sha256": self.sha256, "sha1": self.sha1, "md5": self.md5}
        return {name: digest.lower() for name, digest in found.items() if digest}

    @model_validator(mode="after")
    def _check_address(self) -> Obtainable:
        if not self.urls and self.registration is None and not self.own:
            raise ValueError("needs a url, or the address where one registers")
        return self


class Source(Obtainable):
    """A file of data, and where its contents go below the datasets root."""

    unpack: _Below | None = None
    nested: tuple[_Below, ...] = ()
    place: _Below | None = None
    makes: tuple[_Below, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_place(self) -> Source:
        if (self.unpack is None) == (self.place is None):
            raise ValueError("needs either unpack or place")
        return self


class Split(_Entry):
    """Images and labels of one part of a dataset; paths are relative to the datasets root."""

    name: str
    count: int = Field(ge=0)
    images: _Below
    labels: _Below | None = None
    panoptic: _Below | None = None
    annotations: _Below | None = None
    raw: dict[str, str] = {}
    absent: tuple[int, ...] | None = None


class Dataset(_Entry):
    """What one converter makes out of its sources."""

    title: str
    sources: tuple[str, ...]
    converter: str
    kind: Literal["semantic", "panoptic", "instance"]
    vocabulary: str
    keep_row_zero: bool = False
    classes: int = Field(gt=0)
    ignore_label: int
    ignored_values: tuple[Annotated[int, Field(ge=0, le=65535)], ...] = ()
    image_suffix: Literal[".jpg", ".png"] = ".jpg"
    label_suffix: Literal[".png", ".tif"] = ".png"
    evaluator_type: str = "sem_seg"
    id_table: str | None = None
    id_table_sha256: str | None = None
    splits: dict[str, Split]


class Benchmark(_Entry):
    """A split and how it is scored."""

    dataset: str
    split: str
    metric: Literal["semantic", "panoptic", "instance"]
    optional: bool = False


class Catalog(_Entry):
    """Everything that can be downloaded, converted and scored."""

    sources: dict[str, Source]
    datasets: dict[str, Dataset]
    benchmarks: dict[str, Benchmark]
    weights: dict[str, Obtainable] = {}

    @model_validator(mode="after")
    def _check(self) -> Catalog:
        for name, entry in {**self.sources, **self.weights}.items():
            entry._name = name
        for name, dataset in self.datasets.items():
            for source in dataset.sources:
                if source not in self.sources:
                    raise ValueError(f"datasets.{name}.sources: there is no source {source!r}")
        taken: set[str] = set()
        for split in (split for entry in self.datasets.values() for split in entry.splits.values()):
            if split.name in taken:
                raise ValueError(f"datasets: name {split.name!r} is taken by another split")
            taken.add(split.name)
        for name, benchmark in self.benchmarks.items():
            dataset = self.datasets.get(benchmark.dataset)
            if dataset is None or benchmark.split not in dataset.splits:
                found = f"{benchmark.dataset}, {benchmark.split}"
                raise ValueError(f"benchmarks.{name}: there is no such dataset and split ({found})")
        return self

    def dataset(self, name: str) -> Dataset:
        """Return a dataset by name.

        Raises:
            DataError: there is none; names those there are.
        """
        return _pick(self.datasets, name, "dataset")

    def source(self, name: str) -> Source:
        """Return a source by name.

        Raises:
            DataError: there is none; names those there are.
        """
        return _pick(self.sources, name, "source")

    def released(self, name: str) -> Obtainable:
        """Return released weights by name.

        Raises:
            DataError: there are none; names those there are.
        """
        return _pick(self.weights, name, "released weights")

    def obtainable(self, name: str) -> Obtainable:
        """Return a source, or released weights, by name.

        Raises:
            DataError: there is none; names those there are.
        """
        return _pick({**self.sources, **self.weights}, name, "source")

    def benchmark(self, name: str) -> Benchmark:
        """Return a benchmark by name.

        Raises:
            DataError: there is none; names those there are.
        """
        return _pick(self.benchmarks, name, "benchmark")

    def source_of_vocabulary(self, stem: str) -> str:
        """Return the name of the source of a vocabulary.

        Raises:
            DataError: no source makes that vocabulary.
        """
        made = f"vocabularies/{stem}_with_prompt_eng.txt"
        for name, source in self.sources.items():
            if made in source.makes:
                return name
        raise DataError(f"vocabulary {stem!r}: no source of the catalog makes {made}; add one")


def load_catalog(overlay: Path | str | None = None, own: Path | str | None = None) -> Catalog:
    """Read the catalog of the package and lay others over it, key by key.

    Args:
        overlay: `data.catalog` of the parameters.
        own: `data.own`, what `maftp data add` has written.

    Raises:
        DataError: an overlay is missing or wrong; names the file and the key.
    """
    values = copy.deepcopy(_packaged())
    catalog = None
    for path, remedy in ((overlay, _MAKE_CATALOG), (own, _ADD_DATA)):
        if path is not None:
            over = read_overlay(Path(path), remedy=remedy)
            values = _laid_over(values, over, Path(path))
            catalog = _checked(values, Path(path))
    return catalog or Catalog.model_validate(values)


def _laid_over(values: dict[str, Any], over: Mapping[str, Any], overlay: Path) -> dict[str, Any]:
    """Lay an overlay over values, which lose what described the things that it replaces."""
    for section in ("sources", "weights"):
        for name, source in _section(over, section).items():
            _forget(values[section].get(name), source, trigger="url", keys=_OF_ONE_FILE)
    for name, dataset in _section(over, "datasets").items():
        base = values["datasets"].get(name)
        _forget(base, dataset, trigger="classes", keys=("id_table_sha256",))
        known = (base or {}).get("splits", {})
        splits = _section(dataset, "splits")
        if not isinstance(splits, dict) or not all(isinstance(e, dict) for e in splits.values()):
            raise DataError(f"{overlay}: datasets.{name}.splits: expected a mapping of splits")
        for split, entry in splits.items():
            _forget(known.get(split), entry, trigger="count", keys=("absent",))
    return _merge(values, over)


def _checked(values: Mapping[str, Any], overlay: Path) -> Catalog:
    try:
        return Catalog.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        known = first["type"] == "value_error"
        reason = str(first["ctx"]["error"] if known else first["msg"])
        reason = f"{reason[:1].lower()}{reason[1:]}"  # patterns keep their case
        raise DataError(f"{overlay}: {key or 'catalog'}: {reason}") from None


@cache
def _packaged() -> dict[str, Any]:
    return yaml.safe_load(resources.files("maftp.data").joinpath("sources.yaml").read_text())


def read_overlay(path: Path, *, remedy: str = _ADD_DATA) -> dict[str, Any]:
    """Read a file that is laid over the catalog.

    Args:
        path: the file; `{here}` in its addresses is its folder.
        remedy: what to do when it is missing.

    Raises:
        DataError: it is missing, or a section of it is wrong.
    """
    values = read_yaml(path, kind=f"catalog ({remedy})", error=DataError)
    for section in ("sources", "datasets", "benchmarks", "weights"):
        entries = _section(values, section)
        if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
            raise DataError(f"{path}: {section}: expected a mapping of keys in every entry")
    here = quote(str(path.resolve().parent))
    for entry in (*_section(values, "sources").values(), *_section(values, "weights").values()):
        if isinstance(entry.get("url"), str):
            entry["url"] = entry["url"].replace("{here}", here)
        if isinstance(entry.get("mirrors"), list):
            entry["mirrors"] = [str(mirror).replace("{here}", here) for mirror in entry["mirrors"]]
    return values


def _section(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return values.get(name) or {}


def _forget(
    base: dict[str, Any] | None, over: Mapping[str, Any], *, trigger: str, keys: tuple[str, ...]
) -> None:
    """Drop from `base` what described the thing that `over` replaces."""
    if base is not None and trigger in over and over[trigger] != base.get(trigger):
        for key in keys:
            base.pop(key, None)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value)
        elif not (value is None and isinstance(merged.get(key), Mapping)):
            merged[key] = copy.deepcopy(value)
    return merged


def _pick(entries: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in entries:
        raise DataError(f"{what} {name!r} is not in the catalog; known: {', '.join(entries)}")
    return entries[name]
