"""What measured cases say: medians, ratios to the encoder and to the plain path, differences of answers. numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kyn_models.benchmark.images import FEWEST
from kyn_models.benchmark.laboratory import Outcome

STAGES = ("warp", "encode", "depth", "labels", "volume", "assemble")
"""Labels come with the volume, from models that know them."""
DECODING = ("depth", "volume")


def summary(outcome: Outcome) -> dict[str, Any]:
    """Medians and 95th percentiles in ms, frames per second, memory, checksums of one measured case."""
    result = outcome.result
    stages = {stage: result["stages_ms"][stage] for stage in STAGES if stage in result["stages_ms"]}
    decoding = np.sum([stages[stage] for stage in DECODING if stage in stages], axis=0)
    rounds = [checksums for checksums in result["checksums"] if checksums]
    first = [checksums[0] for checksums in rounds]
    return {
        **{key: value for key, value in result.items() if key not in ("frames_ms", "stages_ms", "checksums")},
        "frames": len(result["frames_ms"]),
        "stages_ms": {stage: spread_of(times) for stage, times in stages.items()},
        "decoding_ms": spread_of(decoding),
        "frame_ms": spread_of(result["frames_ms"]),
        "frames_per_second": 1e3 / float(np.median(result["frames_ms"])),
        "checksums": [f"{checksum:08x}" for checksum in first],
        "same_image_same_answer": all(len(set(checksums)) == 1 for checksums in rounds),
        "other_image_other_answer": len(set(first)) == len(first),
    }


def add_plain_ratios(rows: Sequence[dict[str, Any]], plain: Mapping[str, Any]) -> None:
    """Add to every summary what share of the plain path's time its depth and its volume take."""
    for row in rows:
        medians = {stage: [item["stages_ms"][stage]["median"] for item in (row, plain)] for stage in DECODING}
        row["plain_ratios"] = {stage: own / slow for stage, (own, slow) in medians.items()}


def spread_of(times: Sequence[float] | np.ndarray) -> dict[str, float]:
    """``median`` and ``p95``."""
    return {"median": float(np.median(times)), "p95": float(np.percentile(times, 95))}


def difference(answers: Mapping[str, np.ndarray], plain: Mapping[str, np.ndarray]) -> dict[str, float]:
    """How far answers about the first images are from the plain path's.

    density: at the cells in view; depth: in metres, along the rays that both call finite; sky_share: of rays that only
    one calls finite; grid_share: of cells of the 2-D grid that differ.
    """
    images = range(FEWEST)
    density = np.concatenate([np.abs(answers[f"density{i}"] - plain[f"density{i}"]) for i in images])
    pairs = [(answers[f"depth{i}"], plain[f"depth{i}"]) for i in images]
    finite = [np.isfinite(a) & np.isfinite(b) for a, b in pairs]
    depth = np.concatenate([np.abs(a[both] - b[both]) for (a, b), both in zip(pairs, finite, strict=True)])
    return {
        "density_max": float(density.max(initial=0)),
        "density_mean": float(density.mean()) if density.size else 0.0,
        "depth_max_m": float(depth.max(initial=0)),
        "depth_mean_m": float(depth.mean()) if depth.size else 0.0,
        "sky_share": float(np.mean([np.isfinite(a) != np.isfinite(b) for a, b in pairs])),
        "grid_share": float(np.mean([answers[f"grid{i}"] != plain[f"grid{i}"] for i in images])),
    }


def reference_encoder(rows: Sequence[Mapping[str, Any]], runtime: str) -> tuple[str, float] | None:
    """(name, median ms) of the float32 encoder that ratios are to: the runtime's own, else the fastest of the run."""
    known = [
        (row["runtime"] != runtime, row["stages_ms"]["encode"]["median"], row["runtime"])
        for row in rows
        if row["precision"] == "float32" and "encode" in row["stages_ms"]
    ]
    if not known:
        return None
    _, milliseconds, name = min(known)
    return f"{name} float32", milliseconds


def add_ratios(rows: Sequence[dict[str, Any]]) -> None:
    """Add to every summary what decoding and the whole frame are to the float32 encoder of this run."""
    for row in rows:
        reference = reference_encoder(rows, row["runtime"])
        if reference is not None:
            name, milliseconds = reference
            row["ratio_to"] = name
            row["decoding_ratio"] = row["decoding_ms"]["median"] / milliseconds
            row["frame_ratio"] = row["frame_ms"]["median"] / milliseconds
