"""The arguments that all losses share, named as in MONAI, and what they mean for `prepare`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TypedDict

from torch import Tensor

from geoloss_kernels.reference.voxels import Voxels, prepare

AXIS_ORDERS = {
    "xyz": ("sagittal", "coronal", "axial"),
    "zyx": ("axial", "coronal", "sagittal"),
}


class VoxelOptions(TypedDict, total=False):
    """Keyword arguments of `voxels_from_options`, accepted by every loss."""

    mask: Tensor | None
    spacing: Sequence[float] | None
    include_background: bool
    to_onehot_y: bool
    sigmoid: bool
    softmax: bool
    ignore_index: int | None


def voxels_from_options(
    input: Tensor,
    target: Tensor,
    *,
    mask: Tensor | None = None,
    spacing: Sequence[float] | None = None,
    include_background: bool = True,
    to_onehot_y: bool = False,
    sigmoid: bool = False,
    softmax: bool = False,
    ignore_index: int | None = None,
    map: Tensor | None = None,
) -> Voxels:
    """Probabilities, target and validity for a loss.

    Args:
        input: logits or probabilities [N, C, *spatial].
        target: same shape; with ``to_onehot_y`` a label map [N, 1, *spatial].
        mask, spacing, ignore_index, include_background, map: as in `geo_sums`.
        to_onehot_y, sigmoid, softmax: as in MONAI. With a single channel ``to_onehot_y``, ``softmax`` and
            ``include_background=False`` have no effect and warn.
    """
    activation, include_background = resolve_activation(
        input, target, include_background, to_onehot_y, sigmoid, softmax
    )
    mask, ignore_index = resolve_ignore_index(target, mask, ignore_index)
    return prepare(
        input,
        target,
        mask,
        () if map is None else (map,),
        activation,
        spacing,
        ignore_index=ignore_index,
        include_background=include_background,
    )


def resolve_activation(
    input: Tensor,
    target: Tensor,
    include_background: bool,
    to_onehot_y: bool,
    sigmoid: bool,
    softmax: bool,
) -> tuple[str, bool]:
    """The activation's name and ``include_background`` as they apply to ``input``, as in MONAI.

    With a single channel ``to_onehot_y``, ``softmax`` and ``include_background=False`` have no effect, and a
    warning says so.
    """
    if sigmoid and softmax:
        raise ValueError("sigmoid and softmax: expected at most one of them to be True")
    if isinstance(input, Tensor) and input.ndim > 1 and input.shape[1] == 1:
        if to_onehot_y:
            _warn_of_single_channel("to_onehot_y=True")
        if softmax:
            _warn_of_single_channel("softmax=True")
        if not include_background:
            _warn_of_single_channel("include_background=False")
        return "sigmoid" if sigmoid else "none", True
    _check_target_channels(input, target, to_onehot_y)
    return "sigmoid" if sigmoid else "softmax" if softmax else "none", include_background


def _warn_of_single_channel(argument: str) -> None:
    warnings.warn(f"single channel prediction, `{argument}` ignored.", stacklevel=5)


def resolve_ignore_index(
    target: Tensor, mask: Tensor | None, ignore_index: int | None
) -> tuple[Tensor | None, int | None]:
    """``mask`` and ``ignore_index`` of `prepare`, from what MONAI means by ``ignore_index``.

    For labels, [N, 1, *spatial], it is compared with them. For a one-hot target it is the class whose voxels
    are left out of every channel or, outside 0..C-1, a mark of voxels that belong to no class.
    """
    if ignore_index is not None and not isinstance(ignore_index, int):
        raise TypeError(f"ignore_index: expected an integer or None, got {ignore_index!r}")
    if ignore_index is None or target.ndim < 2 or target.shape[1] == 1:
        return mask, ignore_index
    if 0 <= ignore_index < target.shape[1]:
        valid = target[:, ignore_index : ignore_index + 1] != 1
    else:
        valid = ((target != 0) & (target != ignore_index)).any(dim=1, keepdim=True)
    return valid if mask is None else valid & (mask != 0), None


def resolve_axes(
    axes: Sequence[int | str] | int | str | None, axis_order: str, dimensions: int
) -> tuple[int, ...] | None:
    """Spatial axis numbers of ``axes``; None stays None (all axes).

    A name is the direction of the derivative: "sagittal" = left-right (x), "coronal" = front-back (y),
    "axial" = foot-head (z). ``axis_order`` says where those lie in a 3-D tensor: "xyz" as nibabel, TorchIO
    and MONAI load volumes, "zyx" as SimpleITK and nnU-Net do. Plain integers are taken as they are.
    """
    if axis_order not in AXIS_ORDERS:
        raise ValueError(f"axis_order: expected one of {tuple(AXIS_ORDERS)}, got {axis_order!r}")
    if axes is None:
        return None
    names = AXIS_ORDERS[axis_order]
    resolved = []
    if not isinstance(axes, (int, str, Sequence)):
        raise TypeError(f"axes: expected a number, a name or a sequence of these, got {axes!r}")
    for axis in (axes,) if isinstance(axes, (int, str)) else axes:
        if isinstance(axis, str):
            if axis not in names or dimensions != 3:
                raise ValueError(
                    f"axes: expected numbers, or in 3-D names of {sorted(names)}, "
                    f"got {axis!r} in {dimensions}-D"
                )
            axis = names.index(axis)
        resolved.append(axis)
    return tuple(resolved)


def _check_target_channels(input: Tensor, target: Tensor, to_onehot_y: bool) -> None:
    """A label map needs ``to_onehot_y``, and the other way round."""
    if not (isinstance(input, Tensor) and isinstance(target, Tensor)):
        return
    is_label_map = target.ndim > 1 and target.shape[1] == 1
    if is_label_map != to_onehot_y:
        expected = "a label map [N, 1, *spatial]" if to_onehot_y else f"shape {tuple(input.shape)}"
        raise ValueError(
            f"target: expected {expected} with to_onehot_y={to_onehot_y}, got {tuple(target.shape)}"
        )
