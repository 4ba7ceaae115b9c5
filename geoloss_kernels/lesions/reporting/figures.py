"""Pictures of a segmentation and of the geometric transforms, after Figs. 2 and 1 of the paper.

Volumes are [X, Y, Z] in RAS+ orientation. Axial slices are shown the radiological way: anterior up, the
patient's right on the left of the picture. Colours are told apart with any kind of colour vision (Okabe and
Ito). No screen is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray
from scipy import ndimage

from geoloss_kernels.lesions.files import replacing

FOUND, MISSED, FALSE_ALARM = "#56B4E9", "#F0E442", "#D55E00"
INK = "#222222"
DISTANCE = "Distance map"
DISTANCE_SHOWN = 15.0  # mm
SCALES = {
    "FOG sagittal": "left-right, 1/mm",
    "FOG coronal": "back-front, 1/mm",
    "FOG axial": "foot-head, 1/mm",
    "SOG": "1/mm²",
    DISTANCE: "mm, negative inside",
}

Mask = NDArray[np.bool_]
Image = NDArray[np.floating]
VoxelSize = tuple[float, float, float]


@dataclass(frozen=True)
class AxialView:
    """A square window of an axial slice.

    Attributes:
        slice: Index of the slice along the foot-head axis.
        centre: Middle of the window in voxels (left-right, back-front).
        half_width: Half the edge of the window in mm.
        voxel_size: Voxel size (left-right, back-front) in mm.
    """

    slice: int
    centre: tuple[float, float]
    half_width: float
    voxel_size: tuple[float, float]

    def draw(self, axes: Axes, volume: NDArray[np.generic], **options: Any) -> AxesImage:
        """Shows the slice of a volume [X, Y, Z] or RGBA [X, Y, Z, 4], in mm from the window's centre."""
        plane = volume[:, :, self.slice]
        left, right = self._edges(0, plane.shape[0])
        bottom, top = self._edges(1, plane.shape[1])
        shown = axes.imshow(
            np.swapaxes(plane, 0, 1), origin="lower", extent=(left, right, bottom, top), **options
        )
        # From the patient's right to the left.
        axes.set_xlim(self.half_width, -self.half_width)
        axes.set_ylim(-self.half_width, self.half_width)
        axes.set(xticks=[], yticks=[], facecolor="black")
        axes.spines[:].set_visible(False)
        return shown

    def outline_of(self, other: AxialView) -> Rectangle:
        """The outline of another window of the same slice, in the coordinates of this one."""
        left, bottom = (
            (inner - outer) * size - other.half_width
            for inner, outer, size in zip(other.centre, self.centre, self.voxel_size, strict=True)
        )
        edge = 2 * other.half_width
        return Rectangle((left, bottom), edge, edge, fill=False, edgecolor="white", linewidth=1)

    def _edges(self, axis: int, count: int) -> tuple[float, float]:
        """Both ends in mm of the slice along an axis of `count` voxels."""
        size, centre = self.voxel_size[axis], self.centre[axis]
        return (-0.5 - centre) * size, (count - 0.5 - centre) * size


def draw_segmentation(
    path: Path,
    images: Mapping[str, Image],
    reference: Mask,
    predictions: Mapping[str, Mask],
    voxel_size: VoxelSize,
    title: str,
) -> Path:
    """Draws the axial slice with most lesions: images, reference, predictions compared with the reference.

    The upper row shows the whole slice, the lower row the part of it with most lesions.

    Args:
        path: PNG file to write.
        images: Title and volume of each image, 0 outside the brain; masks are laid over the last one.
        reference: Reference mask.
        predictions: Title and mask of each prediction.
        voxel_size: Voxel size in mm.
        title: Title of the figure.

    Raises:
        ValueError: `reference` has no lesion, or the volumes differ in shape.
    """
    _check_shapes(reference, {**images, **predictions})
    ground = list(images.values())[-1]
    overlays = {"Reference": _paint({FOUND: reference})}
    overlays |= {name: compare(mask, reference) for name, mask in predictions.items()}
    panels = [*images, *overlays]
    zoom = _densest_view(reference, voxel_size)
    whole = _whole_view(ground > 0, voxel_size, zoom.slice)

    figure = Figure(figsize=(2.5 * len(panels), 6.1), facecolor="white")
    rows = figure.subplots(2, len(panels))
    for view, row in zip((whole, zoom), rows, strict=True):
        for axes, name in zip(row, panels, strict=True):
            _draw_image(axes, view, images.get(name, ground), overlays.get(name))
    for axes, name in zip(rows[0], panels, strict=True):
        axes.set_title(name, fontsize=13, color=INK)
        axes.add_patch(whole.outline_of(zoom))
    for position, side in ((0.03, "R"), (0.93, "L")):
        rows[0][0].text(position, 0.5, side, color="white", fontsize=12, transform=rows[0][0].transAxes)
    figure.suptitle(title, fontsize=14, color=INK, y=0.985)
    figure.legend(handles=_legend(), loc="lower center", ncols=3, frameon=False, fontsize=12)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.88, bottom=0.08, wspace=0.03, hspace=0.03)
    return save_figure(figure, path)


def draw_transforms(path: Path, mask: Mask, voxel_size: VoxelSize, title: str) -> Path:
    """Draws FOG (sagittal, coronal, axial), SOG and the distance map of a lesion mask, computed in 3-D.

    Args:
        path: PNG file to write.
        mask: Lesion mask.
        voxel_size: Voxel size in mm.
        title: Title of the figure.

    Raises:
        ValueError: `mask` has no lesion.
    """
    zoom = _densest_view(mask, voxel_size)
    transforms = geometric_transforms(mask, voxel_size)
    figure = Figure(figsize=(2.6 * (1 + len(transforms)), 3.9), facecolor="white")
    heights = {"height_ratios": (20, 1), "hspace": 0.05, "wspace": 0.08}
    panels, bars = figure.subplots(2, 1 + len(transforms), gridspec_kw=heights)
    zoom.draw(panels[0], mask, cmap="gray", interpolation="nearest")
    panels[0].set_title("Lesion mask", fontsize=13, color=INK)
    bars[0].set_visible(False)
    for axes, bar, (name, values) in zip(panels[1:], bars[1:], transforms.items(), strict=True):
        limit = DISTANCE_SHOWN if name == DISTANCE else float(np.abs(values).max())
        _draw_signed(axes, bar, zoom, values, limit)
        axes.set_title(name, fontsize=13, color=INK)
        bar.set_xlabel(SCALES[name], fontsize=10, color=INK)
    figure.suptitle(title, fontsize=14, color=INK, y=0.98)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.83, bottom=0.15)
    return save_figure(figure, path)


def compare(prediction: Mask, reference: Mask) -> NDArray[np.float32]:
    """RGBA volume [X, Y, Z, 4] that marks lesion voxels as found, missed or falsely predicted."""
    return _paint(
        {
            FOUND: prediction & reference,
            MISSED: reference & ~prediction,
            FALSE_ALARM: prediction & ~reference,
        }
    )


def geometric_transforms(mask: Mask, voxel_size: VoxelSize) -> dict[str, Image]:
    """Title and volume of FOG along each axis (1/mm), SOG (1/mm²) and the signed distance map (mm)."""
    from geoloss_kernels.distance import signed_distance_map
    from geoloss_kernels.reference.phi import gradient, laplacian

    volume = torch.from_numpy(mask)[None, None].float()
    sagittal, coronal, axial = gradient(volume, spacing=voxel_size)
    transforms = {
        "FOG sagittal": sagittal,
        "FOG coronal": coronal,
        "FOG axial": axial,
        "SOG": laplacian(volume, spacing=voxel_size),
        DISTANCE: signed_distance_map(volume, spacing=voxel_size),
    }
    return {name: values[0, 0].numpy() for name, values in transforms.items()}


def _densest_view(mask: Mask, voxel_size: VoxelSize, half_width: float = 30.0) -> AxialView:
    """The window around the densest lesions of the axial slice with most lesion voxels."""
    if not mask.any():
        raise ValueError("mask: expected at least one lesion voxel, got none")
    index = int(mask.sum((0, 1)).argmax())
    # A Gaussian rather than the window itself: what is counted shall lie in the middle.
    widths = [half_width / 2 / size for size in voxel_size[:2]]
    density = ndimage.gaussian_filter(mask[:, :, index].astype(np.float64), widths, mode="constant")
    x, y = np.unravel_index(density.argmax(), density.shape)
    return AxialView(index, (float(x), float(y)), half_width, voxel_size[:2])


def _whole_view(brain: Mask, voxel_size: VoxelSize, index: int) -> AxialView:
    """The window that holds the brain in a slice, with a margin of 4 mm."""
    inside = np.nonzero(brain[:, :, index])
    x, y = ((float(positions.min()) + float(positions.max())) / 2 for positions in inside)
    extent = max(float(np.ptp(positions)) * size for positions, size in zip(inside, voxel_size, strict=False))
    return AxialView(index, (x, y), extent / 2 + 4, voxel_size[:2])


def _draw_image(axes: Axes, view: AxialView, image: Image, overlay: NDArray[np.float32] | None) -> None:
    limit = float(np.percentile(image[image > 0], 99.9))
    view.draw(axes, image, cmap="gray", vmin=0, vmax=limit, interpolation="bilinear")
    if overlay is not None:
        view.draw(axes, overlay, interpolation="nearest")


def _draw_signed(axes: Axes, bar: Axes, view: AxialView, values: Image, limit: float) -> None:
    """Draws values from -limit to +limit, and their scale as a horizontal bar."""
    shown = view.draw(axes, values, cmap="PuOr", vmin=-limit, vmax=limit, interpolation="nearest")
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    scale = figure.colorbar(shown, cax=bar, orientation="horizontal")
    scale.set_ticks([-limit, 0, limit], labels=[f"{-limit:.2g}", "0", f"{limit:.2g}"])
    bar.tick_params(labelsize=10, colors=INK, length=2)
    # The outer labels stay within their panel.
    first, _, last = bar.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")


def _paint(masks: Mapping[str, Mask]) -> NDArray[np.float32]:
    shape = next(iter(masks.values())).shape
    overlay = np.zeros((*shape, 4), dtype=np.float32)
    for colour, mask in masks.items():
        overlay[mask] = to_rgba(colour, 0.85)
    return overlay


def _legend() -> list[Patch]:
    names = {FOUND: "lesion of the reference, found", MISSED: "missed", FALSE_ALARM: "false alarm"}
    return [Patch(facecolor=colour, edgecolor=INK, label=name) for colour, name in names.items()]


def _check_shapes(reference: Mask, volumes: Mapping[str, NDArray[np.generic]]) -> None:
    for name, volume in volumes.items():
        if volume.shape != reference.shape:
            raise ValueError(f"{name}: expected the reference's shape {reference.shape}, got {volume.shape}")


def save_figure(figure: Figure, path: Path) -> Path:
    """Writes a figure as PNG, whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
    return path
