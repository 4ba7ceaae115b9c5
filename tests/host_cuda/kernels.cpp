// All kernels of one arithmetic type, which -DGEOLOSS_ARITHMETIC=float or double chooses.
#include "kernels.h"

namespace geoloss::cuda {

GEOLOSS_KERNELS(, GEOLOSS_ARITHMETIC)

}  // namespace geoloss::cuda
