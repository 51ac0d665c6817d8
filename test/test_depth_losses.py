"""The published losses of multi-frame depth against numbers by hand and against a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="losses need torch")

from kyn_models.depth_losses import VirtualNormals, draw_triples, log_depth_loss

K = torch.tensor([[[8.0, 0.0, 5.0], [0.0, 9.0, 2.0], [0.0, 0.0, 1.0]]])


def test_log_depth_loss_by_hand() -> None:
    target = torch.tensor([[[[0.1, 0.2], [0.0, 0.4]]]])
    answer = torch.tensor([[[[0.1 / math.e, 0.2], [7.0, 0.4 / math.e**2]]]])
    # log depth is 1, 0 and 2 too large: mean 1, variance 1 of n - 1.
    assert float(log_depth_loss(answer, target)) == pytest.approx(10 * math.sqrt(1 + 0.15), rel=1e-5)


def test_log_depth_loss_of_a_wrong_scale_is_all_mean() -> None:
    target = torch.rand(2, 1, 4, 6) + 0.1
    assert float(log_depth_loss(target / 2, target)) == pytest.approx(10 * math.sqrt(0.15) * math.log(2), rel=1e-3)


def test_log_depth_loss_is_of_the_whole_batch_and_enlarges_coarse_maps() -> None:
    target = torch.tensor([0.1, 0.2]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    coarse = torch.tensor([0.1, 0.2 * math.e]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    # 16 pixels with difference 0 and 16 with -1.
    assert float(log_depth_loss(coarse, target)) == pytest.approx(10 * math.sqrt(8 / 31 + 0.15 / 4), rel=1e-5)


def test_nothing_known_teaches_nothing() -> None:
    inverse = torch.full((1, 1, 4, 4), 0.2, requires_grad=True)
    loss = log_depth_loss(inverse, torch.zeros(1, 1, 4, 4))
    normals = VirtualNormals(torch.zeros(1, 1, 4, 4), K, draw_triples(torch.tensor([1]), 4, 4))
    (loss + normals.loss(1 / inverse)).backward()
    assert inverse.grad is not None and torch.equal(inverse.grad, torch.zeros_like(inverse))


def plain_normal_loss(depth: np.ndarray, truth: np.ndarray, triples: np.ndarray) -> float:
    """The same one after the other: (H, W) metres each, triples (3, T)."""
    height, width = truth.shape

    def point(values: np.ndarray, pixel: int) -> np.ndarray:
        row, column = divmod(int(pixel), width)
        z = values[row * len(values) // height, column * values.shape[1] // width]
        return z * np.array([(column - width // 2) / 8.0, (row - height // 2) / 9.0, 1.0])

    def normal(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
        n = np.cross(b - a, c - a)
        return n / max(float(np.linalg.norm(n)), 1e-6)

    errors = []
    for triple in triples.T:
        a, b, c = (point(truth, pixel) for pixel in triple)
        sides = [b - a, c - a, c - b]
        pairs = [(sides[i], sides[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
        line = any(abs(p @ q) > 0.867 * (np.linalg.norm(p) * np.linalg.norm(q) + 1e-8) for p, q in pairs)
        close = all(min(abs(side[axis]) for side in sides) < 0.005 for axis in range(3))
        if min(a[2], b[2], c[2]) > 1e-4 and not line and not close:
            found = normal(*(point(depth, pixel) for pixel in triple))
            errors.append(np.abs(found - normal(a, b, c)).sum())
    return float(np.mean(np.sort(errors)[int(0.25 * len(errors)) :]))


@pytest.mark.parametrize("part", [1, 2])
def test_virtual_normals_are_those_of_a_plain_loop(part: int) -> None:
    rng = np.random.default_rng(3)
    truth = rng.uniform(3, 9, (2, 1, 24, 32)).astype(np.float32) * (rng.random((2, 1, 24, 32)) < 0.8)
    depth = rng.uniform(3, 9, (2, 1, 24 // part, 32 // part)).astype(np.float32)
    triples = draw_triples(torch.tensor([5, 6]), 24, 32)
    assert triples.shape == (2, 3, int(0.15 * 24 * 32)) and not torch.equal(triples[0], triples[1])
    found = VirtualNormals(torch.from_numpy(truth), K.expand(2, 3, 3), triples).loss(torch.from_numpy(depth))
    expected = [plain_normal_loss(depth[i, 0], truth[i, 0], triples[i].numpy()) for i in range(2)]
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-4)


def test_normals_of_the_truth_cost_nothing_and_those_of_noise_do() -> None:
    truth = 6 + torch.linspace(0, 2, 32).expand(1, 1, 24, 32)
    normals = VirtualNormals(truth, K, draw_triples(torch.tensor([5]), 24, 32))
    assert float(normals.loss(truth)) < 1e-5
    noise = torch.rand(truth.shape, generator=torch.Generator().manual_seed(0))
    assert float(normals.loss(truth + 3 * noise)) > 0.1
