"""LPIPS: against a second implementation in plain numpy, and what its weight files must hold."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kyn_models.models.seeded import seed_by_name
from kyn_models.networks.lpips import Lpips, load_lpips

# Kernel, stride, padding of each convolution and whether a pool of (size, stride) comes before it.
ALEX = {0: (11, 4, 2, None), 3: (5, 1, 2, (3, 2)), 6: (3, 1, 1, (3, 2)), 8: (3, 1, 1, None), 10: (3, 1, 1, None)}
VGG_POOLS_BEFORE = (5, 10, 17, 24)
VGG = {
    n: (3, 1, 1, (2, 2) if n in VGG_POOLS_BEFORE else None) for n in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
}
LAST = {"alex": (0, 3, 6, 8, 10), "vgg": (2, 7, 14, 21, 28)}


def seeded(kind: str) -> Lpips:
    model = Lpips(kind)
    seed_by_name(model)
    with torch.no_grad():
        for index in range(5):
            model.get_submodule(f"lin{index}.model")[1].weight.abs_()
    return model.eval()


def windows(x: np.ndarray, size: int, stride: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]


def plain(kind: str, weights: dict[str, np.ndarray], a: np.ndarray, b: np.ndarray) -> float:
    """The equations with numpy in float64: features, length 1, squared difference, weights, mean over pixels, sum."""
    shift = np.array([-0.030, -0.088, -0.188])
    scale = np.array([0.458, 0.448, 0.450])
    pair = [((2 * image.astype(np.float64) - 1 - shift) / scale).transpose(2, 0, 1) for image in (a, b)]
    total, level = 0.0, 0
    for index, (size, stride, padding, pool) in (ALEX if kind == "alex" else VGG).items():
        weight, bias = weights[f"features.{index}.weight"], weights[f"features.{index}.bias"]
        for n, x in enumerate(pair):
            if pool:
                x = windows(x, *pool).max(axis=(3, 4))
            x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
            x = np.tensordot(weight.astype(np.float64), windows(x, size, stride), axes=((1, 2, 3), (0, 3, 4)))
            pair[n] = np.maximum(x + bias[:, None, None], 0)
        if index in LAST[kind]:
            x, y = (f / np.sqrt((f**2).sum(axis=0)).clip(1e-10) for f in pair)
            total += ((x - y) ** 2 * weights[f"lin{level}.model.1.weight"].reshape(-1, 1, 1)).sum(axis=0).mean()
            level += 1
    assert level == 5
    return float(total)


def pictures(height: int = 48, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    a = rng.random((height, width, 3), np.float32)
    return a, np.clip(a + 0.2 * rng.standard_normal(a.shape, np.float32), 0, 1).astype(np.float32)


@pytest.mark.parametrize("kind, size", [("alex", (63, 95)), ("vgg", (32, 40))])
def test_it_is_what_the_equations_say(kind, size):
    model = seeded(kind)
    a, b = pictures(*size)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    expected = plain(kind, weights, a, b)
    assert expected > 1e-3
    assert model.distance(a, b) == pytest.approx(expected, rel=1e-4)


def test_equal_pictures_have_no_distance_and_order_does_not_matter():
    model = seeded("alex")
    a, b = pictures()
    assert model.distance(a, a) == 0
    assert model.distance(a, b) == pytest.approx(model.distance(b, a), rel=1e-6)
    assert model.distance(a, b) > model.distance(a, (0.8 * a + 0.2 * b).astype(np.float32)) > 0


@pytest.mark.parametrize("kind", ["alex", "vgg"])
def test_public_files_load_by_their_names(tmp_path, kind):
    """Learned weights and image network apart, with the classifier of the latter; or a whole model of the package."""
    model = seeded(kind)
    state = model.state_dict()
    lin = {name: value for name, value in state.items() if name.startswith("lin")}
    backbone = {name: value for name, value in state.items() if name.startswith("features.")}
    assert set(lin) == {f"lin{k}.model.1.weight" for k in range(5)}
    torch.save(lin, tmp_path / "lin.pth")
    torch.save(backbone | {"classifier.1.weight": torch.zeros(3)}, tmp_path / "net.pth")
    slices = {name.replace("features.", "net.slice1."): value for name, value in backbone.items()}
    torch.save(lin | slices | {"scaling_layer.shift": torch.zeros(1)}, tmp_path / "whole.pth")
    a, b = pictures()
    for files in (("lin.pth", "net.pth"), ("whole.pth",)):
        loaded = load_lpips(*(tmp_path / file for file in files))
        assert not loaded.training and loaded.distance(a, b) == model.distance(a, b)


def test_files_that_lack_something_are_named(tmp_path):
    state = seeded("alex").state_dict()
    lin = {name: value for name, value in state.items() if name.startswith("lin")}
    torch.save(lin, tmp_path / "lin.pth")
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "vgg.pth")
    torch.save({"head": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("not weights")
    for files, words in (
        (("lin.pth",), "holds no features.0.weight; name the image network's file as --lpips-backbone"),
        (("lin.pth", "vgg.pth"), r"vgg.pth: features.0.weight: got shape \(64, 3, 3, 3\), expected \(64, 3, 11, 11\)"),
        (("lin.pth", "other.pth"), "other.pth: features.0.weight: got nothing of it"),
        (("other.pth",), "got no lin1.model.1.weight"),
        (("list.pth",), "got list, expected a dictionary"),
        (("text.pth",), "not a weight file of torch"),
    ):
        with pytest.raises(ValueError, match=words):
            load_lpips(*(tmp_path / file for file in files))
    with pytest.raises(FileNotFoundError):
        load_lpips(tmp_path / "none.pth")
