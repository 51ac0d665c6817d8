"""Image and constants in, depth, density and labels out: a whole ``kyn`` model in one graph. torch.

As ``fused.py``, for points that attend to each other. Channels come first, so that every layer is a product from the
left; all points of a kind are one set. Of a set the attention needs, per label, how many points are in view and the sum
of their last layer: a product with a one-hot matrix, in float32, over parts that are then added. Layers are computed
part by part; the last one of all parts is kept until the sums are there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kyn_models.fused import Compositing, add_constant, rounded_once, sampled, softplus
from kyn_models.models.kyn_export import KynMaps
from kyn_models.runtimes.constants import sample_depths
from kyn_models.runtimes.kyn_constants import KynConstants

SAMPLES_AT_ONCE = 8
"""Samples of all rays in a part: what lies between two layers is 126 MB for 96x320 rays and 128 units."""
ABSENT = -1e30
"""Key of a label that no point has, so that its weight is zero."""


class FusedKyn(nn.Module):
    """The graph of a ``kyn`` model. half: see ``in_half``, which changes ``network``.

    ``forward`` takes R rays, N points in P equal parts and M places whose labels are asked; grids are normalised image
    coordinates, pixels flat indices of the label map, seen is 1 where a place takes part in attention, else 0; others
    and sums are (hidden + 1, L): per label the sum of the last layer of a set's points and, in the last row, their
    number. others holds what those points of the set say that another run of the graph has, and sums what this one
    says. W are 2 hidden units of layers 1 and 3. float32 but for image and indices:

        image (1, H, W, 3) uint8; ray_grid (1, 1, R, 2), ray_code (1, W, R) with the bias, ray_pixel (R,) int32,
        ray_seen (R,), ray_others; point_grid (1, P, n, 2), point_code (P, C, n) positional codes, point_pixel (P, n)
        int32, point_seen (P, n), point_others; label_pixel (M,) int32
        -> depth (1, 1, 1, R) metres or +Inf, density (P, n), labels (M,) int32, ray_sums, point_sums
    """

    def __init__(self, network: KynMaps, constants: KynConstants, half: bool) -> None:
        super().__init__()
        self.network = in_half(network) if half else network
        self.hidden, self.heads = len(constants.w_out), constants.heads
        self._add_layers(constants)
        code = constants.code
        z = sample_depths(code.z_near, code.z_far)
        first, third = np.split(code.project_codes(code.depth_code(z)[:, None], (2,))[:, :, None], 2, axis=1)
        add_constant(self, "along_first", first)
        add_constant(self, "along_third", third)
        add_constant(self, "w_code", code.w_code)
        add_constant(self, "bias", code.bias[:, None])
        self.depth = Compositing(z.astype(np.float64))

    def _add_layers(self, c: KynConstants) -> None:
        channels = len(c.w_query) // c.heads
        same_head = np.kron(np.eye(c.heads), np.ones((channels, channels)))
        for name in ("w_2", "w_3", "w_4", "w_query", "w_value", "w_context"):
            add_constant(self, name, getattr(c, name))
        for name in ("b_2", "b_4", "w_out"):
            add_constant(self, name, getattr(c, name)[:, None])
        add_constant(self, "modulation", c.modulation.T)
        add_constant(self, "keys", c.keys.T)
        add_constant(self, "same_head", same_head)
        add_constant(self, "b_out", np.float32(c.b_out))
        add_constant(self, "epsilon", np.float32(c.epsilon))
        self.register_buffer("names", torch.arange(len(c.modulation), dtype=torch.int32))

    def forward(
        self,
        image: Tensor,
        ray_grid: Tensor,
        ray_code: Tensor,
        ray_pixel: Tensor,
        ray_seen: Tensor,
        ray_others: Tensor,
        point_grid: Tensor,
        point_code: Tensor,
        point_pixel: Tensor,
        point_seen: Tensor,
        point_others: Tensor,
        label_pixel: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        planes, labels = self.network.maps(image)
        planes, labels = planes.float(), labels.flatten().to(torch.int32)
        depth, ray_sums = self._rays(planes, labels, ray_grid, ray_code, ray_pixel, ray_seen, ray_others)
        points = (point_grid, point_code, point_pixel, point_seen, point_others)
        density, point_sums = self._points(planes, labels, *points)
        return depth, density, labels.index_select(0, label_pixel), ray_sums, point_sums

    def _rays(
        self, planes: Tensor, labels: Tensor, grid: Tensor, code: Tensor, pixel: Tensor, seen: Tensor, others: Tensor
    ) -> tuple[Tensor, Tensor]:
        first, third = (sampled(planes, grid).squeeze(2) + code).split(self.hidden, dim=1)
        label = labels.index_select(0, pixel)
        modulation, samples = self.modulation.index_select(1, label), len(self.along_first)
        kept = []
        for start in range(0, samples, SAMPLES_AT_ONCE):
            part = slice(start, start + SAMPLES_AT_ONCE)
            kept.append(self._last(first + self.along_first[part], third + self.along_third[part], modulation))
        total = torch.stack([last.sum(dim=0) for last in kept]).sum(dim=0)
        member = self._member(label, seen)
        sums = torch.cat([total @ member, member.sum(dim=0, keepdim=True) * samples])
        context = self._context(sums + others)
        # Nothing comes after the last sample: its density has no part in the depth.
        sigma = torch.cat([self._density(last, context) for last in kept])[:-1]
        return self.depth(sigma.transpose(0, 1).unsqueeze(0)), sums

    def _points(
        self, planes: Tensor, labels: Tensor, grid: Tensor, code: Tensor, pixel: Tensor, seen: Tensor, others: Tensor
    ) -> tuple[Tensor, Tensor]:
        kept, found = [], []
        for part in range(len(code)):
            entry = sampled(planes, grid[:, part : part + 1]).squeeze(2) + (self.w_code @ code[part] + self.bias)
            first, third = entry.split(self.hidden, dim=1)
            label = labels.index_select(0, pixel[part])
            last = self._last(first, third, self.modulation.index_select(1, label))
            member = self._member(label, seen[part])
            kept.append(last)
            found.append(torch.cat([last[0] @ member, member.sum(dim=0, keepdim=True)]))
        sums = torch.stack(found).sum(dim=0)
        context = self._context(sums + others)
        return torch.cat([self._density(last, context)[0] for last in kept]), sums

    def _last(self, first: Tensor, third: Tensor, modulation: Tensor) -> Tensor:
        """Layers 1 to 4: (K, hidden, M) pre-activations of layers 1 and 3, modulation (hidden, M) of the labels."""
        x = functional.relu(first * modulation)
        x = functional.relu((self.w_2 @ x + self.b_2) * modulation)
        x = functional.relu((self.w_3 @ x + third) * modulation)
        return functional.relu((self.w_4 @ x + self.b_4) * modulation)

    def _member(self, label: Tensor, seen: Tensor) -> Tensor:
        """(M, L): 1 at the label of a point that takes part."""
        return (label.unsqueeze(1) == self.names).float() * seen.unsqueeze(1)

    def _context(self, sums: Tensor) -> Tensor:
        """(hidden, D): what attention makes of queries; see ``KynConstants.attended``."""
        total, count = sums.split((self.hidden, 1))
        keys = torch.where(count > 0, self.keys, ABSENT)
        weight = torch.exp(keys - keys.amax(dim=1, keepdim=True))
        # The label with the largest key weighs 1: only without a point in view is this less, and all values are zero.
        weight = weight / (weight * count).sum(dim=1, keepdim=True).clamp(min=1.0)
        return self.w_context @ ((self.w_value @ total) @ weight.T * self.same_head)

    def _density(self, last: Tensor, context: Tensor) -> Tensor:
        """(K, hidden, M) last layer and the context of its set to (K, 1, M) density."""
        queries = (self.w_query @ last).chunk(self.heads, dim=1)
        x = context @ torch.cat([query.softmax(dim=1) for query in queries], dim=1) + last
        centred = x - x.mean(dim=1, keepdim=True)
        spread = (centred * centred).mean(dim=1, keepdim=True)
        raw = (x * self.w_out).sum(dim=1, keepdim=True)
        return softplus(raw / torch.sqrt(spread + self.epsilon) + self.b_out)


def in_half(network: KynMaps) -> KynMaps:
    """Make convolutions and linear layers float16, with what lies between them; in place, as a copy takes gigabytes.

    Float32 remain: resizing the image, the sum that a transformer's blocks add to with its layer norms, cosines and
    labels.
    """
    rounded_once(network)
    language = network.network.vlseg_encoder
    transformer = language.pretrained.model
    for module in (network.network.vision_encoder, network.network.fuser, network.merged, language.scratch):
        module.half()
    network.network.vision_encoder.register_forward_pre_hook(_to_half)
    for name, module in language.pretrained.named_children():
        if name != "model":
            module.half().register_forward_pre_hook(_to_half)
    inner = [transformer.patch_embed, *(part for block in transformer.blocks for part in (block.attn, block.mlp))]
    for module in inner:
        module.half().register_forward_pre_hook(_to_half)
        module.register_forward_hook(_to_float)
    return network


def _to_half(module: nn.Module, inputs: Sequence[object]) -> tuple[object, ...]:
    return tuple(value.half() if isinstance(value, Tensor) else value for value in inputs)


def _to_float(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    return output.float()
