// The CPU implementation of geo_loss and geo_loss_backward.
#include "../geo_loss.h"

#include <torch/csrc/stable/library.h>

#include "operators.h"

namespace geoloss::cpu {
namespace {

constexpr auto& loss = geoloss::geo_loss<geo_sums, geo_ratio>;
constexpr auto& loss_backward = geoloss::geo_loss_backward<geo_sums_backward, geo_ratio_backward>;

}  // namespace
}  // namespace geoloss::cpu

STABLE_TORCH_LIBRARY_IMPL(geoloss, CPU, m) {
  m.impl("geo_loss", TORCH_BOX(&geoloss::cpu::loss));
  m.impl("geo_loss_backward", TORCH_BOX(&geoloss::cpu::loss_backward));
}
