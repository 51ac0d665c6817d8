"""The least time that a stage could take on a machine: what has to be computed and moved, over what it can do.

Counted are multiply-adds (or vector operations of the same cost) in float32 and bytes that each have to come from or go
to memory at least once. Not counted: exponentials, and what is read twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kyn_models.artifact import DECODER, ENCODER, WEIGHTS, Artifact
from kyn_models.benchmark.machine import Rates
from kyn_models.npz import read_npz
from kyn_models.runtimes.queries import SAMPLES_PER_RAY

NOT_COUNTED = "not counted"


class Work(NamedTuple):
    """multiply_adds, bytes: of one image; None where they are not counted."""

    multiply_adds: float | None
    bytes: float

    def floor_ms(self, rates: Rates) -> float | None:
        """Milliseconds: the longer of computing and moving."""
        if self.multiply_adds is None:
            return None
        return max(self.multiply_adds / rates.multiply_adds, self.bytes / rates.bytes) * 1e3


def count_work(artifact: Artifact, rays: int, cells_in_view: int) -> dict[str, Work]:
    """Work of the stages ``encode``, ``depth`` and ``volume``.

    depth: a maximum and a multiply-add per sample and hidden unit, and four to sample the map per ray. volume: four to
    sample the map, one for the code and one for the output per cell and hidden unit. Of kyn, the matrix products of all
    layers once per point, and four to sample the map per ray or cell. Raises ``OSError`` for an artifact without ONNX.
    """
    hidden, of_a_point = _point_network(artifact)
    encoder = count_encoder(artifact.file(ENCODER))
    image = artifact.camera.width * artifact.camera.height
    # Without the graph's shapes the map has at most the image's size.
    map_bytes = 4.0 * (encoder["map"] if encoder else image * hidden)
    sampled = 4.0 * hidden
    along_ray = rays * (SAMPLES_PER_RAY * (of_a_point or 2.0 * hidden) + sampled)
    in_grid = cells_in_view * (of_a_point + sampled if of_a_point else 6.0 * hidden)
    weights = artifact.file(WEIGHTS).stat().st_size if WEIGHTS in artifact.manifest.files else 0
    return {
        "encode": Work(encoder["multiply_adds"] if encoder else None, 3.0 * image + weights + map_bytes),
        "depth": Work(along_ray, map_bytes + 4.0 * rays),
        "volume": Work(in_grid, map_bytes + (12.0 + 4) * cells_in_view),
    }


def _point_network(artifact: Artifact) -> tuple[int, float]:
    """Channels of the map, and multiply-adds of a point's matrix products, 0 for a network with one hidden layer."""
    advice, path = "`kyn export` writes a new one", artifact.file(DECODER)
    if artifact.manifest.family != "kyn":
        return len(read_npz(path, ("w_out",), advice)["w_out"].reshape(-1)), 0.0
    arrays = read_npz(path, ("w_code", "w_2", "w_query"), advice)
    # Three layers from hidden to hidden units, queries, and what attention makes of them.
    return len(arrays["w_code"]), 3.0 * arrays["w_2"].size + 2.0 * arrays["w_query"].size


def count_encoder(path: Path) -> dict[str, float] | None:
    """``multiply_adds`` of an ONNX graph's convolutions and matrix products, and the entries of its output ``map``.

    None where onnx is not installed or a shape is not known.
    """
    try:
        import onnx
    except ImportError:
        return None
    graph = onnx.shape_inference.infer_shapes(onnx.load(str(path), load_external_data=False)).graph
    shapes: dict[str, list[int]] = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
    total = 0.0
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
            found = _multiply_adds(node.op_type, [shapes.get(name, []) for name in (*node.input[:2], node.output[0])])
            if not found:
                return None
            total += found
    return {"multiply_adds": total, "map": float(np.prod(shapes[graph.output[0].name]))}


def _multiply_adds(kind: str, shapes: list[list[int]]) -> float:
    """Of one node from the shapes of input, weight and output; 0 if one is not known."""
    given, weight, result = shapes
    if not all(shapes) or 0 in (*weight, *result):
        return 0.0
    if kind == "Conv":  # weight (out, in / groups, kh, kw)
        return float(np.prod(result) * np.prod(weight[1:]))
    if kind == "ConvTranspose":  # weight (in, out / groups, kh, kw)
        return float(np.prod(given) * np.prod(weight[1:]))
    return float(np.prod(result) * given[-1])


def compare(work: Mapping[str, Work], rates: Rates, stages_ms: Mapping[str, float]) -> dict[str, Any]:
    """Per stage ``floor_ms`` and ``times_the_floor`` (None where not counted), and both of all three together."""
    floors = {stage: item.floor_ms(rates) for stage, item in work.items()}
    known = [stage for stage, floor in floors.items() if floor is not None and stage in stages_ms]
    rows: dict[str, Any] = {
        stage: {
            "floor_ms": floors[stage],
            "times_the_floor": stages_ms[stage] / floor if stage in known and (floor := floors[stage]) else None,
        }
        for stage in work
    }
    if len(known) == len(work):
        floor = sum(value for value in floors.values() if value is not None)
        rows["together"] = {"floor_ms": floor, "times_the_floor": sum(stages_ms[stage] for stage in known) / floor}
    return rows
