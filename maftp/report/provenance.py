"""What was run: commit, data, parameters, versions and hardware of every run, as a table."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from maftp.results import Run

_PLAIN = (
    "commit", "dirty", "params_digest", "source_digest", "python", "platform", "device",
    "training_seconds", "peak_host_memory_mb", "peak_gpu_memory_mb",
)  # fmt: skip


def provenance_table(runs: Sequence[Run], benchmarks: Sequence[str]) -> pd.DataFrame:
    """Return a row per fact of every run; facts that all runs share stand once, under `all runs`.

    Args:
        runs: finished runs.
        benchmarks: whose vocabularies and weights are named.
    """
    facts = {f"{run.variant}/seed{run.seed}": _facts(run, benchmarks) for run in runs}
    keys = list(dict.fromkeys(key for values in facts.values() for key in values))
    rows = []
    for key in keys:
        values = {name: own[key] for name, own in facts.items() if key in own}
        if len(set(values.values())) == 1:
            rows.append({"run": "all runs", "fact": key, "value": next(iter(values.values()))})
        else:
            rows += [{"run": name, "fact": key, "value": value} for name, value in values.items()]
    return pd.DataFrame(rows, columns=["run", "fact", "value"])


def _facts(run: Run, benchmarks: Sequence[str]) -> dict[str, str]:
    manifest = run.manifest if run.trained else {}
    facts = {name: str(manifest[name]) for name in _PLAIN if name in manifest}
    facts |= {f"input {path}": digest for path, digest in manifest.get("inputs", {}).items()}
    facts |= {f"version of {name}": v for name, v in manifest.get("packages", {}).items()}
    for benchmark in benchmarks:
        provenance = run.evaluation(benchmark).provenance
        facts["weights sha256"] = provenance["weights_sha256"]
        facts[f"vocabulary of {benchmark}"] = provenance["vocabulary_sha256"]
        facts["device of evaluation"] = provenance["device"]
    return facts
