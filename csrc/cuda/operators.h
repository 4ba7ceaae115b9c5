// The CUDA implementations of the operators, and what they share.
#pragma once

#include "../operators.h"

namespace geoloss::cuda {

GeoSums geo_sums;
GeoSumsBackward geo_sums_backward;
GeoRatio geo_ratio;
GeoRatioBackward geo_ratio_backward;
GeoLoss geo_loss;
DistanceTransform distance_transform;
DistanceTransformWithIndices distance_transform_with_indices;

}  // namespace geoloss::cuda
