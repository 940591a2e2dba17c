"""PSNR, SSIM and LPIPS of restored photographs: pure functions, and `evaluate` modules in the folders beside them."""

from restoration_metrics.functional import psnr, ssim
from restoration_metrics.perceptual import PerceptualLoss, load_lpips, lpips_distance

__all__ = ["PerceptualLoss", "load_lpips", "lpips_distance", "psnr", "ssim"]
