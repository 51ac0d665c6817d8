"""Know Your Neighbors: a density field from one image and its language features (Li et al., CVPR 2024). torch.

``field = model.condition(view)``, then ``field(points)``. The points of one call attend to each other: they are one
set, and the density of a point depends on the set. It does not depend on how the set is split in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from kyn_models.geometry import EPSILON_M, View, project, sample, transform
from kyn_models.models.bts import Density
from kyn_models.models.kyn_export import KynMaps, export_kyn
from kyn_models.networks.lseg import LSeg, LSegConfig
from kyn_models.networks.modulation import ModulatedMLP
from kyn_models.networks.monodepth2 import Monodepth2
from kyn_models.networks.point_mlp import PositionalCode
from kyn_models.runtimes.kyn_constants import TIE_PX

PUBLISHED_LABELS = tuple(
    [
        "ground",
        "road",
        "person",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "bicycle",
        "sidewalk",
        "parking",
        "railtrack",
        "building",
        "wall",
        "fence",
        "bridge",
        "pole",
        "trafficlight",
        "trafficsign",
        "vegetation",
        "others",
    ]
)
"""What the authors trained and measured with; any other words will do."""


@dataclass(frozen=True)
class KynConfig:
    """encoder: image trunk. channels_dec: decoder channels from fine to coarse. d_out: its feature channels.

    lseg: the language features. fused: channels of the fused feature map. hidden, heads, head_channels: of the point
    network. label_count: how many labels the model knows. frequencies, frequency_factor: of the positional code.
    z_near, z_far: range in metres.
    """

    encoder: str = "resnet50"
    channels_dec: tuple[int, ...] = (32, 32, 64, 128, 256)
    d_out: int = 64
    lseg: LSegConfig = LSegConfig()
    fused: int = 256
    hidden: int = 128
    heads: int = 4
    head_channels: int = 32
    label_count: int = len(PUBLISHED_LABELS)
    frequencies: int = 6
    frequency_factor: float = 1.5
    z_near: float = 3.0
    z_far: float = 80.0

    def __post_init__(self) -> None:
        if not 1 <= self.label_count <= 255:
            raise ValueError(f"label_count: got {self.label_count}, expected 1 to 255; volumes store a label as a byte")


@dataclass(frozen=True)
class KynField:
    """Density at any point of the world, as one encoded view says.

    features: (B, fused, h, w) of the view's image; labels: (B, H, W) int64, the label of each pixel;
    modulation: (L, hidden) of the labels; code and mlp: the parts of the model that answer at a point.
    """

    one_set: ClassVar[bool] = True
    """All points of a call count for each other: to split them changes the answer (see ``render.query``)."""

    features: Tensor
    labels: Tensor
    modulation: Tensor
    k_norm: Tensor
    camera_from_world: Tensor
    code: PositionalCode
    mlp: ModulatedMLP
    z_near: float
    z_far: float

    def density(self, points: Tensor, points_per_call: int | None = None) -> Density:
        """(B, N, 3) world points in metres, one set (equations 3 to 6 of the paper).

        Only points in view take part in the attention of the others. points_per_call: attention within consecutive
        runs of so many points instead, as the authors' renderer does with 100,000.
        """
        uv, z, invalid = project(self.k_norm, transform(self.camera_from_world, points))
        nearness = self._nearness(z.clamp(min=EPSILON_M))
        weight, bias = self.mlp.entry_parameters()

        def entry(part: slice) -> Tensor:
            code = self.code(torch.cat([uv[:, part], nearness[:, part].unsqueeze(-1)], dim=-1))
            x = torch.cat([sample(self.features, uv[:, part]), code], dim=-1)
            return functional.linear(x, weight, bias).unsqueeze(2)

        raw = self.mlp(entry, self.label_at(uv), ~invalid, self.modulation, groups_per_call=points_per_call)
        return Density(functional.softplus(raw[..., 0]), invalid)

    def along_rays(self, directions: Tensor, z: Tensor) -> Tensor:
        """Density along rays from the encoding camera's centre: (B, R, 3) camera axes, z = 1 -> (B, R, K).

        z: (B, R, K) depths, R may be 1 where all rays of a view have the same. All samples of all rays are one set.
        All samples of a ray share pixel, label and validity, and the entry of the point network is affine in [feature,
        code(u), code(v), code(z')]: exact, and a fraction of the cost.
        """
        uv, _, invalid = project(self.k_norm, directions)
        rays, samples = directions.shape[1], z.shape[-1]
        weight, bias = self.mlp.entry_parameters()
        start = self.mlp.inputs - self.code.size
        along = torch.tensor(self.code.columns((2,)), device=weight.device)
        across = torch.tensor(self.code.columns((0, 1)), device=weight.device)
        nearness = self._nearness(z).unsqueeze(-1)
        code_z = self.code(nearness.expand(*z.shape, 3))[..., along]
        depth = functional.linear(code_z, weight[:, start + along]).expand(len(uv), -1, -1, -1)

        def entry(part: slice) -> Tensor:
            place = uv[:, part]
            code_uv = self.code(torch.cat([place, torch.zeros_like(place[..., :1])], dim=-1))[..., across]
            x = torch.cat([sample(self.features, place), code_uv], dim=-1)
            columns = torch.cat([weight[:, :start], weight[:, start + across]], dim=1)
            pixel = functional.linear(x, columns, bias)
            return pixel.unsqueeze(2) + (depth[:, part] if depth.shape[1] == rays else depth)

        raw = self.mlp(entry, self.label_at(uv), ~invalid, self.modulation, samples)
        return functional.softplus(raw)

    def label_at(self, uv: Tensor) -> Tensor:
        """(B, N) int64, the label of the pixel nearest to (B, N, 2) normalised coordinates, border continued.

        Within ``TIE_PX`` of the border between two pixels it is the second one's, so that rounding does not decide.
        """
        size = torch.tensor(self.labels.shape[:0:-1], device=uv.device)
        grid = (uv.float() + 2 * TIE_PX / size).unsqueeze(1)
        found = functional.grid_sample(
            self.labels.unsqueeze(1).float(), grid, mode="nearest", padding_mode="border", align_corners=False
        )
        return found[:, 0, 0].long()

    def _nearness(self, z: Tensor) -> Tensor:
        """z' of the positional code, linear in inverse depth: 1 at z_near, -1 at z_far."""
        far = 1 / self.z_far
        return 2 * (1 / z - far) / (1 / self.z_near - far) - 1

    def __call__(self, points: Tensor) -> Tensor:
        """(B, N) density of (B, N, 3) world points, one set."""
        return self.density(points).sigma


class Encoded(NamedTuple):
    """features: (B, fused, H, W); logits: (B, L, H, W) of the labels; language: (B, lseg.out, rows, columns).

    The language features are those rows of LSeg's map that are enlarged to the image.
    """

    features: Tensor
    logits: Tensor
    language: Tensor


class Fuser(nn.Module):
    """Image features and language features of every pixel together: two 1x1 convolutions with a ReLU between."""

    def __init__(self, vision: int, language: int, fused: int) -> None:
        super().__init__()
        self.vision = vision
        self.fused_reg = nn.Sequential(nn.Conv2d(vision + language, fused, 1), nn.ReLU(), nn.Conv2d(fused, fused, 1))

    def hidden(self, vision: Tensor, language: Tensor) -> Tensor:
        """(B, vision, H, W) and (B, language, h, w) to (B, fused, H, W), before the second convolution.

        Language features are enlarged to the image by bilinear interpolation, which commutes with a 1x1 convolution.
        """
        first = self.fused_reg[0]
        seen = functional.conv2d(vision, first.weight[:, : self.vision], first.bias)
        said = functional.conv2d(language, first.weight[:, self.vision :])
        said = functional.interpolate(said, size=seen.shape[2:], mode="bilinear", align_corners=False)
        return functional.relu(seen + said)

    def forward(self, vision: Tensor, language: Tensor) -> Tensor:
        return self.fused_reg[2](self.hidden(vision, language))


class Encoder(nn.Module):
    """What a model sees in an image. LSeg is frozen, as published: no gradients, always in evaluation mode."""

    def __init__(self, config: KynConfig) -> None:
        super().__init__()
        self.vision_encoder = Monodepth2(config.encoder, config.channels_dec, config.d_out, 0)
        self.vlseg_encoder = LSeg(config.lseg).requires_grad_(False).eval()
        self.fuser = Fuser(config.d_out, config.lseg.out, config.fused)

    def train(self, mode: bool = True) -> Encoder:
        super().train(mode)
        self.vlseg_encoder.eval()
        return self

    def forward(self, image: Tensor, text: Tensor) -> Encoded:
        """image: (B, 3, H, W) in -1..1, W > H, multiples of 32; text: (L, lseg.out)."""
        with torch.no_grad():
            language = self.vlseg_encoder(image, text)
        vision = self.vision_encoder(image * 0.5 + 0.5)
        return Encoded(self.fuser(vision, language.features), language.logits, language.features)


class Kyn(nn.Module):
    """The network, with the parameter names of the official checkpoint apart from its text tower.

    ``text_features`` (L, text) stands in for that: what CLIP's text tower says about the labels, a buffer that belongs
    to the weights, so that a deployed model needs no text tower.
    """

    text_features: Tensor

    def __init__(self, config: KynConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.code_xyz = PositionalCode(config.frequencies, config.frequency_factor)
        self.mlp_coarse = ModulatedMLP(
            config.fused, self.code_xyz.size, config.lseg.out, config.hidden, config.heads, config.head_channels
        )
        self.register_buffer("text_features", torch.zeros(config.label_count, config.lseg.out))

    def condition(self, view: View, flip: bool = False) -> KynField:
        """Encode one view; the field it gives answers in that view's world.

        flip: encode the mirror image and mirror features and labels back (augmentation in training, as published).
        """
        encoded = self.encoder(view.image.flip(-1) if flip else view.image, self.text_features)
        features, labels = encoded.features, encoded.logits.argmax(dim=1)
        if flip:
            features, labels = features.flip(-1), labels.flip(-1)
        return self.field(features, labels, view.k_norm, view.camera_from_world)

    def exportable(self) -> tuple[KynMaps, dict[str, Tensor]]:
        """The model in two exact pieces for robots: an image network, and the constants of what follows at a point.

        The network takes (1, H, W, 3) uint8 RGB to the (1, H, W, 2 hidden) pre-activations of layers 1 and 3 without
        code and bias, and (1, H, W) uint8 labels; the constants are those of ``decoder.npz`` but for the camera.
        """
        return export_kyn(self)

    def field(self, features: Tensor, labels: Tensor, k_norm: Tensor, camera_from_world: Tensor) -> KynField:
        """The field of a feature map and a label map that are already there."""
        config, modulation = self.config, self.mlp_coarse.modulation(self.text_features)
        return KynField(
            features,
            labels,
            modulation,
            k_norm,
            camera_from_world,
            self.code_xyz,
            self.mlp_coarse,
            config.z_near,
            config.z_far,
        )
