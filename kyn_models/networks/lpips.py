"""LPIPS: a distance of pictures in the features of an image network (Zhang et al., CVPR 2018, version 0.1). torch.

Names are those of the public weight files: ``features.*`` of torchvision's AlexNet or VGG-16, and
``lin0.model.1.weight`` to ``lin4.model.1.weight``, learned weights per channel. Nothing of them is shipped.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

Backbone = Literal["alex", "vgg"]
CHANNELS: dict[Backbone, tuple[int, ...]] = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
TAPS: dict[Backbone, tuple[int, ...]] = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}
"""Layers of ``features`` whose outputs are compared: the last ReLU of each block."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of the input in -1..1, by channel."""
EPSILON = 1e-10


def _alex() -> list[nn.Module]:
    """AlexNet's convolutions in torchvision's order, up to the last ReLU."""
    relu = [nn.ReLU() for _ in range(5)]
    pool = [nn.MaxPool2d(3, 2) for _ in range(2)]
    return [
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), relu[0], pool[0]),
        *(nn.Conv2d(64, 192, 5, padding=2), relu[1], pool[1]),
        *(nn.Conv2d(192, 384, 3, padding=1), relu[2]),
        *(nn.Conv2d(384, 256, 3, padding=1), relu[3]),
        *(nn.Conv2d(256, 256, 3, padding=1), relu[4]),
    ]


def _vgg() -> list[nn.Module]:
    """VGG-16's convolutions in torchvision's order, up to the last ReLU."""
    layers: list[nn.Module] = []
    channels = 3
    for block, (width, depth) in enumerate(zip(CHANNELS["vgg"], (2, 2, 3, 3, 3), strict=True)):
        layers += [nn.MaxPool2d(2, 2)] if block else []
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return layers


class Lpips(nn.Module):
    """backbone: "alex" (what the published evaluators use) or "vgg"."""

    def __init__(self, backbone: Backbone = "alex") -> None:
        super().__init__()
        self.taps = TAPS[backbone]
        self.features = nn.Sequential(*(_alex() if backbone == "alex" else _vgg()))
        for index, channels in enumerate(CHANNELS[backbone]):
            # The first entry is a dropout of training: its place in the names remains.
            lin = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))
            self.add_module(f"lin{index}", nn.ModuleDict({"model": lin}))
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(B,) distances of (B, 3, H, W) pictures in 0..1."""
        total = a.new_zeros(len(a))
        for index, (x, y) in enumerate(zip(self._normalised(a), self._normalised(b), strict=True)):
            weights = self.get_submodule(f"lin{index}.model")
            total = total + weights((x - y) ** 2).mean(dim=(1, 2, 3))
        return total

    def _normalised(self, image: Tensor) -> list[Tensor]:
        """Features at all taps, of length 1 at every pixel."""
        x = (2 * image - 1 - self.get_buffer("shift")) / self.get_buffer("scale")
        found = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                found.append(x / (x.square().sum(dim=1, keepdim=True).sqrt() + EPSILON))
        return found

    @torch.inference_mode()
    def distance(self, a: np.ndarray, b: np.ndarray) -> float:
        """Distance of two (H, W, 3) float pictures in 0..1."""
        x, y = (torch.from_numpy(np.ascontiguousarray(p, np.float32)).permute(2, 0, 1)[None] for p in (a, b))
        return float(self(x, y))


def load_lpips(weights: str | Path, backbone: str | Path | None = None) -> Lpips:
    """The network from its public files; which one it is follows from the learned weights.

    weights: ``lin*`` (``alex.pth`` or ``vgg.pth`` of LPIPS 0.1), or a whole saved model. backbone: ``features.*``
    (torchvision's AlexNet or VGG-16), not needed for a whole model.
    Raises ``ValueError`` naming the file and what it lacks, ``OSError``.
    """
    found = _read(Path(weights))
    if backbone is not None:
        found |= {name: value for name, value in _read(Path(backbone)).items() if name.startswith("features.")}
    lin = found.get("lin1.model.1.weight")
    kinds = {channels[1]: kind for kind, channels in CHANNELS.items()}
    if lin is None or lin.ndim != 4 or lin.shape[1] not in kinds:
        raise ValueError(
            f"{weights}: got no lin1.model.1.weight of 192 or 128 channels, expected LPIPS 0.1 for AlexNet or VGG"
        )
    model = Lpips(kinds[lin.shape[1]])
    wanted = model.state_dict()
    for name, value in wanted.items():
        if name not in found or found[name].shape != value.shape:
            file = weights if name.startswith("lin") else backbone
            what = "nothing of it" if name not in found else f"shape {tuple(found[name].shape)}"
            told = f"{file}: {name}: got {what}, expected {tuple(value.shape)}"
            raise ValueError(
                told if file else f"{weights}: holds no {name}; name the image network's file as --lpips-backbone"
            )
    model.load_state_dict({name: found[name] for name in wanted})
    return model.eval()


def _read(path: Path) -> dict[str, Tensor]:
    """All tensors of a file; the image network's by torchvision's names."""
    with path.open("rb") as file:
        try:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises classes that share no public base for damaged files
            raise ValueError(f"{path}: not a weight file of torch ({str(error).splitlines()[0][:80]})") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{path}: got {type(loaded).__name__}, expected a dictionary of tensors")
    tensors = {name: value for name, value in loaded.items() if isinstance(value, Tensor)}
    return {re.sub(r"^net\.slice\d\.", "features.", name): value.float() for name, value in tensors.items()}
