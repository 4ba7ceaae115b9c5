// The marching kernel's instances for float32 input.
#include "launch_march.cuh"

namespace geoloss::cuda {

template cudaError_t launch_march<float>(const LaunchParams&, bool, cudaStream_t);

}  // namespace geoloss::cuda
