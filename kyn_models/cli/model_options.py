"""Options that many commands have: which model, and what runs it."""

from __future__ import annotations

import argparse
from pathlib import Path

from kyn_models.artifact import default_artifact
from kyn_models.runtimes import NAMES
from kyn_models.runtimes.queries import PRECISIONS


def add_model(parser: argparse._ActionsContainer, what: str = "model artifact (else the shipped one)") -> None:
    """``--model``. parser: or a group of one."""
    parser.add_argument("--model", type=Path, default=default_artifact(), metavar="DIR", help=what)


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """``--runtime`` and ``--precision``."""
    parser.add_argument("--runtime", choices=NAMES, default="auto", help="what runs the network (else auto)")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="of convolutions (else auto)")


def add_roi(parser: argparse.ArgumentParser, what: str) -> None:
    """``--roi``, a part of an image. what: is done with it."""
    parser.add_argument(
        "--roi",
        type=int,
        nargs=4,
        metavar=("TOP", "BOTTOM", "LEFT", "RIGHT"),
        help=f"{what}, ends exclusive (else all)",
    )
