"""``kyn bench`` of depth from posed frames: time and memory of every runtime, and the cost volume alone."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kyn_models import config as configuration
from kyn_models.artifact import Artifact
from kyn_models.benchmark.case import ANSWERS, CASE, RESULT
from kyn_models.benchmark.comparison import spread_of
from kyn_models.benchmark.frames import FRAMES, SWEEP, FramesCase, frames_of, write_frames
from kyn_models.benchmark.images import load_images
from kyn_models.benchmark.laboratory import run_module
from kyn_models.benchmark.record import hardware, in_words, write_json
from kyn_models.cli.eval import print_table
from kyn_models.cli.unused import refuse
from kyn_models.runtimes import RUNTIMES
from kyn_models.runtimes.queries import Precision

STAGES = ("sweep", "network", "engine")
REFERENCE = "torch float32"


def run(args: argparse.Namespace, artifact: Artifact, cores: int) -> int:
    """Raises ``ValueError`` for options that mean nothing here, and where no runtime works."""
    refuse(args, ("voxels", "grid", "depth-rays", "sweep"), "a model of depth from posed frames")
    images = load_images(args, artifact.manifest.camera)
    print(f"{in_words(hardware(cores))}\n{artifact.name}; {images.source}, taken as those of a drive straight ahead")
    # Half precision would also round what is geometry between the convolutions: it is measured where it is asked for.
    precisions: Sequence[Precision] = args.precision or ("float32",)
    wanted = [(name, precision) for name in args.runtime or RUNTIMES for precision in precisions]
    wanted += [] if args.no_plain else [(SWEEP, "float32")]
    with tempfile.TemporaryDirectory(prefix="kyn_bench_") as folder:
        place = Path(folder)
        write_frames(place / FRAMES, frames_of(artifact, images.observations))
        path = str(artifact.path.resolve())
        found = [_measured(place, FramesCase(path, *one, args.repeat, cores)) for one in wanted]
    content = _content(wanted, found)
    _print_report(content)
    if args.json is not None:
        about = {"model": artifact.name, "hash": artifact.hash, "images": images.source}
        write_json(args.json, {**about, **content}, cores)
        print(f"wrote {args.json}")
    return 0


def _measured(place: Path, case: FramesCase) -> dict[str, Any]:
    """What the case's own process wrote, with the depths under ``answers``; ``failed`` where it could not."""
    for name in (RESULT, ANSWERS):
        (place / name).unlink(missing_ok=True)
    (place / CASE).write_text(json.dumps(configuration.to_mapping(case)))
    done = run_module("kyn_models.benchmark.frames", str(place), case.cores)
    if not (place / RESULT).is_file():
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return {"failed": f"its process ended with {done.returncode}: {last}"}
    result: dict[str, Any] = json.loads((place / RESULT).read_text())
    if "failed" not in result:
        with np.load(place / ANSWERS) as stored:
            result["answers"] = {name: stored[name] for name in stored.files}
    return result


def _content(wanted: Sequence[tuple[str, Precision]], found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The report. Raises ``ValueError`` where nothing could be measured."""
    names = [name if name == SWEEP else f"{name} {precision}" for name, precision in wanted]
    pairs = list(zip(names, found, strict=True))
    rows = {name: result for name, result in pairs if "failed" not in result and name != SWEEP}
    if not rows:
        reasons = "; ".join(f"{name}: {result['failed']}" for name, result in pairs if "failed" in result)
        raise ValueError(f"none of {', '.join(names)} can be run here ({reasons}); `kyn doctor` tells more")
    reference = rows.get(REFERENCE, {}).get("answers")
    cases = []
    for result in rows.values():
        answers, times = result.pop("answers"), result.pop("times_ms")
        spreads = {stage: spread_of(values) for stage, values in times.items()}
        row = {**result, "times_ms": spreads, "frames_per_second": 1e3 / spreads["frame"]["median"]}
        if reference is not None:
            row["difference"] = {kind: _difference(answers, reference, kind) for kind in ("fused", "mono")}
        cases.append(row)
    sweep = next((result for name, result in pairs if name == SWEEP), None)
    if sweep is not None and "failed" not in sweep:
        times = {name: spread_of(values) for name, values in sweep["times_ms"].items()}
        ratio = float(np.median(np.divide(sweep["times_ms"]["torch"], sweep["times_ms"]["compiled"])))
        sweep = {"times_ms": times, "torch_to_compiled": ratio, "difference": sweep["difference"]}
    not_run = [{"case": name, "reason": result["failed"]} for name, result in pairs if "failed" in result]
    return {"cases": cases, "cost_volume": sweep, "not_run": not_run}


def _difference(answers: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray], kind: str) -> float:
    """Of inverse depths in 1 / metres: the largest that 99.8 % of pixels have."""
    names = [name for name in reference if name.startswith(kind)]
    return float(np.quantile([np.abs(1 / answers[name] - 1 / reference[name]) for name in names], 0.998))


def _print_report(content: Mapping[str, Any]) -> None:
    for missing in content["not_run"]:
        print(f"not run: {missing['case']}: {missing['reason']}")
    rows = content["cases"]
    stages = [stage for stage in STAGES if any(stage in row["times_ms"] for row in rows)]
    print("\nmilliseconds, median / 95th percentile; memory in MB before loading / at the peak")
    print_table(
        (*stages, "whole frame", "frames/s", "mono alone", "memory", "fused 1/m", "mono 1/m"),
        [(f"{row['runtime']} {row['precision']}", _cells(row, stages)) for row in rows],
    )
    print(f"1/m: difference of inverse depths to {REFERENCE}, the largest that 99.8 % of pixels have")
    sweep = content["cost_volume"]
    if sweep and "times_ms" in sweep:
        compiled, plain = (sweep["times_ms"][name]["median"] for name in ("compiled", "torch"))
        print(
            f"\ncost volume: compiled {compiled:.0f} ms, torch {plain:.0f} ms in the same run, "
            f"{sweep['torch_to_compiled']:.1f} times; 99.9 % of pixels differ by {sweep['difference']:.1e} at most"
        )


def _cells(row: Mapping[str, Any], stages: Sequence[str]) -> list[str]:
    times = row["times_ms"]
    texts = [_pair(times[stage]) if stage in times else "-" for stage in (*stages, "frame")]
    differences = [f"{row['difference'][kind]:.1e}" if "difference" in row else "-" for kind in ("fused", "mono")]
    memory = f"{row['before_mb']:.0f} / {row['peak_mb']:.0f}"
    return [*texts, f"{row['frames_per_second']:.2f}", _pair(times["mono alone"]), memory, *differences]


def _pair(times: Mapping[str, float]) -> str:
    return f"{times['median']:.0f} / {times['p95']:.0f}"
