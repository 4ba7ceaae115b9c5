// Which of a kernel's compiled variants this processor runs.
#pragma once

namespace geoloss::cpu {

enum class InstructionSet { kBaseline, kAvx2, kAvx512 };

// The best one that the processor has, or the one that GEOLOSS_CPU=baseline|avx2|avx512 asks for.
InstructionSet instruction_set();

const char* name_of(InstructionSet set);

// Calls the one of the functions, in the order of the sets, that is for `instruction_set()`.
template <class Function, class... Others>
decltype(auto) of_instruction_set(Function baseline, Others... others) {
  const Function variants[] = {baseline, others...};
  return variants[static_cast<int>(instruction_set())]();
}

// Calls the variant of `function` for `instruction_set()`; every set that is compiled has one in its
// namespace.
#if defined(__x86_64__)
#define GEOLOSS_OF_INSTRUCTION_SET(function) \
  of_instruction_set(baseline::function, avx2::function, avx512::function)
#else
#define GEOLOSS_OF_INSTRUCTION_SET(function) of_instruction_set(baseline::function)
#endif

}  // namespace geoloss::cpu
