// The CPU implementations of the operators that geo_loss is composed from.
#pragma once

#include "../operators.h"

namespace geoloss::cpu {

GeoSums geo_sums;
GeoSumsBackward geo_sums_backward;
GeoRatio geo_ratio;
GeoRatioBackward geo_ratio_backward;

}  // namespace geoloss::cpu
