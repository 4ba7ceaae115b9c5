"""How hard the lesions of made-up subjects are to find and to outline."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Difficulty:
    """Intensities are those of the images before the coil's bias: white matter has 0.86, 0.42 and 0.50.

    By default the median voxel of a lesion has 0.8, 1.5 and 1.3 times the intensity of white matter in T1, T2
    and FLAIR; in two patients of Lesjak et al. 2018 it has 0.8 and 0.7, 1.6 and 2.0, 1.4 and 1.4. Mimics and
    the errors of the reference are set for a U-Net trained with Dice to come near the DSC of Zhang et al.

    Attributes:
        lesion_t1: Intensity of the severest lesion in T1.
        lesion_t2: The same in T2.
        lesion_flair: The same in FLAIR.
        mimic_flair: Intensity in FLAIR of structures that look like lesions and are none: septum, caps and
            rim of the ventricles, choroid plexus, spots of the cortex, haze of the white matter.
        mimic_t2: The same in T2; in T1 they look like the tissue that they are.
        severity: Lowest and highest severity of a lesion; at 0 it would be healthy tissue.
        reference_tremor: Standard deviation in voxels by which the reference's outline wavers.
        reference_bias: Largest distance in voxels by which a whole reference is too wide or too narrow.
        blur: Standard deviation in mm of the scanner's point spread.
        noise: Standard deviation of the noise in each channel of the coil.
    """

    lesion_t1: float = 0.50
    lesion_t2: float = 0.90
    lesion_flair: float = 0.84
    mimic_flair: float = 0.76
    mimic_t2: float = 0.70
    severity: tuple[float, float] = (0.4, 1.0)
    reference_tremor: float = 0.35
    reference_bias: float = 0.25
    blur: float = 0.6
    noise: float = 0.03
