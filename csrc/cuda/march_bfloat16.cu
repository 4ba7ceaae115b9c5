// The marching kernel's instances for bfloat16 input.
#include "launch_march.cuh"

namespace geoloss::cuda {

template cudaError_t launch_march<BFloat16>(const LaunchParams&, bool, cudaStream_t);

}  // namespace geoloss::cuda
