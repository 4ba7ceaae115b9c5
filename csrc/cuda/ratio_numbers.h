// The numbers of geo_ratio, checked and as the kernels take them.
#pragma once

#include <algorithm>

#include "../checks.h"
#include "launch_params.h"

namespace geoloss::cuda {

inline Ratio ratio_numbers(int64_t terms, const std::vector<double>& numerator,
                           const std::vector<double>& denominator) {
  Ratio ratio{};
  ratio.fractions = check_fractions(terms, numerator, denominator);
  STD_TORCH_CHECK(ratio.fractions <= kMaxFractions && terms <= kMaxTerms,
                  "numerator, denominator: expected at most ", kMaxFractions,
                  " rows of K + 1 numbers, K at most ", kMaxTerms, ", got ", ratio.fractions,
                  " rows with K = ", terms);
  std::copy(numerator.begin(), numerator.end(), ratio.numerator);
  std::copy(denominator.begin(), denominator.end(), ratio.denominator);
  return ratio;
}

}  // namespace geoloss::cuda
