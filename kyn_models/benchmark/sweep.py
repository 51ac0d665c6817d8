"""Cost against voxels, rays and image size, as a table and a plot. numpy and matplotlib; image sizes need torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kyn_models.artifact import Artifact
from kyn_models.benchmark.case import Case
from kyn_models.benchmark.comparison import summary
from kyn_models.benchmark.laboratory import Laboratory, grid_in_view
from kyn_models.cli.eval import print_table

VOXELS = (50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000)
RAYS = ((24, 80), (48, 160), (96, 320), (144, 480), (192, 640))
IMAGES = ((96, 320), (192, 640), (288, 960))
"""(height, width), multiples of 32."""
ROUNDS = 3
SHOWN = ("encode", "depth", "volume", "frame")

Point = tuple[str, float, Case]
"""What is written on the axis, where it lies on it, what is measured."""


def sweep(laboratory: Laboratory, artifact: Artifact, case: Case, path: Path) -> dict[str, Any]:
    """Measure ``case`` with other numbers of voxels, rays and pixels, one at a time; print a table, plot into ``path``.

    Returns what goes into JSON: per axis a list of points with medians in ms, and ``not_run`` where one is left out.
    Raises ``ValueError`` if a point cannot be measured.
    """
    case = replace(case, rounds=min(case.rounds, ROUNDS))
    axes: dict[str, list[Point]] = {"voxels in view": _voxel_points(case), "rays": _ray_points(case)}
    reason = ""
    try:
        axes["pixels of the image"] = _image_points(artifact, case)
    except ImportError as error:
        reason = f"image size: not swept, because models of other sizes are made with torch ({error})"
        print(reason)
    found = {axis: [_measured(laboratory, point, axis) for point in points] for axis, points in axes.items()}
    for axis, rows in found.items():
        print(f"\nmilliseconds against {axis}, {case.name}")
        print_table(SHOWN, [(row["label"], [f"{row[stage]:.1f}" for stage in SHOWN]) for row in rows])
    plot(found, case.name, path)
    print(f"wrote {path}")
    return {"case": case.name, "axes": found, "not_run": reason}


def _voxel_points(case: Case) -> list[Point]:
    grids = [grid_in_view(voxels) for voxels in VOXELS]
    return [(f"{np.prod(g.shape):,}", float(np.prod(g.shape)), replace(case, grid=g)) for g in grids]


def _ray_points(case: Case) -> list[Point]:
    return [(f"{r}x{c}", float(r * c), replace(case, depth_rays=(r, c))) for r, c in RAYS]


def _image_points(artifact: Artifact, case: Case) -> list[Point]:
    """Models of the same configuration with other image sizes. Raises ``ImportError`` where torch is missing."""
    from kyn_models.models.loading import make_config
    from kyn_models.models.seeded import cached_artifact

    config = make_config(artifact.manifest.family, artifact.manifest.config, str(artifact.path))
    return [
        (f"{w}x{h}", float(h * w), replace(case, model=str(cached_artifact(config, w, h).path.resolve())))
        for h, w in IMAGES
    ]


def _measured(laboratory: Laboratory, point: Point, axis: str) -> dict[str, Any]:
    label, at, case = point
    outcome = laboratory.measure(case)
    if outcome.failed:
        raise ValueError(f"--sweep: {case.name} cannot be measured at {label} {axis}: {outcome.failed}")
    row = summary(outcome)
    medians = {stage: row["stages_ms"][stage]["median"] for stage in SHOWN if stage in row["stages_ms"]}
    # What lies on the axis is what was computed: cells outside the view cost nothing.
    if axis.startswith("voxels"):
        label, at = f"{row['cells_in_view']:,}", float(row["cells_in_view"])
    return {"label": label, "at": at, **medians, "frame": row["frame_ms"]["median"], "peak_mb": row["peak_mb"]}


def plot(found: dict[str, list[dict[str, Any]]], name: str, path: Path) -> None:
    """One panel per axis, logarithmic along it, a line per stage; what was measured is what has a tick."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(found), figsize=(4.6 * len(found), 3.8), squeeze=False)
    for panel, (axis, rows) in zip(panels[0], found.items(), strict=True):
        for stage in SHOWN:
            panel.plot([row["at"] for row in rows], [row[stage] for row in rows], marker="o", label=stage)
        panel.set_xscale("log")
        panel.minorticks_off()
        panel.set_xticks([row["at"] for row in rows], [row["label"] for row in rows], rotation=30, ha="right")
        panel.set_xlabel(axis)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel(f"ms per image (median), {name}")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(SHOWN), frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
