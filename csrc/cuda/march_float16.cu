// The marching kernel's instances for float16 input.
#include "launch_march.cuh"

namespace geoloss::cuda {

template cudaError_t launch_march<Half>(const LaunchParams&, bool, cudaStream_t);

}  // namespace geoloss::cuda
