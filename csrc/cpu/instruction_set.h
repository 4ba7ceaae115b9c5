// Which of a kernel's compiled variants this processor runs.
#pragma once

#include <type_traits>

namespace geoloss::cpu {

enum class InstructionSet { kBaseline, kAvx2, kAvx512 };

// The best one that the processor has, or the one that GEOLOSS_CPU=baseline|avx2|avx512 asks for.
InstructionSet instruction_set();

const char* name_of(InstructionSet set);

// Calls the function for `instruction_set()` out of those that there are, in the order of the sets.
template <class... Function>
decltype(auto) of_instruction_set(Function... functions) {
  using First = std::common_type_t<Function...>;
  const First variants[] = {functions...};
  return variants[static_cast<int>(instruction_set())]();
}

}  // namespace geoloss::cpu
