// The passes in float64 arithmetic: the kernel for every option, and the second stage.
#include "launch.cuh"

namespace geoloss::cuda {

template cudaError_t launch_forward<double>(LaunchParams, void*, double*, cudaStream_t);
template cudaError_t launch_loss<double>(LaunchParams, const RatioArguments&, void*, double*, double*,
                                         cudaStream_t);
template cudaError_t launch_backward<double>(const LaunchParams&, cudaStream_t);

}  // namespace geoloss::cuda
