"""The decoder of the fused torch runtime: constants of queries on the device, and the sums that use them.

The algebra is that of the compiled CPU decoder (``decoder.py``): the encoder delivers pre-activations, everything else
about a ray or a point is constant. Everything here is float32.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from kyn_models.runtimes import torch_loops
from kyn_models.runtimes.constants import DecoderConstants, corners, sample_depths
from kyn_models.runtimes.queries import PointQuery, Query, RayQuery

log = logging.getLogger(__name__)

KEPT_CODE_BYTES = 1 << 30
"""Codes of points that one query keeps on the device; of a larger query they are computed anew for every image."""
POINTS_AT_ONCE = 1 << 18
"""Points whose codes are computed together: with 64 hidden units they take 64 MB, and about twice that on the way."""


class Loops(Protocol):
    """``torch_loops`` or ``triton_loops``."""

    march: Callable[..., None]
    density: Callable[..., None]


@dataclass(frozen=True)
class Places:
    """Where a query samples the feature map, on the device, and where its answer goes.

    index: (N, 4) int32 rows of the flat map; weight: (N, 4). codes: (N, H), None for points of which ``uvz`` (N, 3) is
    kept instead. answer: (N,). shape: of the answer as the asker wants it.
    """

    shape: tuple[int, ...]
    index: Tensor
    weight: Tensor
    answer: Tensor
    codes: Tensor | None
    uvz: Tensor | None


class TorchDecoder:
    """What is constant for a model and a feature map size. map_size: (h, w). device: of all tensors.

    ``loops`` are the Triton kernels where they run, else plain torch, which writes to memory what they keep in
    registers; on a GPU that is said once. To be built and used in inference mode.
    """

    def __init__(self, constants: DecoderConstants, map_size: tuple[int, int], device: torch.device) -> None:
        self._constants = constants
        self._map_size = map_size
        self._device = device
        z = sample_depths(constants.z_near, constants.z_far)
        self._z, self._steps = self._put(z), self._put(np.append(np.diff(z), np.float32(0)).astype(np.float32))
        self._along = self._put(constants.project_codes(constants.depth_code(z)[:, None], (2,)).T)
        self._w_out, self._bias = self._put(constants.w_out), self._put(constants.bias)
        self._w_code, self._freqs = self._put(constants.w_code.T), self._put(constants.freqs)
        self.loops: Loops = torch_loops
        if device.type == "cuda":
            self._try_triton()

    @torch.inference_mode()
    def place(self, query: Query) -> Places:
        """Constants of a query, complete on the device when this returns; from any thread."""
        assert isinstance(query, (RayQuery, PointQuery))
        places = self._rays(query) if isinstance(query, RayQuery) else self._points(query)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        return places

    def _rays(self, query: RayQuery) -> Places:
        c = self._constants
        uv = c.image_coordinates(query.directions.reshape(-1, 3))
        codes = self._put(c.project_codes(uv, (0, 1)) + c.bias)
        return self._places(query.directions.shape[:2], uv, codes, None)

    def _points(self, query: PointQuery) -> Places:
        c = self._constants
        uv = c.image_coordinates(query.points)
        uvz = self._put(np.concatenate([uv, c.depth_code(query.points[:, 2])[:, None]], axis=1))
        if 4 * len(uvz) * len(c.w_out) > KEPT_CODE_BYTES:
            return self._places((len(uvz),), uv, None, uvz)
        codes = torch.empty(len(uvz), len(c.w_out), device=self._device)
        for start in range(0, len(uvz), POINTS_AT_ONCE):
            codes[start : start + POINTS_AT_ONCE] = self.codes(uvz[start : start + POINTS_AT_ONCE])
        return self._places((len(uvz),), uv, codes, None)

    def answer(self, query: Query, places: Places, features: Tensor) -> None:
        """Fill ``places.answer`` from the flat (P, H) float32 pre-activation map."""
        if len(places.index) == 0:
            return
        b_out = self._constants.b_out
        if isinstance(query, RayQuery):
            depth = (self._along, self._w_out, b_out, self._z, self._steps, places.answer)
            self.loops.march(features, places.index, places.weight, places.codes, *depth)
        elif places.uvz is None:
            density = (self._w_out, b_out, places.answer)
            self.loops.density(features, places.index, places.weight, places.codes, *density)
        else:
            for start in range(0, len(places.uvz), POINTS_AT_ONCE):
                part = slice(start, start + POINTS_AT_ONCE)
                where = (places.index[part], places.weight[part], self.codes(places.uvz[part]))
                self.loops.density(features, *where, self._w_out, b_out, places.answer[part])

    def codes(self, uvz: Tensor) -> Tensor:
        """(N, H) of (N, 3) u, v, z': what the first layer makes of the positional code, with the layer's bias."""
        code = [uvz]
        for frequency in self._freqs:
            scaled = uvz * frequency
            code += [torch.sin(scaled), torch.cos(scaled)]
        return torch.cat(code, dim=1) @ self._w_code + self._bias

    def _places(self, shape: tuple[int, ...], uv: np.ndarray, codes: Tensor | None, uvz: Tensor | None) -> Places:
        index, weight = corners(uv, self._map_size)
        answer = torch.empty(len(uv), device=self._device)
        return Places(shape, self._put(index), self._put(weight), answer, codes, uvz)

    def _put(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _try_triton(self) -> None:
        """Use the Triton kernels if they compile and run here, with a ray and a point."""
        features = torch.zeros(self._map_size[0] * self._map_size[1], len(self._constants.w_out), device=self._device)
        ahead = np.array([[0.0, 0.0, 1.0]], dtype=np.float32)
        queries: tuple[Query, ...] = (RayQuery(ahead[None]), PointQuery(ahead))
        try:
            self.loops = importlib.import_module("kyn_models.runtimes.triton_loops")
            for query in queries:
                self.answer(query, self.place(query), features)
            torch.cuda.synchronize(self._device)
        except Exception as error:  # of Triton, of the C compiler it starts, of the driver: they share no base
            self.loops = torch_loops
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            log.warning("runtime torch: Triton does not run here (%s); plain torch decodes, which is slower", reason)
