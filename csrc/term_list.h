// A list of terms as a type.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "macros.h"

namespace geoloss {

template <class... Terms>
struct TermList {
  static constexpr int kCount = sizeof...(Terms);
};

template <int kNumber>
using Number = std::integral_constant<int, kNumber>;

// Calls function(term, number) for every term of the list, its number in the list being a constant.
template <int kFirst = 0, class Function, class... Terms>
GEOLOSS_DEVICE void for_each_term(TermList<Terms...>, Function function) {
  [&]<int... kIndex>(std::integer_sequence<int, kIndex...>) GEOLOSS_LAMBDA_INLINE {
    (function(Terms{}, Number<kFirst + kIndex>{}), ...);
  }(std::make_integer_sequence<int, sizeof...(Terms)>{});
}

}  // namespace geoloss
