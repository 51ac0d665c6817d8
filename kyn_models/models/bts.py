"""Behind the Scenes: a density field from one image (Wimbauer, Yang, Rupprecht, Cremers, CVPR 2023). torch.

``field = model.condition(view)``, then ``field(points)``; nothing is remembered between calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from kyn_models.geometry import EPSILON_M, View, project, sample, transform
from kyn_models.networks.monodepth2 import Monodepth2
from kyn_models.networks.point_mlp import PositionalCode, ResnetFC


@dataclass(frozen=True)
class BtsConfig:
    """encoder: image trunk. channels_dec: decoder channels from fine to coarse. d_out: feature channels.

    feature_scale: stride 2^n of the feature map, 0 as published. hidden, blocks: of the point network.
    frequencies, frequency_factor: of the positional code; code_depth: what its third input is, the depth along the
    optical axis or, as published for RealEstate10K, the distance. z_near, z_far: range in metres.
    """

    encoder: str = "resnet50"
    channels_dec: tuple[int, ...] = (32, 32, 64, 128, 256)
    d_out: int = 64
    feature_scale: int = 0
    hidden: int = 64
    blocks: int = 0
    frequencies: int = 6
    frequency_factor: float = 1.5
    code_depth: Literal["z", "distance"] = "z"
    z_near: float = 3.0
    z_far: float = 80.0


class Density(NamedTuple):
    """sigma: (B, N) density, 0 or above; invalid: (B, N) bool, outside the encoding view."""

    sigma: Tensor
    invalid: Tensor


@dataclass(frozen=True)
class BtsField:
    """Density at any point of the world, as one encoded view says.

    features: (B, d_out, h, w) of the view's image; code and mlp: the parts of the model that answer at a point.
    """

    features: Tensor
    k_norm: Tensor
    camera_from_world: Tensor
    code: PositionalCode
    mlp: ResnetFC
    z_near: float
    z_far: float
    code_depth: Literal["z", "distance"] = "z"

    def density(self, points: Tensor) -> Density:
        """(B, N, 3) world points in metres. Equation 2 of the paper."""
        inside = transform(self.camera_from_world, points)
        uv, z, invalid = project(self.k_norm, inside)
        depth = inside.norm(dim=-1) if self.code_depth == "distance" else z
        nearness = self._nearness(depth.clamp(min=EPSILON_M))
        code = self.code(torch.cat([uv, nearness.unsqueeze(-1)], dim=-1))
        raw = self.mlp(torch.cat([sample(self.features, uv), code], dim=-1))
        return Density(functional.softplus(raw[..., 0].float()), invalid)

    def along_rays(self, directions: Tensor, z: Tensor) -> Tensor:
        """Density along rays from the encoding camera's centre: (B, R, 3) camera axes, z = 1 -> (B, R, K).

        z: (B, 1, K) or (1, 1, K) depths, the same for all rays of a view. All samples of a ray project to one pixel
        and the first layer is linear in [feature, code(u), code(v), code(z')]: exact, and a fraction of the cost.
        """
        uv = project(self.k_norm, directions).uv
        far = directions.norm(dim=-1, keepdim=True) if self.code_depth == "distance" else torch.ones_like(z[..., :1])
        nearness = self._nearness(z * far)
        features, weight = sample(self.features, uv), self.mlp.lin_in.weight
        across, along = self.code.columns((0, 1)), self.code.columns((2,))
        start = features.shape[-1]
        code_uv = self.code(torch.cat([uv, torch.zeros_like(uv[..., :1])], dim=-1))[..., across]
        code_z = self.code(torch.zeros_like(nearness).unsqueeze(-1).expand(*nearness.shape, 3) + nearness.unsqueeze(-1))
        pixel = functional.linear(features, weight[:, :start], self.mlp.lin_in.bias)
        pixel = pixel + functional.linear(code_uv, weight[:, [start + i for i in across]])
        depth = functional.linear(code_z[..., along], weight[:, [start + i for i in along]])
        hidden = pixel.unsqueeze(2) + depth
        for block in self.mlp.blocks:
            hidden = block(hidden)
        return functional.softplus(self.mlp.lin_out(functional.relu(hidden))[..., 0].float())

    def _nearness(self, z: Tensor) -> Tensor:
        """z' of the positional code, linear in inverse depth: 1 at z_near, -1 at z_far."""
        far = 1 / self.z_far
        return 2 * (1 / z - far) / (1 / self.z_near - far) - 1

    def __call__(self, points: Tensor) -> Tensor:
        """(B, N) density of (B, N, 3) world points."""
        return self.density(points).sigma


class Bts(nn.Module):
    """The network, with the parameter names of the official checkpoints."""

    def __init__(self, config: BtsConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Monodepth2(config.encoder, config.channels_dec, config.d_out, config.feature_scale)
        self.code_xyz = PositionalCode(config.frequencies, config.frequency_factor)
        self.mlp_coarse = ResnetFC(config.d_out + self.code_xyz.size, 1, config.blocks, config.hidden)

    def condition(self, view: View, flip: bool = False) -> BtsField:
        """Encode one view; the field it gives answers in that view's world.

        flip: encode the mirror image and mirror the features back (augmentation in training, as published).
        """
        image = view.image * 0.5 + 0.5
        features = self.encoder(image.flip(-1)).flip(-1) if flip else self.encoder(image)
        return self.field(features, view.k_norm, view.camera_from_world)

    def exportable(self) -> tuple[PreActivation, dict[str, Tensor]]:
        """The model in two exact pieces for robots: an image network, and the constants of what follows at a point.

        The network takes (1, H, W, 3) uint8 RGB to the (1, h, w, hidden) pre-activations of the point network's first
        layer without code and bias; the constants are those of ``decoder.npz`` but for the camera.
        Raises ``ValueError`` for a point network with blocks.
        """
        config, mlp = self.config, self.mlp_coarse
        if config.blocks > 0:
            raise ValueError(f"export: got a point network with {config.blocks} blocks, expected 0; only torch runs it")
        if config.code_depth != "z":
            raise ValueError(f"export: got code_depth {config.code_depth}, expected z; only torch runs it")
        constants = {
            "w_code": mlp.lin_in.weight[:, config.d_out :],
            "bias": mlp.lin_in.bias,
            "w_out": mlp.lin_out.weight[0],
            "b_out": mlp.lin_out.bias[0],
            "freqs": self.code_xyz.frequencies,
            "z_near": torch.tensor(config.z_near),
            "z_far": torch.tensor(config.z_far),
        }
        network = PreActivation(self.encoder, mlp.lin_in.weight[:, : config.d_out])
        network.eval()
        return network, {name: value.detach() for name, value in constants.items()}

    def field(self, features: Tensor, k_norm: Tensor, camera_from_world: Tensor) -> BtsField:
        """The field of a feature map that is already there."""
        config = self.config
        return BtsField(
            features,
            k_norm,
            camera_from_world,
            self.code_xyz,
            self.mlp_coarse,
            config.z_near,
            config.z_far,
            config.code_depth,
        )


class PreActivation(nn.Module):
    """Image network whose last convolution already holds a linear layer: bilinear sampling commutes with linear maps.

    network: the encoder of a model; linear: (hidden, d_out) weight applied to its features.
    """

    def __init__(self, network: Monodepth2, linear: Tensor) -> None:
        super().__init__()
        self.network = network
        output = network.decoder.output
        self.merged = nn.Conv2d(output.in_channels, linear.shape[0], output.kernel_size)
        with torch.no_grad():
            wide = linear.double()
            self.merged.weight.copy_(torch.einsum("hd,dcij->hcij", wide, output.weight.double()))
            self.merged.bias.copy_(wide @ output.bias.double())

    def forward(self, image: Tensor) -> Tensor:
        return self.planes(image).permute(0, 2, 3, 1)

    def planes(self, image: Tensor) -> Tensor:
        """(1, H, W, 3) uint8 to (1, hidden, h, w), in the precision of the weights."""
        # TensorRT can do nothing with 8-bit numbers but widen them: that comes first.
        pixels = (image.float().permute(0, 3, 1, 2) / 255).to(self.merged.weight.dtype)
        trunk = self.network.decoder.trunk(self.network.encoder(pixels))
        return self.merged(functional.pad(trunk, (1, 1, 1, 1), mode="reflect"))
