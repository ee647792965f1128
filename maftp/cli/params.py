"""`maftp params`: what parameter files amount to."""

from __future__ import annotations

from maftp.cli.options import PARAMS, ParamFiles, read_params


def params(*, schema: bool = False, params: ParamFiles = PARAMS) -> None:
    """Check parameter files and print what they amount to.

    Args:
        schema: print a JSON schema with every key's type, default and meaning instead.
    """
    import yaml

    from maftp.config import describe_keys
    from maftp.credentials import cleaned

    if schema:
        print(describe_keys())
    else:
        values = cleaned(read_params(params).model_dump(mode="json"))
        print(yaml.safe_dump(values, sort_keys=False), end="")
