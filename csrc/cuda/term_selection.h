// Which terms a call asks for, as the kernels read it: plain terms as a set of bits, those with parameters of
// their own as a list of requests, and the slot of each column of the sums.
#pragma once

#include <algorithm>
#include <bit>
#include <span>

#include "../geo_sums.h"
#include "../stencil.h"
#include "../terms.h"
#include "portable.cuh"

namespace geoloss::cuda {

// Plain terms have no parameters; their bits are numbered as their kinds, from 0 on.
constexpr int kPlainTerms = static_cast<int>(TermKind::kMapPrediction);
constexpr uint32_t kNoTerms = 0;
constexpr uint32_t kAnyTerms = (1u << kPlainTerms) - 1;  // of a kernel that looks up at run time which it is
constexpr int kMapTerms = 2;
constexpr int kMaxRequests = kMapTerms * kMaxMaps + kMaxStencilTerms;
constexpr int kMaxSlots = kPlainTerms + kMaxRequests;

constexpr bool is_plain(TermKind kind) { return static_cast<int>(kind) < kPlainTerms; }
constexpr uint32_t bit_of(TermKind kind) { return 1u << static_cast<int>(kind); }

// The sums of Dice and Tversky, of cross-entropy under a sigmoid, of Dice + cross-entropy under a sigmoid and
// under a softmax; those that start from log(1 - s), and from any logarithm.
constexpr uint32_t kDiceTerms =
    bit_of(TermKind::kPrediction) | bit_of(TermKind::kTarget) | bit_of(TermKind::kIntersection);
constexpr uint32_t kCrossEntropyTerms =
    bit_of(TermKind::kCrossEntropyForeground) | bit_of(TermKind::kCrossEntropyBackground);
constexpr uint32_t kSigmoidTraining = kDiceTerms | kCrossEntropyTerms;
constexpr uint32_t kSoftmaxTraining = kDiceTerms | bit_of(TermKind::kCrossEntropyForeground);
constexpr uint32_t kComplementTerms = bit_of(TermKind::kCrossEntropyBackground);
constexpr uint32_t kLogarithmTerms = kCrossEntropyTerms | bit_of(TermKind::kCrossEntropyUniform);

// A map term or a stencil with its parameters.
struct Request {
  TermKind kind;
  int32_t map;
  stencil::PerAxis<float>
      scale32;  // of first order 1/h, 0 on the axes that are left out; of second order 1/h²
  stencil::PerAxis<double> scale64;

  template <class T>
  GEOLOSS_INLINE const stencil::PerAxis<T>& scale() const {
    if constexpr (sizeof(T) == sizeof(double)) {
      return scale64;
    } else {
      return scale32;
    }
  }
};

constexpr int kEveryVoxel = -1;  // in place of a slot: the number of voxels, which nobody has to count

struct TermSelection {
  uint32_t plain;              // bit t: the plain term of kind t is summed
  int32_t plain_count;         // of its bits
  int32_t requests, stencils;  // how many, and how many of them are stencils
  int32_t columns;             // K
  Request request[kMaxRequests];
  int8_t slot_of_column[kMaxTerms];

  // Slots are what is summed: plain terms in the order of their numbers, then the requests.
  GEOLOSS_INLINE int slots() const { return plain_count + requests; }
};

GEOLOSS_DEVICE int plain_slot(uint32_t plain, int term) { return __popc(plain & ((1u << term) - 1)); }

// Calls function(term, number) for every plain term.
template <class Function>
GEOLOSS_DEVICE void for_each_plain_term(Function function) {
  for_each_term(terms::VoxelTerms{}, [&]<class Term>(Term term, auto) GEOLOSS_LAMBDA_INLINE {
    if constexpr (!reads_map(Term::kKind)) function(term, Number<static_cast<int>(Term::kKind)>{});
  });
}

namespace detail {

inline double scale_along(const Term& term, int axis) {
  if (is_first_order(term.kind)) return term.axis_chosen[axis] ? term.inverse_spacing[axis] : 0;
  return term.inverse_spacing[axis] * term.inverse_spacing[axis];
}

inline Request request_of(const Term& term) {
  Request request{};
  request.kind = term.kind;
  if (reads_map(term.kind)) {
    request.map = term.map;
  } else {
    request.scale64 = {scale_along(term, 2), scale_along(term, 1), scale_along(term, 0)};
  }
  const auto& [x, y, z] = request.scale64;
  request.scale32 = {static_cast<float>(x), static_cast<float>(y), static_cast<float>(z)};
  return request;
}

inline bool is_same(const Request& a, const Request& b) {
  return a.kind == b.kind && a.map == b.map && a.scale64.x == b.scale64.x && a.scale64.y == b.scale64.y &&
         a.scale64.z == b.scale64.z;
}

// The number of the request, which is new or one that another column made.
inline int number_of(const Request& request, TermSelection& selection) {
  Request* const end = selection.request + selection.requests;
  Request* const found =
      std::find_if(selection.request, end, [&](const Request& other) { return is_same(request, other); });
  if (found == end) {
    *end = request;
    ++selection.requests;
    selection.stencils += is_stencil(request.kind);
  }
  return static_cast<int>(found - selection.request);
}

}  // namespace detail

inline TermSelection select_terms(const GeoSumsParams& p) {
  TermSelection selection{};
  selection.columns = static_cast<int32_t>(p.term_count);
  const auto is_free = [&](TermKind kind) { return kind == TermKind::kCount && !p.masked(); };
  for (const Term& term : std::span(p.terms, p.term_count)) {
    if (is_plain(term.kind) && !is_free(term.kind)) selection.plain |= bit_of(term.kind);
  }
  selection.plain_count = std::popcount(selection.plain);
  for (int64_t k = 0; k < p.term_count; ++k) {
    const Term& term = p.terms[k];
    const uint32_t before = is_plain(term.kind) ? selection.plain & (bit_of(term.kind) - 1) : 0;
    selection.slot_of_column[k] = static_cast<int8_t>(
        is_free(term.kind) ? kEveryVoxel
        : is_plain(term.kind)
            ? std::popcount(before)
            : selection.plain_count + detail::number_of(detail::request_of(term), selection));
  }
  return selection;
}

}  // namespace geoloss::cuda
