// geo_sums on the CPU: activation, stencils and reduction in one pass over input and target.
//
// The volume is cut into tiles of rows (y) and planes (z). In a tile, blocks of a few rows flow through a
// short pipeline that marches along z, and each stage works on a block while it is in cache:
//
//   forward    produce(z, block) ──▶ sum(z - ahead, block)
//   backward   produce(z, block) ──▶ flux(z - ahead, block) ──▶ gather(z - ahead - back, block)
//
// `produce` reads input and target and applies the activation, `sum` evaluates the terms; `flux` evaluates
// Ψ'(φe) and `gather` applies the adjoint stencil to it, so that each element of the gradient is written
// once. A stencil reaches `back` planes and rows behind a voxel and `ahead` of it (0 and 1 for forward
// differences); rows wait in rings of that many planes plus one. Where the adjoint looks only back, flux and
// gather are one step, `sweep`: each row hands its flux on to the next row and to the next plane. Terms that
// are programs bring stencils of their own (see program_stage.h), of all 26 neighbours.
//
// Forward differences form the error in registers where prediction and target are in place (see fields.h); of
// probabilities nothing is produced then.
//
// Memory is asked for ahead of time, by the stages that compute much, so that it arrives while they do.
//
// Forward moves input + target, backward input + target + gradient; the halo at a tile's rim is read twice,
// the second time mostly from cache.
//
// This file is compiled once per instruction set, into the namespace GEOLOSS_ISA.
#include "geo_sums_kernel.h"

#include "fields.h"
#include "gradient_stage.h"
#include "produce.h"
#include "program_stage.h"
#include "softmax_labels.h"

namespace geoloss::GEOLOSS_ISA {
namespace {

using cpu::Tiling;

constexpr int64_t kTileBytes = 512 * 1024;       // of the planes in work: within a core's second-level cache
constexpr int64_t kWorkspaceBytes = 320 * 1024;  // of a thread
constexpr int64_t kMinTileRows = 8;
constexpr int64_t kMinTilePlanes = 32;
constexpr int64_t kMinTileElements = 8192;  // of all channels, where no halo is read
constexpr int64_t kMinTiles = 16;           // work for that many threads, where the volumes are large enough

template <class T>
class Tile {
 public:
  using V = Lanes<T>;

  Tile(const GeoSumsParams& params, const Tiling& tiling, bool backward, int64_t index, void* workspace)
      : f_(params, tiling, backward, index),
        p_(f_.p),
        plan_(f_.plan),
        producer_(f_),
        gradient_(f_),
        programs_(f_),
        labels_(f_, gradient_),
        by_labels_(SoftmaxLabels<T>::applies(params)) {
    lay_out(static_cast<T*>(workspace));
  }

  // partial_sums: [channels, K]
  void forward(double* partial_sums) {
    for (int64_t i = 0; i < f_.tiling.channels * p_.term_count; ++i) partial_sums[i] = 0;
    if (plan_.counts_all) count_voxels(partial_sums);
    by_labels_ ? sum_by_labels(partial_sums) : sum_through_pipeline(partial_sums);
  }

  void backward() {
    gradient_.set_coefficients();
    if (by_labels_) return write_by_labels();
    programs_.fill_constants();
    clear_carry();
    for (int64_t z = max(0, f_.tile.z_begin - f_.halo_before); z < f_.tile.z_end + plan_.reach(); ++z) {
      clear_carry_along_y();
      march(
          z, [&](const Block& b) { produce(b); },
          [&](const Block& b) { compute_flux(flux_box().part_of(b.at(z - plan_.ahead))); },
          [&](const Block& b) {
            const Block behind = b.at(z - plan_.reach());
            sweep_halo(halo_of_plane(behind.z).part_of(behind));
            write_gradient(f_.tile.part_of(behind));
          });
    }
  }

  int64_t workspace_elements() const { return workspace_elements_; }

 private:
  // The stages of the pipeline at plane z: one after the other on each block while it is in cache, or, where
  // the next row of the next plane is read, each on all blocks.
  template <class... Stages>
  void march(int64_t z, Stages... stages) {
    const auto on_blocks = [&](auto stage) {
      for_each_block([&](int64_t y_begin, int64_t y_end) { stage(Block{z, y_begin, y_end}); });
    };
    if (plan_.diagonal) {
      (on_blocks(stages), ...);
    } else {
      on_blocks([&](const Block& b) { (stages(b), ...); });
    }
  }

  void produce(const Block& b) {
    if (b.z < p_.D) producer_.produce(b);
  }

  // The rows beside a block are as far away as for all of its rows: the volume's first and last row are
  // blocks of their own. In a buffer of block_rows() rows a block is contiguous.
  template <class Function>
  void for_each_block(Function function) const {
    const int64_t last = f_.rows_end(), rows = f_.block_rows();
    for (int64_t y = f_.rows_begin(), end; y < last; y = end) {
      end = min(last, (y | (rows - 1)) + 1);
      if (plan_.reach() > 0 && y == 0) end = 1;
      if (plan_.reach() > 0 && y < p_.H - 1) end = min(end, p_.H - 1);
      function(y, end);
    }
  }

  // The rows just before the tile hand their flux on to its first plane and to the first row of each plane.
  Box halo_of_plane(int64_t z) const {
    const Box& tile = f_.tile;
    const int64_t y_end = z < tile.z_begin ? tile.y_end : tile.y_begin;
    return {max(0, tile.z_begin - plan_.ahead), tile.z_end, max(0, tile.y_begin - plan_.ahead), y_end};
  }

  // A voxel's flux reaches the gradients up to `ahead` after it and `back` before it.
  Box flux_box() const {
    const Box& tile = f_.tile;
    return {max(0, tile.z_begin - plan_.ahead), min(p_.D, tile.z_end + plan_.back),
            max(0, tile.y_begin - plan_.ahead), min(p_.H, tile.y_end + plan_.back)};
  }

  // The sums of one plane are added up in T, by lanes, and those of planes in fp64.
  template <class SumPlane>
  void sum_planes(int64_t z_begin, int64_t z_end, double* partial_sums, SumPlane sum_plane) {
    const int64_t count = f_.tiling.channels * p_.term_count;
    for (int64_t z = z_begin; z < z_end; ++z) {
      for (int64_t i = 0; i < count; ++i) lane_sums_[i] = V(T(0));
      sum_plane(z);
      for (int64_t i = 0; i < count; ++i) partial_sums[i] += lane_sums_[i].sum();
    }
  }

  void sum_through_pipeline(double* partial_sums) {
    programs_.fill_constants();
    const int64_t first = max(0, f_.tile.z_begin - f_.halo_before);
    sum_planes(first, f_.tile.z_end + plan_.ahead, partial_sums, [&](int64_t z) {
      march(
          z, [&](const Block& b) { produce(b); },
          [&](const Block& b) {
            sum_voxel_terms(f_.tile.part_of(b));
            sum_other_terms(f_.tile.part_of(b.at(z - plan_.ahead)));
          });
    });
  }

  void sum_by_labels(double* partial_sums) {
    sum_planes(f_.tile.z_begin, f_.tile.z_end, partial_sums, [&](int64_t z) {
      for_each_strip(z, [&](const Block& strip) { labels_.add_sums(strip, lane_sums_); });
    });
  }

  void write_by_labels() {
    for (int64_t z = f_.tile.z_begin; z < f_.tile.z_end; ++z) {
      for_each_strip(z, [&](const Block& strip) { labels_.write_gradient(strip); });
    }
  }

  template <class Function>
  void for_each_strip(int64_t z, Function function) const {
    const int64_t rows = SoftmaxLabels<T>::strip_rows(p_);
    for (int64_t y = f_.tile.y_begin; y < f_.tile.y_end; y += rows)
      function(Block{z, y, min(y + rows, f_.tile.y_end)});
  }

  void lay_out(T* workspace) { by_labels_ ? lay_out_strip(workspace) : lay_out_pipeline(workspace); }

  void lay_out_strip(T* workspace) {
    labels_.take_workspace(workspace);
    T* next = workspace + SoftmaxLabels<T>::workspace_elements(p_);
    if (f_.backward) gradient_.take_coefficients(next);
    take_lane_sums(next);
    workspace_elements_ = next - workspace;
  }

  void take_lane_sums(T*& next) {
    lane_sums_ = reinterpret_cast<V*>(next);
    next += f_.tiling.channels * p_.term_count * V::kCount;
  }

  void lay_out_pipeline(T* workspace) {
    T* next = f_.take_buffers(workspace);
    for (int i = 0; f_.backward && i < plan_.stencil_count; ++i) {
      const StencilTerm<T>& term = *plan_.stencil[i].term;
      for (int f = 0; f < term.flux_fields; ++f) flux_[i][f] = f_.take_ring(next, plan_.ring_planes());
      if (!term.sweep) continue;
      carry_along_z_[i] = f_.take_ring(next, 1);
      carry_along_y_[i] = f_.take_row(next);
    }
    programs_.take_buffers(next);
    if (f_.backward) gradient_.take_buffers(next);
    f_.channel_pitch = next - workspace;
    next = workspace + f_.channel_pitch * f_.tiling.channels;
    producer_.take_buffers(next);
    programs_.take_shared_buffers(next);
    if (f_.backward) gradient_.take_coefficients(next);
    take_lane_sums(next);
    workspace_elements_ = next - workspace;
  }

  // ---- sum ----

  void count_voxels(double* partial_sums) const {
    const Box& tile = f_.tile;
    const int64_t voxels = (tile.z_end - tile.z_begin) * (tile.y_end - tile.y_begin) * p_.W;
    for (int64_t c = 0; c < f_.tiling.channels; ++c) {
      partial_sums[c * p_.term_count + plan_.count_column] = static_cast<double>(voxels);
    }
  }

  template <class Function>
  void for_each_summed_channel(Function function) {
    for (int64_t c = max(0, p_.first_channel - f_.c); c < f_.tiling.channels; ++c) function(c);
  }

  void sum_voxel_terms(const Block& b) {
    if (plan_.voxel_count == 0 || b.empty()) return;
    for_each_summed_channel([&](int64_t c) {
      for (int i = 0; i < plan_.voxel_count; ++i) {
        const auto& [set, columns, map] = plan_.voxel[i];
        set->sum(voxel_rows(f_, c, b, map), f_.extent(b), lane_sums_ + c * p_.term_count, columns);
      }
    });
  }

  void sum_other_terms(const Block& b) {
    if ((plan_.stencil_count == 0 && plan_.program_count == 0) || b.empty()) return;
    for_each_summed_channel([&](int64_t c) {
      programs_.sum(c, b, lane_sums_ + c * p_.term_count);
      for (int i = 0; i < plan_.stencil_count; ++i) {
        const StencilTerm<T>& term = *plan_.stencil[i].term;
        const auto sum = f_.error_in_place() ? term.sum_in_place : term.sum;
        const int64_t column = c * p_.term_count + plan_.stencil[i].column;
        sum(stencil_input(i, c, b), f_.extent(b), &lane_sums_[column]);
      }
    });
  }

  StencilInput<T> stencil_input(int i, int64_t c, const Block& b) const {
    StencilInput<T> in;
    if (plan_.on_fields || f_.error_in_place()) {
      in.prediction = f_.neighbours(kPrediction, c, b);
      in.target = f_.neighbours(kTarget, c, b);
    }
    if (f_.has(kError)) in.error = f_.neighbours(kError, c, b);
    if (plan_.masked) in.valid = f_.neighbours(kValid, c, b);
    in.inverse_spacing = plan_.stencil[i].inverse_spacing;
    in.inverse_spacing_squared = plan_.stencil[i].inverse_spacing_squared;
    return in;
  }

  // ---- flux and gather ----

  void clear_carry() {
    for (int i = 0; i < plan_.stencil_count; ++i) {
      if (!plan_.stencil[i].term->sweep) continue;
      const Block all{0, f_.rows_begin(), f_.rows_end()};
      for (int64_t c = 0; c < f_.tiling.channels; ++c) clear(carry(i, c, all).along_z, f_.extent(all));
    }
  }

  void clear_carry_along_y() {
    for (int i = 0; i < plan_.stencil_count; ++i) {
      if (!plan_.stencil[i].term->sweep) continue;
      const Block one{0, f_.rows_begin(), f_.rows_begin() + 1};
      for (int64_t c = 0; c < f_.tiling.channels; ++c)
        clear(Rows<T>{carry(i, c, one).along_y, 0}, f_.extent(one));
    }
  }

  FluxCarry<T> carry(int i, int64_t c, const Block& b) const {
    return {carry_along_y_[i] + c * f_.channel_pitch, f_.rows_of(carry_along_z_[i], c, b)};
  }

  Sweep<T> sweep_of(int i) const {
    const StencilTerm<T>& term = *plan_.stencil[i].term;
    return f_.error_in_place() ? term.sweep_in_place : term.sweep;
  }

  T weight(int i, int64_t c) const { return gradient_.weights(c)[plan_.stencil[i].column]; }

  void sweep_halo(const Block& b) {
    if (b.empty()) return;
    for_each_summed_channel([&](int64_t c) {
      GradientRows<T> discarded{gradient_.scratch(c, b), f_.extent(b)};
      for (int i = 0; i < plan_.stencil_count; ++i) {
        if (const auto sweep = sweep_of(i))
          sweep(stencil_input(i, c, b), carry(i, c, b), discarded, weight(i, c));
      }
    });
  }

  void compute_flux(const Block& b) {
    if (b.empty()) return;
    for_each_summed_channel([&](int64_t c) {
      programs_.compute_slopes(true, c, b);
      for (int i = 0; i < plan_.stencil_count; ++i) {
        const StencilTerm<T>& term = *plan_.stencil[i].term;
        if (!term.flux) continue;
        Rows<T> rows[kMaxFluxFields] = {};
        for (int f = 0; f < term.flux_fields; ++f) rows[f] = f_.rows_of(flux_[i][f], c, b);
        term.flux(stencil_input(i, c, b), f_.extent(b), rows);
        for (int f = 0; f < term.flux_fields; ++f) extend(rows[f], f_.extent(b), T(term.border));
      }
    });
  }

  StencilFlux<T> stencil_flux(int i, int64_t c, const Block& b) const {
    const T border = T(plan_.stencil[i].term->border);
    StencilFlux<T> flux;
    for (int f = 0; f < plan_.stencil[i].term->flux_fields; ++f)
      flux.field[f] = f_.neighbours_in_ring(flux_[i][f], c, b);
    flux.y_previous_factor = b.y_begin == 0 ? border : T(1);
    flux.y_next_factor = b.y_begin == p_.H - 1 ? border : T(1);
    flux.z_previous_factor = b.z == 0 ? border : T(1);
    flux.z_next_factor = b.z == p_.D - 1 ? border : T(1);
    flux.inverse_spacing_squared = plan_.stencil[i].inverse_spacing_squared;
    return flux;
  }

  void write_gradient(const Block& b) {
    if (b.empty()) return;
    for_each_summed_channel([&](int64_t c) { programs_.compute_slopes(false, c, b); });
    const auto add_rows = [&](int64_t c, const Block& block, GradientRows<T>& rows) {
      add_stencil_slopes(c, block, rows);
      programs_.add_slopes(c, block, gradient_.weights(c), rows);
    };
    gradient_.write(b, add_rows, [&](const Block& block, const ChannelRows<T>& gradient) {
      programs_.add_through_logarithms(block, gradient, [&](int64_t c) { return gradient_.weights(c); });
    });
  }

  void add_stencil_slopes(int64_t c, const Block& b, GradientRows<T>& gradient) {
    for (int i = 0; i < plan_.stencil_count; ++i) {
      if (const auto sweep = sweep_of(i))
        sweep(stencil_input(i, c, b), carry(i, c, b), gradient, weight(i, c));
      if (const auto gather = plan_.stencil[i].term->gather)
        gather(stencil_flux(i, c, b), gradient, weight(i, c));
    }
  }

  Fields<T> f_;
  const GeoSumsParams& p_;
  const Plan<T>& plan_;
  Producer<T> producer_;
  GradientStage<T> gradient_;
  ProgramStage<T> programs_;
  SoftmaxLabels<T> labels_;
  const bool by_labels_;
  Ring<T> flux_[kMaxStencilTerms][kMaxFluxFields];
  Ring<T> carry_along_z_[kMaxStencilTerms];
  T* carry_along_y_[kMaxStencilTerms];
  V* lane_sums_;  // [channels, K]
  int64_t workspace_elements_;
};

template <class T>
size_t workspace(const GeoSumsParams& p, const Tiling& tiling, bool backward) {
  const Tile<T> tile(p, tiling, backward, 0, nullptr);
  return static_cast<size_t>(tile.workspace_elements()) * sizeof(T);
}

// As many rows as the cache and the workspace have room for.
template <class T>
int64_t tile_rows(const GeoSumsParams& p, Tiling t, bool backward) {
  const Plan<T> plan(p, backward);
  int64_t fields = 2 + plan.on_error + plan.masked;
  for (const bool reads : plan.reads_map) fields += reads;
  if (backward) fields += plan.flux_fields;
  const int64_t row_bytes = fields * plan.ring_planes() * p.W * int64_t(sizeof(T)) * t.channels;
  t.rows = min(p.H, max(kMinTileRows, kTileBytes / row_bytes));
  while (t.rows > kMinTileRows && workspace<T>(p, t, backward) > kWorkspaceBytes)
    t.rows = ceil_divide(t.rows, 2);
  return t.rows;
}

// Terms of single voxels have no halo, so that tiles may be as small as a thread's start is worth.
template <class T>
Tiling tiling_without_halo(const GeoSumsParams& p, Tiling t) {
  const int64_t row = t.channels * p.W, plane = row * p.H;
  int64_t wanted = ceil_divide(kMinTiles, t.volumes);
  t.planes = min(p.D, max(ceil_divide(kMinTileElements, plane), ceil_divide(p.D, wanted)));
  t.tiles_z = ceil_divide(p.D, t.planes);
  wanted = ceil_divide(wanted, t.tiles_z);
  t.rows = min(p.H, max(ceil_divide(kMinTileElements, row * t.planes), ceil_divide(p.H, wanted)));
  t.tiles_y = ceil_divide(p.H, t.rows);
  return t;
}

template <class T>
Tiling tiling(const GeoSumsParams& p, bool backward) {
  Tiling t;
  t.channels = p.activation == Activation::kSoftmax ? p.C : 1;
  t.volumes = p.N * p.C / t.channels;
  t.planes = t.tiles_y = t.tiles_z = 1;
  if (Plan<T>(p, backward).reach() == 0) return tiling_without_halo<T>(p, t);
  t.tiles_y = ceil_divide(p.H, tile_rows<T>(p, t, backward));
  t.rows = ceil_divide(p.H, t.tiles_y);
  t.tiles_y = ceil_divide(p.H, t.rows);
  const int64_t wanted = ceil_divide(kMinTiles, t.volumes * t.tiles_y);
  t.planes = max(min(kMinTilePlanes, p.D), ceil_divide(p.D, wanted));
  t.tiles_z = ceil_divide(p.D, t.planes);
  return t;
}

template <class T>
void forward(const GeoSumsParams& p, const Tiling& tiling, int64_t tile, void* workspace,
             double* partial_sums) {
  Tile<T>(p, tiling, false, tile, workspace).forward(partial_sums);
}

template <class T>
void backward(const GeoSumsParams& p, const Tiling& tiling, int64_t tile, void* workspace) {
  Tile<T>(p, tiling, true, tile, workspace).backward();
}

}  // namespace

template <class T>
const cpu::GeoSumsKernel& geo_sums_kernel() {
  static constexpr cpu::GeoSumsKernel kernel{tiling<T>, workspace<T>, forward<T>, backward<T>};
  return kernel;
}

template const cpu::GeoSumsKernel& geo_sums_kernel<float>();
template const cpu::GeoSumsKernel& geo_sums_kernel<double>();

}  // namespace geoloss::GEOLOSS_ISA
