"""`maftp params`: what parameter files amount to."""

from __future__ import annotations

from maftp.cli.options import PARAMS, ParamFiles, read_params


def params(*, schema: bool = False, params: ParamFiles = PARAMS) -> None:
    """Check parameter files and print what they amount to.

    Args:
        schema: print every key's type, default and meaning instead, as a JSON schema.
    """
    import json

    import yaml

    from maftp.config import json_schema
    from maftp.credentials import cleaned

    if schema:
        print(json.dumps(json_schema(), indent=2))
    else:
        values = cleaned(read_params(params).model_dump(mode="json"))
        print(yaml.safe_dump(values, sort_keys=False), end="")
