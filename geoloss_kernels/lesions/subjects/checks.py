"""What can be known of a subject's files before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geoloss_kernels.lesions.imaging.grid import require_same_grid
from geoloss_kernels.lesions.imaging.reading import load_mask, read_grid
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
