"""Pages of the site that are made of other files: README, changelog, parameters, reference."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = (
    "maftp.api",
    "maftp.results",
    "maftp.modeling.build",
    "maftp.modeling.segmenter",
    "maftp.modeling.maft_plus",
    "maftp.modeling.fcclip",
    "maftp.modeling.ovrcoat",
    "maftp.modeling.maskclippp",
    "maftp.modeling.mask_adapter",
    "maftp.modeling.content_dependent_transfer",
    "maftp.losses.criterion",
    "maftp.losses.matcher",
    "maftp.losses.mask_aware",
    "maftp.losses.representation_compensation",
    "maftp.ops.ms_deform_attn",
    "maftp.training.launch",
    "maftp.evaluation.runner",
    "maftp.evaluation.semantic",
    "maftp.evaluation.panoptic",
    "maftp.report.bootstrap",
)
"""Modules on the reference's page: what people call, and the formulas of the papers."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages; called by MkDocs."""
    schema = json.loads((ROOT / "params.schema.json").read_text())
    pages = {
        "index.md": (ROOT / "README.md").read_text(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(),
        "parameters.md": parameters(schema),
        "reference.md": "# Reference\n\n" + "\n".join(f"::: {name}\n" for name in REFERENCE),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=_within_docs(text)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leave the text of links to files outside of docs/, which the site does not hold."""
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", markdown)


def _within_docs(text: str) -> str:
    """Turn links of a file in the repository's root into those of a page in docs/."""

    def link(found: re.Match[str]) -> str:
        label, target = found.groups()
        inside = target.removeprefix("docs/")
        file = ROOT / "docs" / inside.partition("#")[0]
        known = re.match(r"https?:|#", target) or (inside != target and file.is_file())
        return f"[{label}]({inside})" if known else label

    text = re.sub(r"(?<!!)\[([^\]]+)\]\(([^)]*)\)", link, text)
    return text.replace("](docs/", "](")


def parameters(schema: Mapping[str, Any]) -> str:
    """Return the page of all keys of params.yaml, a section per block."""
    lines = [
        "# Parameters",
        "",
        "Keys of `params.yaml`, as `maftp params --schema` lists them.",
        "",
    ]
    for title, block in _blocks(schema):
        lines += [f"## {title}", "", block.get("description", ""), ""]
        lines += ["| key | values | default | meaning |", "| --- | --- | --- | --- |"]
        for key, field in block["properties"].items():
            plain = "default" in field and not isinstance(field["default"], dict)
            default = f"`{json.dumps(field['default'])}`" if plain else ""
            cells = (f"`{key}`", _values(field), default, field.get("description", ""))
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _blocks(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the top level and every block below it once, by the key that leads there."""
    waiting, seen = [("Top level", schema)], set()
    while waiting:
        title, block = waiting.pop(0)
        yield title, block
        for key, field in block["properties"].items():
            for name in re.findall(r"#/\$defs/(\w+)", json.dumps(field)):
                if name not in seen and "properties" in schema["$defs"][name]:
                    seen.add(name)
                    place = key if title == "Top level" else f"{title}.{key}"
                    waiting.append((place, schema["$defs"][name]))


def _values(field: Mapping[str, Any]) -> str:
    """Say which values a key takes."""
    if "$ref" in field:
        return "a block"
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(map(_values, field["anyOf"])))
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        return f"list of {_values(field['items'])}" if "items" in field else "list"
    limits = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    kind = {"object": "mapping", "null": "null"}.get(
        field.get("type", ""), field.get("type", "any")
    )
    # A limit that nobody reaches is not worth the space.
    near = {key: field[key] for key in limits if abs(field.get(key, 1e9)) < 1e6}
    said = [f"{limits[key]} {value:g}" for key, value in near.items()]
    return " ".join([kind, *said])
