"""Lesion growth: unsupervised segmentation of lesions that are bright on FLAIR.

Needs the packages of ``pip install 'geoloss-kernels[lga]'``.
"""

from geoloss_kernels.lga.segmentation import Preparation, grow, lesion_growth, prepare, segment

__all__ = ["Preparation", "grow", "lesion_growth", "prepare", "segment"]
