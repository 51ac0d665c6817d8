"""``kyn export``: make an artifact ready for robots. Adds ONNX, decoder constants and a self-test, checked at once."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", type=Path, help="folder made by `kyn import` or `kyn train`")


def run(args: argparse.Namespace) -> int:
    from kyn_models.artifact import Artifact

    artifact = Artifact.load(args.artifact)
    print(f"exporting {artifact.name}, which takes about a minute", flush=True)
    from kyn_models.export import export

    artifact, agreements = export(args.artifact)
    for agreement in agreements:
        print(f"  {agreement.runtime:12s} agrees with torch: largest difference {agreement}")
    for name in artifact.manifest.files:
        print(f"  {name:20s} {(artifact.path / name).stat().st_size / 1e6:8.2f} MB")
    return 0
