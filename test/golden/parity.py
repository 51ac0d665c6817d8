"""Compare with the authors' own outputs: python test/golden/parity.py DIR [--salt S]

DIR holds one folder per system with cases (``*.npz``) and, for networks, the official names (``state_dict*.json``).
Each network is filled from those names alone, so that equal outputs mean that official checkpoints behave as published.
Systems that are not built yet are listed. Exit code 0 only if at least one case ran and all of them agree.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[level]) for level in (1, 2)]

import dymultidepth_outputs  # noqa: E402
import kyn_outputs  # noqa: E402
import torch  # noqa: E402
from official import Arrays, fill, image_rays, image_tensor, tensor  # noqa: E402
from torch import nn  # noqa: E402

from kyn_models import metrics  # noqa: E402
from kyn_models.data.lidar_occupancy import occupancy_truth, protocol_grid  # noqa: E402
from kyn_models.geometry import View, sample_colours  # noqa: E402
from kyn_models.models import FAMILIES  # noqa: E402
from kyn_models.models.bts import Bts, BtsConfig  # noqa: E402
from kyn_models.render import ray_points, render, z_samples  # noqa: E402


class Allowed(NamedTuple):
    """How far an output may be off: ``absolute + relative * |expected|`` in all but the share ``exempt`` of entries.

    at_most: how far the exempt entries may be off.
    """

    absolute: float
    relative: float = 0.0
    exempt: float = 0.0
    at_most: float = np.inf

    def __str__(self) -> str:
        text = f"{self.absolute:g}"
        text += f" + {self.relative:g} rel" if self.relative else ""
        text += f" ({1 - self.exempt:.1%} of cells)" if self.exempt else ""
        return text + (f", {self.at_most:g}" if np.isfinite(self.at_most) else "")


class Result(NamedTuple):
    """One compared array. error: the largest difference, NaN where the arrays cannot be compared."""

    name: str
    error: float
    allowed: Allowed
    ok: bool
    remark: str = ""


class Case(NamedTuple):
    """What is given, and how far each output may be off. inputs: names of the arrays that are not outputs."""

    inputs: frozenset[str]
    outputs: Callable[[Arrays, str, Path, str], Arrays]
    allowed: Callable[[str, str], Allowed]


def bts_outputs(case: Arrays, name: str, folder: Path, salt: str) -> Arrays:
    """Behind the Scenes: features, the field at points, and rays composited with view 0 as the only colour source."""
    model = Bts(BtsConfig()).eval()
    fill(model, folder / "state_dict.json", "code_xyz.", salt)
    if name == "case1":
        nn.init.constant_(model.mlp_coarse.lin_out.bias, -4.0)
    k_norm = tensor(case["K_norm"])
    views = [
        View(image_tensor(image), k_norm, torch.linalg.inv(tensor(pose)))
        for image, pose in zip((case["image"], case["image_render1"]), case["poses_c2w"], strict=True)
    ]
    points, rays, z = tensor(case["query_xyz"]), tensor(case["rays"]), torch.from_numpy(case["z_samples"])
    origins, directions = rays[..., :3], rays[..., 3:6]
    with torch.inference_mode():
        field = model.condition(views[0])
        sigma, outside = field.density(points)
        colours, unseen = sample_colours(views, points)
        weights = render(field, origins, directions, z).weights
        ray_colours, _ = sample_colours(views[:1], ray_points(origins, directions, z))
    rows, columns = case["feature_pixels_yx"].T
    return {
        "features": field.features[0, :, rows, columns].T.numpy(),
        "sigma": sigma[0, :, None].numpy(),
        "invalid": (unseen | outside.unsqueeze(-1))[0].float().numpy(),
        "rgb": colours[0].flatten(1).numpy(),
        "rays": image_rays(case, case["poses_c2w"][0]),
        "z_samples": z_samples(model.config.z_near, model.config.z_far, len(z)).numpy(),
        "ray_weights": weights[0].numpy(),
        "ray_depth": (weights * z).sum(-1)[0].numpy(),
        "ray_rgb": (weights.unsqueeze(-1) * ray_colours.view(*weights.shape, 3)).sum(-2)[0].numpy(),
    }


def bts_allowed(case: str, array: str) -> Allowed:
    """1e-4; relative too for the turned second view, whose densities near the camera are large; float16 weights."""
    if array == "ray_weights":
        return Allowed(1e-4, 2**-11)
    return Allowed(1e-4, 1e-4 if case == "case2" else 0.0)


def kyn_allowed(case: str, array: str) -> Allowed:
    """5e-4; 20 pixels of the label map may differ by rounding, and so may a point's label; the rays: their decimals."""
    if array in ("seg_mask", "label_at_query"):
        return Allowed(0.0, exempt=20.5 / (192 * 640))
    return Allowed(5e-4)


def dymultidepth_allowed(case: str, array: str) -> Allowed:
    """1e-4 in inverse depth. The cost is ill-conditioned where an image is flat: 2e-4 in 99.5 % of cells, else 1e-3."""
    return Allowed(2e-4, exempt=5e-3, at_most=1e-3) if array == "cost_volume_sub" else Allowed(1e-4)


def occupancy_outputs(case: Arrays, name: str, folder: Path, salt: str) -> Arrays:
    """The lidar protocol's masks, and the published scores of a prediction."""
    ranges = {key: tuple(case[key].tolist()) for key in ("x_range", "y_range", "z_range")}
    ppm = int(case["ppm"])
    truth = occupancy_truth(list(case["points_velo"]), case["velo_to_world"], case["grid_xyz"], ppm=ppm, **ranges)
    # The scores rest on the published masks, so that one differing cell does not count twice.
    masks = case["occupied"], case["visible"]
    cut = metrics.far_cut_row(case["visible"])
    return {
        "grid_xyz": protocol_grid(ppm=ppm, **ranges),
        "occupied": truth.occupied,
        "visible": truth.visible,
        "scene_scores": np.array(metrics.occupancy_scores(case["predicted"], *masks)),
        "object_scores": np.array(metrics.object_scores(case["predicted"], *masks, case["object_map"])),
        "scene_scores_far_cut": np.array(metrics.far_cut_scores(case["predicted"], *masks)),
        "far_cut_row": np.array(-1 if cut is None else cut),
    }


def occupancy_allowed(case: str, array: str) -> Allowed:
    """Masks: 99.9 % of cells. Scores: 1e-3. The grid: its decimals. The row: exactly."""
    if array in ("occupied", "visible"):
        return Allowed(0.0, exempt=1e-3)
    return Allowed({"grid_xyz": 1e-5, "far_cut_row": 0.0}.get(array, 1e-3))


SYSTEMS = {
    "bts": Case(
        frozenset({"image", "image_render1", "K_norm", "poses_c2w", "query_xyz", "feature_pixels_yx", "ray_ids"}),
        bts_outputs,
        bts_allowed,
    ),
    "kyn": Case(kyn_outputs.INPUTS, kyn_outputs.outputs, kyn_allowed),
    "dymultidepth": Case(dymultidepth_outputs.INPUTS, dymultidepth_outputs.outputs, dymultidepth_allowed),
    "occupancy_metric": Case(
        frozenset({"points_velo", "velo_to_world", "x_range", "y_range", "z_range", "ppm", "predicted", "object_map"}),
        occupancy_outputs,
        occupancy_allowed,
    ),
}
EXISTING = {"occupancy_metric", *FAMILIES}


def compare(name: str, expected: np.ndarray, got: np.ndarray | None, allowed: Allowed) -> Result:
    """One output array against the authors'."""
    if got is None:
        return Result(name, np.nan, allowed, False, "not computed")
    if got.shape != expected.shape:
        return Result(name, np.nan, allowed, False, f"shape {got.shape}, expected {expected.shape}")
    if not expected.size:
        return Result(name, np.nan, allowed, False, "no values")
    difference = np.abs(got.astype(np.float64) - expected.astype(np.float64))
    limit = allowed.absolute + allowed.relative * np.abs(expected.astype(np.float64))
    over = ~(difference <= limit)  # NaN is over
    ok = np.count_nonzero(over) <= allowed.exempt * over.size
    ok = ok and bool(np.isfinite(difference).all() and (difference <= np.maximum(limit, allowed.at_most)).all())
    remark = f"{np.count_nonzero(over)} of {over.size} over" if over.any() else ""
    return Result(name, float(difference.max()), allowed, ok, remark)


def compare_case(system: str, path: Path, salt: str) -> Iterator[Result]:
    """All outputs of one case; a case that cannot be run is one failed result."""
    case = SYSTEMS[system]
    label = f"{system}/{path.stem}"
    try:
        with np.load(path) as stored:
            arrays = dict(stored)
        got = case.outputs(arrays, path.stem, path.parent, salt)
    except (ImportError, KeyError, ValueError, OSError, RuntimeError) as error:
        yield Result(label, np.nan, Allowed(0.0), False, f"{type(error).__name__}: {error}")
        return
    yield from compare_arrays(system, path.stem, arrays, got)


def compare_arrays(system: str, name: str, arrays: Arrays, got: Arrays) -> Iterator[Result]:
    """Every output array of a case against the authors', none left out on either side."""
    case, label = SYSTEMS[system], f"{system}/{name}"
    for array in sorted((arrays.keys() | got.keys()) - case.inputs):
        allowed = case.allowed(name, array)
        if array in arrays:
            yield compare(f"{label} {array}", arrays[array], got.get(array), allowed)
        else:
            yield Result(f"{label} {array}", np.nan, allowed, False, "missing in the case")


def main(argv: list[str] | None = None) -> int:
    """Run every case below a folder and print one line per output array."""
    parser = argparse.ArgumentParser(description="Compare with the authors' own outputs.")
    parser.add_argument("directory", metavar="DIR", type=Path, help="folder with one folder per system")
    parser.add_argument("--salt", default="", help="appended to each weight's name before it is hashed")
    args = parser.parse_args(argv)
    if not args.directory.is_dir():
        parser.error(f"{args.directory}: no such folder, expected one with a folder per system")
    results: list[Result] = []
    for folder in sorted(path for path in args.directory.iterdir() if path.is_dir()):
        paths = sorted(folder.glob("*.npz"))
        if folder.name not in EXISTING:
            print(f"{folder.name:44} not implemented ({len(paths)} cases)")
            continue
        for path in paths:
            for result in compare_case(folder.name, path, args.salt):
                results.append(result)
                word = "ok" if result.ok else "FAILED"
                print(f"{result.name:44} {result.error:10.3g}  allowed {result.allowed!s:24} {word}  {result.remark}")
    failed = sum(not result.ok for result in results)
    if not results:
        print(f"{args.directory}: no case of an implemented system was found, so nothing was compared")
    print(f"{len(results)} arrays compared, {failed} failed")
    return 0 if results and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
