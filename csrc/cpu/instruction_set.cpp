#include "instruction_set.h"

#include <torch/headeronly/util/Exception.h>

#include <cstdlib>
#include <cstring>

namespace geoloss::cpu {
namespace {

bool supported(InstructionSet set) {
  switch (set) {
#if defined(__x86_64__)
    case InstructionSet::kAvx512:
      return supported(InstructionSet::kAvx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
    case InstructionSet::kAvx2: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    default: return set == InstructionSet::kBaseline;
  }
}

InstructionSet choose() {
  const char* asked = std::getenv("GEOLOSS_CPU");
  for (const auto set : {InstructionSet::kAvx512, InstructionSet::kAvx2, InstructionSet::kBaseline}) {
    if (supported(set) && (!asked || !*asked || !std::strcmp(asked, name_of(set)))) return set;
  }
  STD_TORCH_CHECK(false,
                  "GEOLOSS_CPU: expected baseline, avx2 or avx512, as far as this processor has them, got '",
                  asked, "'");
  return InstructionSet::kBaseline;
}

}  // namespace

InstructionSet instruction_set() {
  static const InstructionSet chosen = choose();
  return chosen;
}

const char* name_of(InstructionSet set) {
  switch (set) {
    case InstructionSet::kAvx512: return "avx512";
    case InstructionSet::kAvx2: return "avx2";
    default: return "baseline";
  }
}

}  // namespace geoloss::cpu
