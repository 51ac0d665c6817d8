"""Options that what was chosen does not use: refused, since whoever gives one expects it to matter."""

from __future__ import annotations

import argparse
from collections.abc import Iterable


def refuse(args: argparse.Namespace, names: Iterable[str], chosen: str) -> None:
    """Raise ``ValueError`` if one of the options ``names`` was given (is not None). chosen: what does not use it."""
    for name in names:
        value = getattr(args, name.replace("-", "_"))
        if value is not None:
            text = " ".join(map(str, value)) if isinstance(value, list) else value
            raise ValueError(f"--{name}: got {text}, which {chosen} does not use; leave it out")
