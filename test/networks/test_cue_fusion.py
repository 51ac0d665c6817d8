"""Cross-cue fusion and its two ablations against the formulas of the paper, without the matrices of the scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="networks need torch")

from artifacts import seed_by_name
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from kyn_models.networks.cue_fusion import GUIDED, CueFusion, attend

STEPS, CHANNELS = 12, 8


def fusion(kind: Any, stride: int = 4) -> CueFusion:
    module = CueFusion(kind, STEPS, CHANNELS, stride).eval()
    seed_by_name(module)
    return module


def cues() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    pseudo = torch.randint(0, STEPS, (2, 16, 32), generator=generator)
    pseudo = nn.functional.one_hot(pseudo, STEPS).permute(0, 3, 1, 2).float()
    return pseudo, torch.randn(2, STEPS, 16, 32, generator=generator)


def guided(module: CueFusion, guide: str, value: str, features: dict[str, Tensor]) -> Tensor:
    """V_value A_guide with A = softmax(Q K^T) over keys, enlarged by repeating pixels."""
    q, k = (getattr(module, f"lin_{guide}_{part}")(features[guide]).flatten(2) for part in "qk")
    v = getattr(module, f"lin_{value}_v")(features[value])
    attention = (q.transpose(1, 2) @ k).softmax(dim=-1)
    found = (v.flatten(2) @ attention.transpose(1, 2)).view_as(v)
    return found.repeat_interleave(module.stride, 2).repeat_interleave(module.stride, 3)


def by_the_paper(module: CueFusion, kind: str, pseudo: Tensor, cost: Tensor) -> Tensor:
    features = {"mono": module.mono_expand(pseudo), "multi": module.multi_expand(cost)}
    g = module.gamma
    if kind == "mono_guides_multi":
        return module.multi_reg(cost) + g * guided(module, "mono", "multi", features)
    if kind == "multi_guides_mono":
        return module.mono_reg(pseudo) + g * guided(module, "multi", "mono", features)
    first = module.mono_reg(pseudo) + g * guided(module, "mono", "multi", features)
    second = module.multi_reg(cost) + g * guided(module, "multi", "mono", features)
    return torch.cat([first, second], dim=1)


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("kind", GUIDED)
def test_each_fusion_is_that_of_the_paper(kind: str, stride: int) -> None:
    module, (pseudo, cost) = fusion(kind, stride), cues()
    with torch.inference_mode():
        found, expected = module(pseudo, cost), by_the_paper(module, kind, pseudo, cost)
    assert found.shape == (2, module.out, 16, 32) and module.out == CHANNELS * (2 if kind == "cross_cue" else 1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    with torch.inference_mode():
        module.gamma.zero_()
        assert (module(pseudo, cost) - expected).abs().max() > 0.05


@pytest.mark.parametrize("kind", GUIDED)
def test_gradients_are_those_of_the_paper(kind: str) -> None:
    module, (pseudo, cost) = fusion(kind), cues()
    found = []
    for way in (lambda: module(pseudo, cost), lambda: by_the_paper(module, kind, pseudo, cost)):
        module.zero_grad()
        (way() ** 2).sum().backward()
        found.append({name: value.grad.clone() for name, value in module.named_parameters()})
    for name, expected in found[1].items():
        # Adding one number to all scores of a query changes no softmax: biases of keys have no gradient but rounding.
        scale = max(float(expected.abs().max()), 0.1)
        assert (found[0][name] - expected).abs().max() / scale < 1e-3, name


def test_scores_are_never_held_as_a_whole() -> None:
    """Only the kernel that works tile by tile is allowed; at the published size the scores would be 256 MB."""
    generator = torch.Generator().manual_seed(2)
    parts = [torch.randn(1, 8, 16, 32, generator=generator, requires_grad=True) for _ in range(3)]
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        found = attend(*parts)
        found.sum().backward()
    assert found.shape == (1, 8, 16, 32) and all(part.grad is not None for part in parts)


def test_official_names(golden: Path) -> None:
    official = json.loads((golden / "dymultidepth" / "state_dict_resnet18.json").read_text())
    prefix = "fusion_module."
    expected = {name.removeprefix(prefix): shape for name, (shape, _) in official.items() if name.startswith(prefix)}

    def shapes(kind: Any) -> dict[str, list[int]]:
        return {name: list(value.shape) for name, value in CueFusion(kind, 32, 32, 4).state_dict().items()}

    assert shapes("cross_cue") == expected
    one_way = {
        "mono_guides_multi": ("lin_mono_v", "lin_multi_k", "lin_multi_q", "mono_reg"),
        "multi_guides_mono": ("lin_multi_v", "lin_mono_k", "lin_mono_q", "multi_reg"),
    }
    for kind, without in one_way.items():
        assert shapes(kind) == {name: shape for name, shape in expected.items() if not name.startswith(without)}
