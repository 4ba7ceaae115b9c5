// The passes in float32 arithmetic: the kernel for every option, and the second stage.
#include "launch.cuh"

namespace geoloss::cuda {

template cudaError_t launch_forward<float>(LaunchParams, void*, float*, cudaStream_t);
template cudaError_t launch_loss<float>(LaunchParams, const RatioArguments&, void*, float*, float*,
                                        cudaStream_t);
template cudaError_t launch_backward<float>(const LaunchParams&, cudaStream_t);

}  // namespace geoloss::cuda
