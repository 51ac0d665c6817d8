"""The point network of Know Your Neighbors: the authors' numbers, and one set however it is split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="networks need torch")

from artifacts import seed_by_name
from torch import Tensor, nn

from kyn_models.networks import modulation
from kyn_models.networks.modulation import ModulatedMLP


def network(features: int = 20, code: int = 7, text: int = 12, hidden: int = 16, heads: int = 4) -> ModulatedMLP:
    net = ModulatedMLP(features, code, text, hidden, heads, hidden // heads).eval()
    seed_by_name(net)
    return net


class Points:
    """A random set of points with labels 0..4 of 6, some of them not valid."""

    def __init__(self, net: ModulatedMLP, count: int = 300, batch: int = 2) -> None:
        generator = torch.Generator().manual_seed(3)
        weight, bias = net.entry_parameters()
        self.x = torch.randn(batch, count, net.inputs, generator=generator)
        self.entries = nn.functional.linear(self.x, weight, bias).unsqueeze(2)
        self.labels = torch.randint(0, 5, (batch, count), generator=generator)
        self.valid = torch.rand(batch, count, generator=generator) < 0.7
        self.text = torch.randn(6, net.lin_in_text.in_features, generator=generator)

    def raw(self, net: ModulatedMLP, per_call: int | None = None) -> Tensor:
        t = net.modulation(self.text)
        return net(lambda part: self.entries[:, part], self.labels, self.valid, t, groups_per_call=per_call)[..., 0]


def published(net: ModulatedMLP, points: Points) -> Tensor:
    """The same by a softmax over all points, as the paper writes it."""
    t = net.lin_in_text(points.text)[points.labels]
    x = torch.relu(net.mlp_encoding_1(points.x) * t)
    x = torch.relu(net.mlp_encoding_2(x) * t)
    x = torch.relu(net.mlp_encoding_3(torch.cat([points.x, x], dim=-1)) * t)
    x = torch.relu(net.mlp_encoding_4(x) * t)
    part = net.point_attn
    q, k, v = (
        layer(values).unflatten(-1, (part.heads, -1)).transpose(1, 2)
        for layer, values in ((part.w_qs, x), (part.w_ks, t), (part.w_vs, x))
    )
    mask = ~points.valid[:, None, :, None]
    k, v = k.masked_fill(mask, -torch.finfo(k.dtype).max), v.masked_fill(mask, 0.0)
    scale = k.shape[-1] ** -0.5
    found = (q * scale).softmax(-1) @ ((k * scale).softmax(-2).transpose(-1, -2) @ v)
    return net.lin_out(part.layer_norm(part.fc(found.transpose(1, 2).flatten(2)) + x))[..., 0]


@torch.inference_mode()
def test_label_sums_say_what_a_softmax_over_points_says() -> None:
    net = network()
    points = Points(net)
    expected = published(net, points)
    assert expected.std() > 0.1
    torch.testing.assert_close(points.raw(net), expected, rtol=1e-4, atol=1e-5)
    points.valid[1] = False  # the authors' softmax is then uniform over values of 0
    torch.testing.assert_close(points.raw(net), published(net, points), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_the_authors_densities(golden: Path) -> None:
    with np.load(golden / "kyn" / "case0.npz") as case, np.load(golden / "kyn" / "case0_points.npz") as at:
        x = torch.from_numpy(np.concatenate([at["fused_at_query"], at["code_at_query"]], axis=1))[None]
        labels = torch.from_numpy(at["label_at_query"].astype(np.int64))[None]
        text, expected = torch.from_numpy(case["text_features"]), torch.from_numpy(case["sigma"])[:, 0]
        valid = torch.from_numpy(case["invalid"])[None, :, 0] == 0
    holder = nn.Module()
    holder.mlp_coarse = net = ModulatedMLP(256, 39, 512, 128, 4, 32)
    seed_by_name(holder)
    entries = nn.functional.linear(x, *net.entry_parameters()).unsqueeze(2)
    raw = net(lambda part: entries[:, part], labels, valid, net.modulation(text))
    torch.testing.assert_close(nn.functional.softplus(raw[0, :, 0]), expected, rtol=0, atol=2e-6)


@torch.inference_mode()
def test_the_split_in_memory_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    points = Points(net)
    whole = points.raw(net)
    for chunk in (1, 7, 299):
        monkeypatch.setattr(modulation, "CHUNK", chunk)
        torch.testing.assert_close(points.raw(net), whole, rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_calls_are_sets_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    points = Points(net)
    whole, calls = points.raw(net), points.raw(net, per_call=130)
    assert not torch.allclose(whole, calls, atol=1e-3)
    for start in (0, 130, 260):
        alone = Points(net)
        for name in ("entries", "labels", "valid"):
            setattr(alone, name, getattr(points, name)[:, start : start + 130])
        torch.testing.assert_close(calls[:, start : start + 130], alone.raw(net), rtol=1e-5, atol=1e-6)
    monkeypatch.setattr(modulation, "CHUNK", 50)
    torch.testing.assert_close(points.raw(net, per_call=130), calls, rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_the_softmax_over_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modulation, "CHUNK", 64)
    net = network()
    points = Points(net)
    found = []
    for way in (lambda: points.raw(net), lambda: published(net, points)):
        points.entries = nn.functional.linear(points.x, *net.entry_parameters()).unsqueeze(2)
        net.zero_grad()
        (way() ** 2).sum().backward()
        found.append({name: value.grad.clone() for name, value in net.named_parameters()})
    for name, expected in found[1].items():
        assert expected.abs().max() > 0, name
        error = (found[0][name] - expected).abs().max() / expected.abs().max()
        assert error < 1e-4, name


@torch.inference_mode()
def test_no_points() -> None:
    net = network()
    assert Points(net, count=0).raw(net).shape == (2, 0)
