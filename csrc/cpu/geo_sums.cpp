// The CPU implementation of geo_sums and geo_sums_backward: cuts the work into tiles, runs them on torch's
// threads and adds up their partial sums in a fixed order.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <memory>

#include "../checks.h"
#include "../terms.h"
#include "geo_sums_kernel.h"
#include "instruction_set.h"
#include "operators.h"
#include "workspace.h"

namespace geoloss::cpu {
namespace {

template <class T>
const GeoSumsKernel& chosen_kernel() {
  return GEOLOSS_OF_INSTRUCTION_SET(geo_sums_kernel<T>);
}

const GeoSumsKernel& kernel_for(const GeoSumsParams& params) {
  return params.input.dtype == DType::kFloat64 ? chosen_kernel<double>() : chosen_kernel<float>();
}

// The partial sums of a volume's tiles lie behind each other: [volumes, tiles per volume, channels, K].
template <class T>
void add_partial_sums(const GeoSumsParams& p, const Tiling& tiling, const double* partial, T* sums) {
  const int64_t tiles_per_volume = tiling.tiles() / tiling.volumes;
  const int64_t tile_size = tiling.channels * p.term_count;
  for (int64_t n = 0; n < p.N; ++n) {
    for (int64_t c = p.first_channel; c < p.C; ++c) {
      const int64_t volume = (n * p.C + c) / tiling.channels;
      const double* first =
          partial + volume * tiles_per_volume * tile_size + c % tiling.channels * p.term_count;
      for (int64_t k = 0; k < p.term_count; ++k) {
        double total = 0;
        for (int64_t tile = 0; tile < tiles_per_volume; ++tile) total += first[tile * tile_size + k];
        *sums++ = static_cast<T>(total);
      }
    }
  }
}

std::string cpu_instruction_set() { return name_of(instruction_set()); }

template <class... Terms>
void add_properties(TermList<Terms...>, TermKind kind, Integers& properties) {
  using terms::Variable;
  const auto add = [&]<class Term>(Term) {
    if (Term::kKind != kind) return;
    properties = {Term::kVariable == Variable::kLogPrediction, Term::kVariable == Variable::kLogComplement,
                  reads_map(kind), Term::kVariable != Variable::kNothing};
  };
  (add(Terms{}), ...);
}

Integers term_properties(int64_t kind) {
  constexpr int64_t kNamed = static_cast<int64_t>(TermKind::kProgram);
  STD_TORCH_CHECK(kind >= 0 && kind < kNamed, "kind: expected 0 to ", kNamed - 1, ", got ", kind);
  Integers properties{0, 0, 0, 1};  // of a stencil
  add_properties(terms::VoxelTerms{}, static_cast<TermKind>(kind), properties);
  return properties;
}

}  // namespace

Tensor geo_sums(const Tensor& input, const Tensor& target, const OptionalTensor& mask,
                const std::vector<Tensor>& maps, const Integers& terms, const Numbers& parameters,
                int64_t activation, const std::optional<int64_t>& ignore_index, bool include_background) {
  const GeoSumsParams params = params_of(
      {input, target, mask, maps, terms, parameters, activation, ignore_index, include_background}, true);
  const bool fp64 = params.input.dtype == DType::kFloat64;
  Tensor sums =
      torch::stable::new_zeros(input, {params.N, params.C - params.first_channel, params.term_count},
                               fp64 ? ScalarType::Double : ScalarType::Float);
  if (input.numel() == 0) return sums;

  const GeoSumsKernel& kernel = kernel_for(params);
  const Tiling tiling = kernel.tiling(params, false);
  const size_t workspace_bytes = kernel.workspace(params, tiling, false);
  const int64_t tile_size = tiling.channels * params.term_count;
  const std::unique_ptr<double[]> partial(new double[tiling.tiles() * tile_size]);
  torch::stable::parallel_for(0, tiling.tiles(), 1, [&](int64_t begin, int64_t end) {
    const Workspace workspace(workspace_bytes);
    for (int64_t tile = begin; tile < end; ++tile) {
      kernel.forward(params, tiling, tile, workspace.get(), partial.get() + tile * tile_size);
    }
  });
  if (fp64) {
    add_partial_sums(params, tiling, partial.get(), sums.mutable_data_ptr<double>());
  } else {
    add_partial_sums(params, tiling, partial.get(), sums.mutable_data_ptr<float>());
  }
  return sums;
}

Tensor geo_sums_backward(const Tensor& grad_sums, const Tensor& input, const Tensor& target,
                         const OptionalTensor& mask, const std::vector<Tensor>& maps, const Integers& terms,
                         const Numbers& parameters, int64_t activation,
                         const std::optional<int64_t>& ignore_index, bool include_background) {
  GeoSumsParams params = params_of(
      {input, target, mask, maps, terms, parameters, activation, ignore_index, include_background}, true);
  check_grad_sums(grad_sums, params);
  const Tensor dense_grad_sums = dense_of(grad_sums);
  Tensor grad_input = torch::stable::empty_like(input);
  if (input.numel() == 0) return grad_input;

  params.grad_sums = dense_grad_sums.const_data_ptr();
  params.grad_input = view_of(grad_input, "grad_input");
  const GeoSumsKernel& kernel = kernel_for(params);
  const Tiling tiling = kernel.tiling(params, true);
  const size_t workspace_bytes = kernel.workspace(params, tiling, true);
  torch::stable::parallel_for(0, tiling.tiles(), 1, [&](int64_t begin, int64_t end) {
    const Workspace workspace(workspace_bytes);
    for (int64_t tile = begin; tile < end; ++tile) kernel.backward(params, tiling, tile, workspace.get());
  });
  return grad_input;
}

}  // namespace geoloss::cpu

STABLE_TORCH_LIBRARY_IMPL(geoloss, CPU, m) {
  m.impl("geo_sums", TORCH_BOX(&geoloss::cpu::geo_sums));
  m.impl("geo_sums_backward", TORCH_BOX(&geoloss::cpu::geo_sums_backward));
}

STABLE_TORCH_LIBRARY_IMPL(geoloss, CompositeExplicitAutograd, m) {
  m.impl("cpu_instruction_set", TORCH_BOX(&geoloss::cpu::cpu_instruction_set));
  m.impl("term_properties", TORCH_BOX(&geoloss::cpu::term_properties));
}
