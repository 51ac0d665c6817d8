"""Networks as ONNX files without weights of their own: initialisers point into ``weights.safetensors``. torch.

So weights are stored once and are exactly those of the torch model. Batch normalisation stays in the graph, because
weights folded with it would be other numbers; runtimes fold it when they load.
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kyn_models.artifact import sha256
from kyn_models.fused import Fused
from kyn_models.fused_kyn import FusedKyn
from kyn_models.runtimes.fused_inputs import KYN_OUTPUTS, PARTS

OPSET = 18
MOST = 1 << 24
"""More rays or points than a graph is ever asked for at once."""


def encoder_graph(
    network: nn.Module, image_shape: Sequence[int], weights: Path, outputs: Sequence[str] = ("pre_activation",)
) -> bytes:
    """The ONNX file of an image network that holds a model's encoder as ``network``. weights: safetensors file."""
    image = torch.zeros(*image_shape, dtype=torch.uint8)
    return _file(network, (image,), ["image"], list(outputs), None, weights)


def engine_graph(fused: Fused, image_shape: Sequence[int], weights: Path) -> bytes:
    """The ONNX file of a whole model, for any number of rays and points."""
    hidden = fused.w_out.shape[1]
    rays, points = torch.export.Dim("rays", min=2, max=MOST), torch.export.Dim("points", min=2, max=MOST)
    inputs = (
        torch.zeros(*image_shape, dtype=torch.uint8),
        *(torch.zeros(1, 1, 24, 2), torch.zeros(1, hidden, 1, 24)),
        *(torch.zeros(1, 1, 40, 2), torch.zeros(1, hidden, 1, 40)),
    )
    names = ["image", "ray_grid", "ray_code", "point_grid", "point_code"]
    sizes = (None, {2: rays}, {3: rays}, {2: points}, {3: points})
    return _file(fused, inputs, names, ["depth", "density"], sizes, weights)


def kyn_engine_graph(fused: FusedKyn, image_shape: Sequence[int], weights: Path) -> bytes:
    """The same of a ``kyn`` model, for points in ``PARTS`` parts."""
    rays, points, places = (torch.export.Dim(name, min=2, max=MOST) for name in ("rays", "points", "places"))
    wide, codes = fused.w_code.shape
    sums = torch.zeros(fused.hidden + 1, len(fused.names))
    inputs: dict[str, tuple[Tensor, dict[int, Any] | None]] = {
        "image": (torch.zeros(*image_shape, dtype=torch.uint8), None),
        "ray_grid": (torch.zeros(1, 1, 24, 2), {2: rays}),
        "ray_code": (torch.zeros(1, wide, 24), {2: rays}),
        "ray_pixel": (torch.zeros(24, dtype=torch.int32), {0: rays}),
        "ray_seen": (torch.zeros(24), {0: rays}),
        "ray_others": (sums, None),
        "point_grid": (torch.zeros(1, PARTS, 40, 2), {2: points}),
        "point_code": (torch.zeros(PARTS, codes, 40), {2: points}),
        "point_pixel": (torch.zeros(PARTS, 40, dtype=torch.int32), {1: points}),
        "point_seen": (torch.zeros(PARTS, 40), {1: points}),
        "point_others": (sums.clone(), None),
        "label_pixel": (torch.zeros(56, dtype=torch.int32), {0: places}),
    }
    tensors, sizes = zip(*inputs.values(), strict=True)
    return _file(fused, tensors, list(inputs), list(KYN_OUTPUTS), sizes, weights)


def frame_graph(network: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], weights: Path) -> bytes:
    """The ONNX file of a module that holds a whole multi-frame model as ``network``, for inputs of these shapes."""
    return _file(network, tuple(inputs.values()), list(inputs), list(outputs), None, weights, prefix="")


def _file(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    names: list[str],
    outputs: list[str],
    sizes: Any,
    weights: Path,
    prefix: str = "encoder.",
) -> bytes:
    import onnxscript.optimizer
    from onnx_ir.passes import common

    with _quiet():
        program = torch.onnx.export(
            network,
            inputs,
            dynamo=True,
            opset_version=OPSET,
            optimize=False,
            input_names=names,
            output_names=outputs,
            dynamic_shapes=sizes,
            verbose=False,
        )
    assert program is not None
    # Only constants are folded: the exporter's own optimiser would fold batch normalisation into the weights.
    with _quiet():
        onnxscript.optimizer.fold_constants(program.model, should_fold=_is_no_turned_weight)
    common.RemoveUnusedNodesPass()(program.model)
    widened = _refer_to_weights(program.model, weights, prefix)
    graph = program.model_proto
    _without_traces(graph)
    _widen(graph, widened)
    graph.metadata_props.add(key="weights_sha256", value=sha256(weights))
    return graph.SerializeToString()


def _is_no_turned_weight(node: Any) -> bool | None:
    """False where folding would turn a stored weight into one of the graph's own; None leaves it to the library."""
    return False if node.op_type == "Transpose" and node.inputs[0].is_initializer() else None


def _refer_to_weights(model: Any, weights: Path, prefix: str) -> dict[str, int]:
    """Replace initialisers that lie in the safetensors file by references to them, before anything copies them.

    prefix: of the names there of what the graph has under ``network``.
    Returns those that are stored in another type than the graph needs, with the number of the type it needs.
    """
    import onnx_ir

    stored = _stored_tensors(weights)
    types = {"F32": onnx_ir.DataType.FLOAT, "F16": onnx_ir.DataType.FLOAT16, "I64": onnx_ir.DataType.INT64}
    widened = {}
    for value in model.graph.initializers.values():
        name = prefix + value.name.rpartition("network.")[2]
        if name not in stored:
            continue
        dtype, offset, values = stored[name]
        here = value.const_value.numpy()
        # A compiler wants small vectors as they are, and what was changed on the way is not what is stored.
        if (here.dtype != values.dtype and here.ndim < 2) or not np.array_equal(here, values.astype(here.dtype)):
            continue
        if here.dtype != values.dtype:
            widened[value.name] = int(value.const_value.dtype)
        place = {"location": weights.name, "offset": offset, "length": values.nbytes, "base_dir": weights.parent}
        shape = onnx_ir.Shape(values.shape)
        value.const_value = onnx_ir.ExternalTensor(**place, dtype=types[dtype], shape=shape, name=value.name)
    return widened


def _widen(model: Any, widened: dict[str, int]) -> None:
    """Casts in the graph for initialisers that are stored in another type, by name and type."""
    from onnx import helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.name in widened:
            to = widened[tensor.name]
            casts.append(helper.make_node("Cast", [tensor.name + ".stored"], [tensor.name], to=to))
            tensor.name += ".stored"
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(casts + nodes)


def _without_traces(model: Any) -> None:
    """Drop what the exporter notes about the Python code behind each node: most of the file, with local paths."""
    graph = model.graph
    for part in (graph.node, graph.value_info, graph.input, graph.output, [graph, model]):
        for item in part:
            item.doc_string = ""
            del item.metadata_props[:]


def _stored_tensors(weights: Path) -> dict[str, tuple[str, int, np.ndarray]]:
    """Type, offset in the file, and values of every tensor of a safetensors file; only what is read is held."""
    content = np.memmap(weights, dtype=np.uint8, mode="r")
    header = int.from_bytes(content[:8].tobytes(), "little")
    entries = json.loads(content[8 : 8 + header].tobytes())
    dtypes = {"F32": np.float32, "F16": np.float16, "I64": np.int64}
    tensors = {}
    for name, entry in entries.items():
        if name != "__metadata__":
            shape, offset = entry["shape"], 8 + header + entry["data_offsets"][0]
            values = np.frombuffer(content, dtypes[entry["dtype"]], math.prod(shape), offset)
            tensors[name] = (entry["dtype"], offset, values.reshape(shape))
    return tensors


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks about libraries that these models do not use, and about what it does not fold."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
