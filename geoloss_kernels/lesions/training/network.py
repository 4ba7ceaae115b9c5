"""Networks by name, built from MONAI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log
from typing import Protocol, cast

from torch import nn


class NetworkSettings(Protocol):
    """What decides a network; the keys of these names of ``TrainingConfig``."""

    @property
    def network(self) -> str: ...
    @property
    def modalities(self) -> Sequence[str]: ...
    @property
    def channels(self) -> Sequence[int]: ...
    @property
    def strides(self) -> Sequence[tuple[int, int, int]]: ...
    @property
    def residual_units(self) -> int: ...
    @property
    def lesion_prior(self) -> float: ...


def _unet(config: NetworkSettings) -> nn.Module:
    """U-Net with a narrow level at full resolution above those of ``config``: cheap enough for a CPU.

    Without that level the logits would come from a transposed convolution with a stride, which gives every
    second voxel weights of its own. Under Dice such voxels can fall silent for good: at probabilities near 0
    their gradient vanishes, while their neighbours learn.
    """
    from monai.networks.nets import UNet

    return UNet(
        spatial_dims=3,
        in_channels=len(config.modalities),
        out_channels=1,
        channels=(max(1, config.channels[0] // 2), *config.channels),
        strides=cast(Sequence[int], ((1, 1, 1), *config.strides)),
        num_res_units=config.residual_units,
    )


def _full_resolution_unet(config: NetworkSettings) -> nn.Module:
    """3-D U-Net with an encoder level at full resolution, as in Çiçek et al. 2016 (the paper's backbone)."""
    from monai.networks.nets import DynUNet

    strides = ((1, 1, 1), *config.strides)
    return DynUNet(
        spatial_dims=3,
        in_channels=len(config.modalities),
        out_channels=1,
        kernel_size=[3] * len(strides),
        strides=strides,
        upsample_kernel_size=config.strides,
        filters=config.channels,
        res_block=config.residual_units > 0,
    )


NETWORKS: dict[str, Callable[[NetworkSettings], nn.Module]] = {
    "unet": _unet,
    "unet_full_resolution": _full_resolution_unet,
}
"""Name -> builder of a network from ``[N, modalities, x, y, z]`` to logits ``[N, 1, x, y, z]``."""


def build_network(config: NetworkSettings) -> nn.Module:
    """Build the network that ``config`` names; its initial weights come from torch's global generator.

    The bias of the last layer is ``log(p / (1 - p))`` with p = ``config.lesion_prior`` (Lin et al. 2017,
    section 3.3). From 0.5 the FOG term, which acts on every voxel, flattens the prediction before the Dice
    term, which acts on the few lesion voxels, has shaped it, and training ends in an empty prediction.
    """
    network = NETWORKS[config.network](config)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv3d | nn.ConvTranspose3d)]
    last = [convolution for convolution in convolutions if convolution.out_channels == 1][-1]
    assert last.bias is not None
    nn.init.constant_(last.bias, log(config.lesion_prior / (1 - config.lesion_prior)))
    return network
