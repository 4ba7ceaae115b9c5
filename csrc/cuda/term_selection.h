// Which terms a call asks for, as the kernels read it: a set of bits, and the columns of the sums they fill.
#pragma once

#include <cstring>
#include <type_traits>

#include "../geo_sums.h"
#include "../stencil.h"
#include "../terms.h"
#include "portable.cuh"

namespace geoloss::cuda {

// Terms are numbered in the order of their lists, the voxel-wise ones first.
constexpr int kVoxelTerms = terms::VoxelTerms::kCount;
constexpr int kTermCount = kVoxelTerms + stencil::StencilTerms::kCount;
constexpr uint32_t kAllVoxelTerms = (1u << kVoxelTerms) - 1;
constexpr uint32_t kNoTerms = 0;
constexpr uint32_t kAnyTerms = kAllVoxelTerms;  // of a kernel that looks up at run time which are wanted

template <class Term, class... Terms>
constexpr uint32_t bit_in(TermList<Terms...>) {
  int number = 0;
  uint32_t bit = 0;
  ((bit |= std::is_same_v<Term, Terms> ? 1u << number : 0, ++number), ...);
  return bit;
}

template <class... Terms>
constexpr uint32_t bits_of() {
  return (bit_in<Terms>(terms::VoxelTerms{}) | ...);
}

// The sums of Dice and Tversky.
constexpr uint32_t kDiceTerms = bits_of<terms::Prediction, terms::Target, terms::Intersection>();

template <class Stencil, class... Terms>
constexpr int number_in(TermList<Terms...>) {
  int number = kVoxelTerms, found = -1;
  ((found = std::is_base_of_v<Stencil, Terms> ? number : found, ++number), ...);
  return found;
}

// The number of the term that is this stencil.
template <class Stencil>
constexpr int number_of_stencil() {
  return number_in<Stencil>(stencil::StencilTerms{});
}

constexpr int kEveryVoxel = -1;  // in place of a term: the number of voxels, which nobody has to count

struct TermSelection {
  uint32_t wanted;  // bit t: term t is summed
  int32_t columns;  // K
  int8_t term_of_column[kMaxTerms];

  uint32_t voxel_terms() const { return wanted & kAllVoxelTerms; }
  uint32_t stencil_terms() const { return wanted & ~kAllVoxelTerms; }
};

template <class Function>
GEOLOSS_DEVICE void for_each_voxel_term(Function function) {
  for_each_term(terms::VoxelTerms{}, function);
}

template <class Function>
GEOLOSS_DEVICE void for_each_stencil_term(Function function) {
  for_each_term<kVoxelTerms>(stencil::StencilTerms{}, function);
}

// Wanted terms have slots, in the order of their numbers.
GEOLOSS_DEVICE int slot_of(uint32_t wanted, int term) { return __popc(wanted & ((1u << term) - 1)); }

inline int slot_count(const TermSelection& terms) { return __builtin_popcount(terms.wanted); }

namespace detail {

struct Named {
  const char* name;
  bool from_logit;
};

template <class... Terms>
void list_voxel_terms(TermList<Terms...>, Named* names) {
  ((*names++ = {Terms::kName, Terms::kFromLogit}), ...);
}

template <class... Terms>
void list_stencil_terms(TermList<Terms...>, Named* names) {
  ((*names++ = {Terms::kName, false}), ...);
}

}  // namespace detail

// The number of a term; of two with one name, the one that reads the logit where there is one.
inline int term_number(const char* name, bool logit) {
  detail::Named names[kTermCount];
  detail::list_voxel_terms(terms::VoxelTerms{}, names);
  detail::list_stencil_terms(stencil::StencilTerms{}, names + kVoxelTerms);
  int found = -1;
  for (int term = 0; term < kTermCount; ++term) {
    if (!std::strcmp(names[term].name, name) && (found < 0 || (logit && names[term].from_logit)))
      found = term;
  }
  return found;
}

GEOLOSS_INLINE bool is_masked(const GeoSumsParams& p) { return p.mask.data || p.has_ignore_index; }

inline TermSelection select_terms(const GeoSumsParams& p) {
  TermSelection selection{};
  selection.columns = static_cast<int32_t>(p.term_count);
  for (int64_t k = 0; k < p.term_count; ++k) {
    int term = term_number(p.terms[k], p.activation == Activation::kSigmoid);
    if (term == term_number(terms::Count::kName, false) && !is_masked(p)) term = kEveryVoxel;
    if (term != kEveryVoxel) selection.wanted |= 1u << term;
    selection.term_of_column[k] = static_cast<int8_t>(term);
  }
  return selection;
}

}  // namespace geoloss::cuda
