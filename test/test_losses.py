"""Losses of self-supervision against sums written out by hand."""

from __future__ import annotations

import numpy as np
import torch

from kyn_models.losses import WINDOW, edge_aware_smoothness, patch_error


def test_patch_error_is_the_published_mixture() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 3, 4, 5)), rng.random((2, 3, 4, 5))
    window = np.array(WINDOW)
    expected = np.zeros((2, 4, 5))
    for p, c, y, x in np.ndindex(2, 3, 4, 5):
        ours, theirs = (np.pad(image[p, c], 1)[y : y + 3, x : x + 3] for image in (a, b))
        mean_a, mean_b = (window * ours).sum(), (window * theirs).sum()
        var_a, var_b = (window * ours**2).sum() - mean_a**2, (window * theirs**2).sum() - mean_b**2
        both = (window * ours * theirs).sum() - mean_a * mean_b
        similar = (2 * mean_a * mean_b + 1e-4) * (2 * both + 9e-4)
        similar /= (mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)
        expected[p, y, x] += 0.85 * np.clip(1 - similar, 0, 1) / 2 / 3 + 0.15 * abs(a[p, c, y, x] - b[p, c, y, x]) / 3
    found = patch_error(torch.from_numpy(a), torch.from_numpy(b))
    assert np.abs(found.numpy() - expected).max() < 1e-6
    assert patch_error(torch.from_numpy(a), torch.from_numpy(a)).abs().max() < 1e-12


def test_smoothness_counts_steps_of_depth_less_at_edges_of_colour() -> None:
    distance = torch.full((1, 4, 4), 10.0)
    distance[:, :, 2:] = 5.0
    grey, edge = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    edge[..., 2:] = 1.0
    flat = edge_aware_smoothness(torch.full((1, 4, 4), 7.0), grey)
    plain, excused = edge_aware_smoothness(distance, grey), edge_aware_smoothness(distance, edge)
    assert flat.abs().max() == 0
    # Inverse depths 0.1 and 0.2, mean 0.15: a step of 2/3, in the column before it.
    assert torch.allclose(plain[0, :, 1], torch.full((4,), 2 / 3)) and plain[0, :, 2:].abs().max() == 0
    assert torch.allclose(excused[0, :, 1], torch.full((4,), 2 / 3 * np.exp(-1)))
