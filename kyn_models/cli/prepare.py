"""``kyn prepare DATASET``: make what the readers of a downloaded data set need; one module per data set.

A data set's module has ``add_arguments(parser)`` and ``run(args) -> int``, as a subcommand's, and imports what is heavy
inside ``run``.
"""

from __future__ import annotations

import argparse
import importlib

DATA_SETS: dict[str, tuple[str, str]] = {
    "kitti360": ("kyn_models.cli.prepare_kitti360", "rectify fisheye images and resize all images of KITTI-360"),
}
"""Name to module and one line of help, in the order of ``kyn prepare --help``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``kyn prepare``: a data set, and what its module asks for."""
    subparsers = parser.add_subparsers(title="data sets", metavar="DATASET [options]", required=True)
    for name, (module_name, text) in DATA_SETS.items():
        module = importlib.import_module(module_name)
        subparser = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        module.add_arguments(subparser)
        subparser.set_defaults(prepare=module.run)


def run(args: argparse.Namespace) -> int:
    """Run the data set's module; raises as it does."""
    return int(args.prepare(args))
