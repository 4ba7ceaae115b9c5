"""Distance transforms of masks, for the boundary and the Hausdorff loss, and the lesions of a batch."""

from geoloss_kernels.distance.dictionary import DistanceMapd
from geoloss_kernels.distance.lesions import connected_components, voronoi
from geoloss_kernels.distance.maps import distance_map, distance_transform_edt, signed_distance_map

__all__ = [
    "distance_transform_edt",
    "signed_distance_map",
    "distance_map",
    "DistanceMapd",
    "connected_components",
    "voronoi",
]
