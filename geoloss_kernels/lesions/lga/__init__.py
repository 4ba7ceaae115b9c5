"""LST's lesion growth algorithm: lesions from T1 and FLAIR without training.

Schmidt et al., An automated tool for detection of FLAIR-hyperintense white-matter lesions in multiple
sclerosis, NeuroImage 59 (2012); the row LST of the paper's tables. Path: `tissue` (what each voxel is, from
T1 and a template's priors) -> `belief` (how far FLAIR is above its tissue) -> `growth` (seeds that grow).
"""

from geoloss_kernels.lesions.lga.growth import GrowthOptions, grow_lesions
from geoloss_kernels.lesions.lga.segmentation import MODALITIES, Preparation, grow, prepare, segment

__all__ = ["MODALITIES", "GrowthOptions", "Preparation", "grow", "grow_lesions", "prepare", "segment"]
