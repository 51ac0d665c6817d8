"""What is constant for a ``kyn`` model after its image network: the point network in numbers. numpy only.

The image network delivers, per pixel, what layers 1 and 3 make of the fused feature (both are linear in it), and a
label. Modulation and keys depend on the label alone, so they are constants too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kyn_models.runtimes.constants import PointCode, code_arrays, read_decoder
from kyn_models.types import Float32Array

NEAREST_M = 1e-3
"""A point nearer to the image plane than this is not in view, as published."""

TIE_PX = 1 / 2048
"""A point this little before the border between two pixels belongs to the second one. Rays through the pixel centres of
a smaller image meet such borders exactly: rounding must not decide which label they get."""

LAYERS = ("modulation", "keys", "w_2", "b_2", "w_3", "w_4", "b_4", "w_query", "w_value", "w_context", "w_out")
ARRAYS = ("w_code", "bias", "freqs", "k_norm", "z_near", "z_far", *LAYERS, "b_out", "heads", "epsilon")


@dataclass(frozen=True)
class KynConstants:
    """Content of ``decoder.npz`` of a ``kyn`` model. H hidden units, L labels, D = heads * channels of the attention.

    code: positional codes through layers 1 and 3, (2H,). modulation (L, H), keys (L, D): of the labels' texts; keys
    hold the factor d^-1/2. w_2, w_4 (H, H), b_2, b_4 (H,). w_3 (H, H): the part of layer 3 that sees layer 2. w_query
    (D, H) holds d^-1/2, w_value (D, H), w_context (H, D): the projection after attention. w_out (H,): layer norm and
    output layer, less its mean. b_out (), heads (), epsilon of the layer norm ().
    """

    code: PointCode
    modulation: Float32Array
    keys: Float32Array
    w_2: Float32Array
    b_2: Float32Array
    w_3: Float32Array
    w_4: Float32Array
    b_4: Float32Array
    w_query: Float32Array
    w_value: Float32Array
    w_context: Float32Array
    w_out: Float32Array
    b_out: float
    heads: int
    epsilon: float

    @classmethod
    def load(cls, path: Path) -> KynConstants:
        """Read ``decoder.npz``. Raises ``ValueError`` naming a damaged file, a missing array or one of wrong size."""
        return read_decoder(path, ARRAYS, cls.from_arrays)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> KynConstants:
        """From the arrays of ``decoder.npz`` by name. Raises ``TypeError`` or ``ValueError`` for one of wrong size."""
        code = PointCode(**code_arrays(arrays))
        layers = {name: np.ascontiguousarray(arrays[name], dtype=np.float32) for name in LAYERS}
        heads = int(arrays["heads"])
        (labels, hidden), wide = layers["modulation"].shape, layers["keys"].shape[-1]
        square, across = (hidden, hidden), (wide, hidden)
        expected: dict[str, tuple[int, ...]] = {
            **dict.fromkeys(("w_2", "w_3", "w_4"), square),
            **dict.fromkeys(("b_2", "b_4", "w_out"), (hidden,)),
            **dict.fromkeys(("w_query", "w_value"), across),
            "w_context": (hidden, wide),
            "keys": (labels, wide),
        }
        for name, shape in expected.items():
            if layers[name].shape != shape:
                raise ValueError(f"{name}: got shape {layers[name].shape}, expected {shape}")
        if code.w_code.shape != (2 * hidden, 3 + 6 * len(code.freqs)) or code.bias.shape != (2 * hidden,):
            raise ValueError(f"w_code: got shape {code.w_code.shape}, expected two layers of {hidden} units")
        if heads < 1 or wide % heads:
            raise ValueError(f"heads: got {heads}, expected a divisor of {wide}")
        return cls(code, **layers, b_out=float(arrays["b_out"]), heads=heads, epsilon=float(arrays["epsilon"]))

    def attended(self, sums: np.ndarray, counts: np.ndarray) -> Float32Array:
        """(D, H): what a softmax of queries is multiplied by, for a set of points.

        sums (L, H) float64 of the last layer over the set's points in view, counts (L,) how many there are of a label.
        The keys of a point depend on its label alone, so that the softmax over all points and the weighted sum of
        their values need nothing else. Zero without a point in view.
        """
        present = counts > 0
        if not present.any():
            return np.zeros(self.w_context.T.shape, dtype=np.float32)
        keys = self.keys[present].astype(np.float64)
        weight = np.exp(keys - keys.max(axis=0))
        weight /= (weight * counts[present, None]).sum(axis=0)
        values = sums[present] @ self.w_value.T.astype(np.float64)
        per_head = (self.heads, keys.shape[1] // self.heads)
        context = np.einsum("lhd,lhe->hde", weight.reshape(-1, *per_head), values.reshape(-1, *per_head))
        onward = self.w_context.T.reshape(*per_head, -1)
        return np.ascontiguousarray((context @ onward).reshape(self.w_context.T.shape), dtype=np.float32)


def in_view(uv: np.ndarray, z: np.ndarray) -> np.ndarray:
    """(N,) bool of (N, 2) normalised image coordinates at (N,) depths: the points that attention counts."""
    return np.asarray((np.abs(uv) <= 1).all(axis=1) & (z > NEAREST_M))


def label_pixels(uv: np.ndarray, map_size: tuple[int, int]) -> np.ndarray:
    """(N,) int32 flat index of the pixel that (N, 2) normalised coordinates fall on; the border is continued."""
    h, w = map_size
    x = np.clip(((uv[:, 0] + 1) * w - 1) / 2 + (0.5 + TIE_PX), 0, w - 1).astype(np.int32)
    y = np.clip(((uv[:, 1] + 1) * h - 1) / 2 + (0.5 + TIE_PX), 0, h - 1).astype(np.int32)
    return np.asarray(y * w + x)
