"""The numbers of a node under load, in the shape of ros2_benchmark's report. numpy only.

Jitter is how far the time between two received grids is from the time between the publications of their images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kyn_ros.node_load import Load

PREDICT_STAGES = ("warp", "encode", "depth", "labels", "volume", "assemble")
FORMULA = f"median latency - predict, predict = {' + '.join(PREDICT_STAGES)} (medians that the node diagnoses)"
DROPS = 0.05
"""Share of missed frames from which a rate counts as too high."""

ROWS: tuple[tuple[str, str, str], ...] = (
    ("frames_sent", "frames sent", "d"),
    ("frames_received", "frames received", "d"),
    ("frames_missed", "frames missed", "d"),
    ("mean_sent_hz", "mean rate sent, Hz", ".2f"),
    ("mean_received_hz", "mean rate received, Hz", ".2f"),
    ("latency_first_ms", "latency first, ms", ".1f"),
    ("latency_last_ms", "latency last, ms", ".1f"),
    ("latency_mean_ms", "latency mean, ms", ".1f"),
    ("latency_median_ms", "latency median, ms", ".1f"),
    ("latency_p95_ms", "latency p95, ms", ".1f"),
    ("latency_max_ms", "latency max, ms", ".1f"),
    ("jitter_max_ms", "jitter max, ms", ".1f"),
    ("jitter_min_ms", "jitter min, ms", ".1f"),
    ("jitter_mean_ms", "jitter mean, ms", ".1f"),
    ("jitter_std_ms", "jitter std, ms", ".1f"),
    ("cpu_percent", "CPU of the node, % of a core", ".0f"),
    ("memory_mean_mb", "memory mean, MB", ".0f"),
    ("memory_peak_mb", "memory peak, MB", ".0f"),
    ("predict_ms", "predict, ms", ".1f"),
    ("ros_added_ms", "added by ROS, ms", ".1f"),
)
"""Key in JSON, words in the table, format."""


def measures(load: Load) -> dict[str, Any]:
    """Everything that one rate says; NaN becomes None, so that it is valid JSON."""
    answered = sorted(stamp for stamp in load.received if stamp in load.sent)
    sent = np.array([load.sent[stamp] for stamp in answered])
    received = np.array([load.received[stamp] for stamp in answered])
    latency = (received - sent) * 1e3
    jitter = np.abs(np.diff(received) - np.diff(sent)) * 1e3
    predict = sum(load.stages_ms[stage] for stage in PREDICT_STAGES if stage in load.stages_ms)
    numbers: dict[str, Any] = {
        "rate_hz": load.rate_hz,
        "frames_sent": len(load.sent),
        "frames_received": len(answered),
        "frames_missed": len(load.sent) - len(answered),
        "mean_sent_hz": mean_rate(list(load.sent.values())),
        "mean_received_hz": mean_rate(received.tolist()),
        "latency_first_ms": latency[0] if latency.size else np.nan,
        "latency_last_ms": latency[-1] if latency.size else np.nan,
        "latency_mean_ms": latency.mean() if latency.size else np.nan,
        "latency_median_ms": np.median(latency) if latency.size else np.nan,
        "latency_p95_ms": np.percentile(latency, 95) if latency.size else np.nan,
        "latency_max_ms": latency.max(initial=-np.inf) if latency.size else np.nan,
        "jitter_max_ms": jitter.max() if jitter.size else np.nan,
        "jitter_min_ms": jitter.min() if jitter.size else np.nan,
        "jitter_mean_ms": jitter.mean() if jitter.size else np.nan,
        "jitter_std_ms": jitter.std() if jitter.size else np.nan,
        "cpu_percent": load.cpu_percent,
        "memory_mean_mb": load.memory_mean_mb,
        "memory_peak_mb": load.memory_peak_mb,
        "predict_ms": predict if load.stages_ms else np.nan,
        "ros_added_ms": np.median(latency) - predict if latency.size and load.stages_ms else np.nan,
    }
    rounded = {key: _number(value) for key, value in numbers.items()}
    return {**rounded, "stages_ms": dict(load.stages_ms), "other_messages": dict(load.others)}


def _number(value: Any) -> int | float | None:
    if isinstance(value, int):
        return value
    return round(float(value), 3) if np.isfinite(value) else None


def mean_rate(moments: Sequence[float]) -> float:
    """Events per second of a list of moments in seconds; NaN below two."""
    if len(moments) < 2:
        return float("nan")
    return (len(moments) - 1) / max(1e-9, max(moments) - min(moments))


def keeps_up(load: Load) -> bool:
    """True if less than 5 % of the images stayed without a grid."""
    return bool(measures(load)["frames_missed"] < DROPS * len(load.sent))


def print_report(found: Sequence[Mapping[str, Any]]) -> None:
    """One column per rate."""
    print(f"{'images per second':32s}" + "".join(f"{row['rate_hz']:>10g}" for row in found))
    for key, words, form in ROWS:
        texts = ["-" if row[key] is None else format(row[key], form) for row in found]
        print(f"{words:32s}" + "".join(f"{text:>10s}" for text in texts))
    stages = dict.fromkeys(stage for row in found for stage in row["stages_ms"])
    for stage in stages:
        texts = [f"{row['stages_ms'][stage]:.1f}" if stage in row["stages_ms"] else "-" for row in found]
        print(f"{'  node: ' + stage + ', ms':32s}" + "".join(f"{text:>10s}" for text in texts))
    print(f"added by ROS = {FORMULA}; where images are missed it holds the wait for the one before as well")
