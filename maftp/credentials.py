"""Passwords and keys in addresses, kept out of everything that is written down."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_USER = re.compile(r"(?<=://)[^/\s@'\"<>]*@")
_QUERY = re.compile(
    r"(?i)([?&][^=&\s'\"]*(?:passw|secret|token|key|signature|credential)[^=&\s'\"]*=)[^&\s'\"<>]*"
)


def without_credentials(text: str) -> str:
    """Return a text without the user, password and keys of the addresses in it.

    `http://ann:word@host/x?token=abc` becomes `http://host/x?token=***`.
    """
    return _QUERY.sub(r"\1***", _USER.sub("", text))


def cleaned(values: Any) -> Any:
    """Return nested values with every text as `without_credentials` returns it."""
    if isinstance(values, str):
        return without_credentials(values)
    if isinstance(values, Mapping):
        return {key: cleaned(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(cleaned(value) for value in values)
    return values
