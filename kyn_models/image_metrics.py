"""How alike two pictures are: PSNR and SSIM, as the published evaluators compute them. numpy and OpenCV.

Pictures are (H, W, 3) float arrays in 0..1 of one shape.
"""

from __future__ import annotations

import cv2
import numpy as np

SSIM_WINDOW = 7
K1, K2 = 0.01, 0.03


def _check(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape or a.ndim != 3 or a.shape[2] != 3:
        raise ValueError(f"pictures: got shapes {a.shape} and {b.shape}, expected one shape (H, W, 3)")


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal to noise ratio in dB over all pixels and channels, +Inf for equal pictures."""
    _check(a, b)
    error = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float("inf") if error == 0 else -10 * float(np.log10(error))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004) in plain windows of 7x7, sample covariance, mean over windows that lie
    inside the picture and over channels: what scikit-image computes when nothing but the range is given, as published.

    Raises ``ValueError`` for pictures smaller than a window.
    """
    _check(a, b)
    if min(a.shape[:2]) < SSIM_WINDOW:
        raise ValueError(f"pictures: got {a.shape[1]}x{a.shape[0]} pixels, expected at least {SSIM_WINDOW} each way")

    def mean(values: np.ndarray) -> np.ndarray:
        edge = SSIM_WINDOW // 2
        return cv2.blur(values, (SSIM_WINDOW, SSIM_WINDOW))[edge:-edge, edge:-edge]

    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = mean(x), mean(y)
    sample = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)
    var_x, var_y = (sample * (mean(v * v) - m * m) for v, m in ((x, mean_x), (y, mean_y)))
    covariance = sample * (mean(x * y) - mean_x * mean_y)
    c1, c2 = K1**2, K2**2
    above = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float(np.mean(above / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))))
