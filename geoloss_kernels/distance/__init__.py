"""Distance maps of masks, for the boundary and the Hausdorff loss. Needs numpy and scipy."""

from geoloss_kernels.distance.maps import distance_map, signed_distance_map

__all__ = ["distance_map", "signed_distance_map"]
