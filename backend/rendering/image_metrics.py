"""How alike two pictures are: mask IoU, PSNR and SSIM. Pictures are [H,W,3] in [0,1], masks [H,W] bool."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

PSNR_LIMIT = 60.0  # dB reported for equal pictures, so that means stay finite
SSIM_SIGMA = 1.5  # the window of the original publication: Gaussian, 11 x 11
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


def mask_iou(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two masks; 1 when both are empty."""
    union = np.logical_or(first, second).sum()
    return float(np.logical_and(first, second).sum() / union) if union else 1.0


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels."""
    error = float(np.mean((np.asarray(first, np.float64) - second) ** 2))
    return PSNR_LIMIT if error <= 10 ** (-PSNR_LIMIT / 10) else -10.0 * float(np.log10(error))


def ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Mean structural similarity over pixels and channels, Gaussian window of 11 pixels."""
    return float(ssim_map(first, second).mean())


def ssim_map(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Structural similarity [H,W,3] around each pixel."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)

    def blur(image: np.ndarray) -> np.ndarray:
        return np.asarray(ndimage.gaussian_filter(image, (SSIM_SIGMA, SSIM_SIGMA, 0), truncate=5 / SSIM_SIGMA))

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    top = (2 * mean_a * mean_b + SSIM_C1) * (2 * covariance + SSIM_C2)
    return np.asarray(top / ((mean_a**2 + mean_b**2 + SSIM_C1) * (var_a + var_b + SSIM_C2)))


def best_gain(shown: np.ndarray, wanted: np.ndarray, least_variance: float = 1e-8) -> np.ndarray:
    """The gain of each channel [C], none below 0, that with the best offset brings `shown` [K,C] nearest to `wanted`
    [K,C] by least squares; 0 for a channel that varies no more than `least_variance`."""
    spread = shown - shown.mean(axis=0)
    variance = (spread**2).mean(axis=0)
    together = (spread * (wanted - wanted.mean(axis=0))).mean(axis=0)
    gain = np.where(variance > least_variance, together / np.maximum(variance, least_variance), 0.0)
    return np.asarray(gain.clip(0.0))
