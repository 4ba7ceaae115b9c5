"""Smooth random fields, the raw material of every variation between made-up subjects."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

FloatVolume = NDArray[np.float32]


def smooth_noise(shape: tuple[int, ...], sigma: float, generator: np.random.Generator) -> FloatVolume:
    """Gaussian random field of zero mean and unit variance.

    White noise is drawn and filtered on a grid as coarse as the smoothness allows, then interpolated.

    Args:
        shape: Size of the volume [X, Y, Z] in voxels.
        sigma: Standard deviation of the Gaussian filter in voxels.
        generator: Source of randomness; its state alone decides the result.
    """
    step = max(1.0, sigma / 2)
    coarse = [int(np.ceil(size / step)) + 1 for size in shape]
    white = generator.standard_normal(coarse, dtype=np.float32)
    field = torch.from_numpy(ndimage.gaussian_filter(white, sigma / step, mode="wrap"))
    if step > 1:
        field = torch.nn.functional.interpolate(
            field[None, None], size=shape, mode="trilinear", align_corners=True
        )[0, 0]
    # NumPy's sums, because torch's depend on the number of threads.
    values = field[tuple(slice(size) for size in shape)].numpy()
    return (values - values.mean()) / values.std()
