"""Distance maps in a data pipeline of dictionaries, such as MONAI's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from geoloss_kernels.distance.maps import distance_map, signed_distance_map

KINDS = {"signed": signed_distance_map, "both": distance_map}


class DistanceMapd:
    """Adds the distance map of each mask to a sample: a dictionary transform for MONAI's ``Compose``.

        Compose([LoadImaged(keys), EnsureChannelFirstd(keys), DistanceMapd("label", spacing="pixdim"),
                 RandCropByPosNegLabeld([*keys, "label_distance"], ...)])
        loss(logits, batch["label"], distance_map=batch["label_distance"])

    A map moves with its mask under crops, flips and padding by edge values; after a deformation or a change
    of the voxel size it is no distance any more, so these come before. A map of the whole volume knows
    lesions that a crop does not contain, unlike the one that a loss computes from the crop.

    Args:
        keys: of the masks, each [C, *spatial], with more than 0.5 in the foreground.
        kind: "signed", `signed_distance_map` for the boundary loss, or "both", `distance_map` for the
            Hausdorff loss.
        spacing: voxel size per spatial axis in mm, "pixdim" to take it from the mask's metadata, or None = 1.
        empty: "zero" or "far", see `signed_distance_map`.
        postfix: the map of ``key`` is stored as ``key_postfix``.
        allow_missing_keys: skip keys that a sample lacks, instead of raising KeyError.
    """

    def __init__(
        self,
        keys: str | Iterable[str],
        kind: str = "signed",
        spacing: Sequence[float] | str | None = None,
        empty: str = "zero",
        postfix: str = "distance",
        allow_missing_keys: bool = False,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
        if isinstance(spacing, str) and spacing != "pixdim":
            raise ValueError(f"spacing: expected numbers, 'pixdim' or None, got {spacing!r}")
        self.keys = (keys,) if isinstance(keys, str) else tuple(keys)
        self.transform = KINDS[kind]
        self.spacing = spacing
        self.empty = empty
        self.postfix = postfix
        self.allow_missing_keys = allow_missing_keys

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """The sample with its maps; nothing that was there is changed."""
        result = dict(data)
        for key in self.keys:
            if key in result:
                result[f"{key}_{self.postfix}"] = self._map(key, result[key])
            elif not self.allow_missing_keys:
                raise KeyError(f"DistanceMapd: the sample has no {key!r}, only {', '.join(map(str, data))}")
        return result

    def _map(self, key: str, mask: Any) -> Tensor:
        has_metadata = hasattr(mask, "as_tensor")
        spacing = self.spacing
        if isinstance(spacing, str):
            if not has_metadata:
                raise TypeError(f"spacing: 'pixdim' needs metadata, but {key!r} is a {type(mask).__name__}")
            spacing = mask.pixdim.tolist()
        volume = mask.as_tensor() if has_metadata else _as_tensor(key, mask)
        distance = self.transform(volume[None], spacing, self.empty)[0]
        return type(mask)(distance, meta=dict(mask.meta)) if has_metadata else distance


def _as_tensor(key: Any, mask: Any) -> Tensor:
    """Also of an array with negative strides or another byte order, which torch does not take."""
    if isinstance(mask, Tensor):
        return mask
    import numpy as np

    array = np.asarray(mask)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{key!r}: expected an array of numbers, got {array.dtype}")
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
