"""A model artifact small enough for tests, whose world is known: everything beyond a wall is solid.

The wall stands at a constant depth along the optical axis; the brighter the image, the nearer it is (``wall_depth_m``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kyn_models.artifact import DECODER, ENCODER, KITTI360_CAMERA, Artifact, Manifest, TrainingCamera, write_artifact

POOL = 16
STEEPNESS, RISE, EMPTY = 400.0, 1.0, -8.0
Z_NEAR, Z_FAR = 3.0, 80.0


def wall_depth_m(brightness: float) -> float:
    """Depth of the wall for an image of one grey value (0..255): 80 m for black, about 5 m for white."""
    code = 1.2 * brightness / 255 - 1
    return 1 / ((code + 1) / 2 * (1 / Z_NEAR - 1 / Z_FAR) + 1 / Z_FAR)


def write_tiny_artifact(path: Path, width: int = 640, height: int = 192, idle: int = 0) -> Artifact:
    """Write ENCODER (mean brightness of blocks) and DECODER (one hidden unit compares it with the depth code).

    idle: convolutions that change nothing and take tens of milliseconds each.
    """
    # code(z) < code(wall) means beyond the wall: hidden = relu(STEEPNESS (code(wall) - code(z))), sigma follows.
    w_code = np.zeros((1, 39), dtype=np.float32)
    w_code[0, 2] = -STEEPNESS
    constants = {
        "w_code": w_code,
        "bias": np.zeros(1, np.float32),
        "w_out": np.full(1, RISE, np.float32),
        "b_out": np.float32(EMPTY),
        "freqs": (1.5 * 2.0 ** np.arange(6)).astype(np.float32),
        "k_norm": KITTI360_CAMERA.normalised(),
        "z_near": np.float32(Z_NEAR),
        "z_far": np.float32(Z_FAR),
    }
    path.mkdir(parents=True, exist_ok=True)
    np.savez(path / DECODER, **constants)
    camera = TrainingCamera(width=width, height=height, height_m=1.55, pitch_deg=5.0)
    manifest = Manifest(family="bts", config={}, camera=camera, z_near=Z_NEAR, z_far=Z_FAR)
    files = {ENCODER: _encoder(width, height, idle), DECODER: (path / DECODER).read_bytes()}
    return write_artifact(path, manifest, files)


LABELS = ("road", "building", "vegetation")
"""Of ``write_tiny_kyn``: the left half of what it sees is building, the right half vegetation."""


def write_tiny_kyn(path: Path, width: int = 640, height: int = 192) -> Artifact:
    """The same world, said by a model of Know Your Neighbors: solid or not is the sign of its one unit, as a layer norm
    over two units leaves it.
    """
    units, labels = 2, len(LABELS)
    w_code = np.zeros((2 * units, 39))
    w_code[0, 2] = -STEEPNESS
    constants: dict[str, np.ndarray | float] = {
        "w_code": w_code,
        "bias": np.zeros(2 * units),
        "freqs": 1.5 * 2.0 ** np.arange(6),
        "k_norm": KITTI360_CAMERA.normalised(),
        "z_near": Z_NEAR,
        "z_far": Z_FAR,
        "modulation": np.ones((labels, units)),
        "keys": np.zeros((labels, units)),
        **{name: np.eye(units) for name in ("w_2", "w_3", "w_4", "w_query")},
        **{name: np.zeros(units) for name in ("b_2", "b_4")},
        **{name: np.zeros((units, units)) for name in ("w_value", "w_context")},
        "w_out": np.array([9.0, -9.0]),
        "b_out": EMPTY,
        "heads": 1,
        "epsilon": 1e-6,
    }
    path.mkdir(parents=True, exist_ok=True)
    np.savez(path / DECODER, **constants)  # type: ignore[arg-type]  # numpy's stub takes the names for options
    camera = TrainingCamera(width=width, height=height, height_m=1.55, pitch_deg=5.0)
    manifest = Manifest(family="kyn", config={}, camera=camera, z_near=Z_NEAR, z_far=Z_FAR, labels=LABELS)
    encoder = _encoder(width, height, 0, 2 * units, labelled=True)
    return write_artifact(path, manifest, {ENCODER: encoder, DECODER: (path / DECODER).read_bytes()})


def _encoder(width: int, height: int, idle: int, channels: int = 1, labelled: bool = False) -> bytes:
    """channels: of the map, of which the first knows the wall and the others are 0. labelled: with a label map."""
    from onnx import TensorProto, checker, helper, numpy_helper

    def constant(name: str, value: np.ndarray):  # type: ignore[no-untyped-def]
        return numpy_helper.from_array(value, name)

    # Grey 0..255 to code(wall) in units of STEEPNESS: -1 (black) to 0.2 (white).
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["blocks"], kernel_shape=[POOL, POOL], strides=[POOL, POOL]),
        helper.make_node("Conv", ["blocks", "weight", "bias"], ["codes"]),
        helper.make_node("Conv", ["planes", "widen"], ["idle 0"]),
        *(
            helper.make_node("Conv", [f"idle {i}", "nothing"], [f"idle {i + 1}"], pads=[1, 1, 1, 1])
            for i in range(idle)
        ),
        helper.make_node("ReduceMean", [f"idle {idle}"], ["nil"]),
        helper.make_node("Add", ["codes", "nil"], ["sum"]),
        helper.make_node("Transpose", ["sum"], ["features"], perm=[0, 2, 3, 1]),
    ]
    rows, columns = height // POOL, width // POOL
    weight, bias = np.zeros((channels, 3, 1, 1), dtype=np.float32), np.zeros(channels, dtype=np.float32)
    weight[0], bias[0] = STEEPNESS * 1.2 / 255 / 3, -STEEPNESS
    outputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, rows, columns, channels])]
    if labelled:
        nodes.append(helper.make_node("Identity", ["halves"], ["labels"]))
        outputs.append(helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, rows, columns]))
    halves = np.broadcast_to(np.where(np.arange(columns) < columns // 2, 1, 2), (1, rows, columns)).astype(np.uint8)
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, height, width, 3])],
        outputs,
        [
            constant("weight", weight),
            constant("bias", bias),
            *([constant("halves", halves)] if labelled else []),
            constant("widen", np.zeros((64, 3, 1, 1), dtype=np.float32)),
            constant("nothing", np.zeros((64, 64, 3, 3), dtype=np.float32)),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    checker.check_model(model)
    return model.SerializeToString()
