"""What can be known of a subject's files before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from geoloss_kernels.lesions.errors import InputError
from geoloss_kernels.lesions.imaging.grid import require_same_grid
from geoloss_kernels.lesions.imaging.reading import load_image, load_mask, read_grid
from geoloss_kernels.lesions.subjects.subject import Subject


def check_subject(subject: Subject, modalities: Sequence[str], lesion_label: int | None = None) -> int | None:
    """Check shapes and affines from the headers, and the values of the mask.

    Returns:
        Lesion voxels of the mask; None without a mask.

    Raises:
        InputError: names the file at fault.
    """
    first = subject.images[modalities[0]]
    reference = read_grid(first)
    for modality in modalities[1:]:
        path = subject.images[modality]
        require_same_grid(read_grid(path), path, reference, first)
    if subject.mask is None:
        return None
    return int(load_mask(subject.mask, lesion_label, like=(reference, first)).sum(dtype=np.int64))


def problems_of(
    subject: Subject, modalities: Sequence[str], lesion_label: int | None = None
) -> Iterator[InputError]:
    """Everything that is wrong with a subject's files, each of which is read whole."""
    reference = None
    for modality in modalities:
        path = subject.images[modality]
        try:
            values, grid = load_image(path)
            reference = reference or (grid, path)
            require_same_grid(grid, path, *reference)
            if not values.any():
                yield InputError(f"{path}: expected an image, got zeros only")
        except InputError as error:
            yield error
    if subject.mask is not None:
        try:
            load_mask(subject.mask, lesion_label, like=reference)
        except InputError as error:
            yield error
