// geo_sums on the CPU: activation, stencils and reduction in one pass over input and target.
//
// The volume is cut into tiles of rows (y) and planes (z). In a tile, rows flow through a short pipeline that
// marches along z, and each stage works on a row while it is in cache:
//
//   forward    produce(z, y) ──▶ sum(z - ahead, y)
//   backward   produce(z, y) ──▶ flux(z - ahead, y) ──▶ gather(z - ahead - back, y)
//
// `produce` reads input and target and applies the activation, `sum` evaluates the terms; `flux` evaluates
// Ψ'(φe) and `gather` applies the adjoint stencil to it, so that each element of the gradient is written
// once. A stencil reaches `back` planes and rows behind a voxel and `ahead` of it (0 and 1 for forward
// differences); rows wait in rings of that many planes plus one. Where the adjoint looks only back, flux and
// gather are one step, `sweep`: each row hands its flux on to the next row and to the next plane.
//
// Rows of a tensor that already are what the kernels read (of the arithmetic type, unmasked, whole vectors)
// are not copied; of probabilities, forward differences form the error in registers and nothing is produced.
//
// Forward moves input + target, backward input + target + gradient; the halo at a tile's rim is read twice,
// the second time mostly from cache.
//
// This file is compiled once per instruction set, into the namespace GEOLOSS_ISA.
#include "geo_sums_kernel.h"

#include "plan.h"
#include "rows.h"

namespace geoloss::GEOLOSS_ISA {
namespace {

using cpu::Tiling;

constexpr int64_t kTileBytes = 512 * 1024;       // of the planes in work: within a core's second-level cache
constexpr int64_t kWorkspaceBytes = 320 * 1024;  // of a thread
constexpr int64_t kMinTileRows = 8;
constexpr int64_t kMinTilePlanes = 32;
constexpr int64_t kMinTiles = 16;  // work for that many threads, where the volumes are large enough

int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The last planes of a field. Rows are padded by a vector at either end. Without stencils one row does for
// all.
template <class T>
struct Ring {
  T* first = nullptr;  // null: the field is not in a ring
  int64_t plane_mask = 0, plane_pitch = 0, row_pitch = 0;

  T* row(int64_t z, int64_t y) const { return first + (z & plane_mask) * plane_pitch + y * row_pitch; }
};

// kPrediction and kTarget are 0 at invalid voxels; kSoftmax is the prediction before that, where it differs.
enum Field { kPrediction, kTarget, kError, kValid, kLogit, kMap, kSoftmax, kFieldCount };

template <class T>
class Tile {
 public:
  using V = Lanes<T>;

  Tile(const GeoSumsParams& params, const Tiling& tiling, bool backward, int64_t index, void* workspace)
      : p_(params), tiling_(tiling), plan_(params), backward_(backward) {
    const int64_t volume = index / (tiling.tiles_z * tiling.tiles_y);
    n_ = volume * tiling.channels / p_.C;
    c_ = volume * tiling.channels % p_.C;
    z_begin_ = index / tiling.tiles_y % tiling.tiles_z * tiling.planes;
    y_begin_ = index % tiling.tiles_y * tiling.rows;
    z_end_ = min(z_begin_ + tiling.planes, p_.D);
    y_end_ = min(y_begin_ + tiling.rows, p_.H);
    halo_before_ = backward ? plan_.reach() : plan_.back;
    halo_after_ = backward ? plan_.reach() : plan_.ahead;
    lay_out(static_cast<T*>(workspace));
    scale_axes();
  }

  // partial_sums: [channels, K]
  void forward(double* partial_sums) {
    for (int64_t i = 0; i < tiling_.channels * p_.term_count; ++i) partial_sums[i] = 0;
    if (plan_.counts_all) count_voxels(partial_sums);
    for (int64_t z = max(0, z_begin_ - halo_before_); z < z_end_ + plan_.ahead; ++z) {
      for (int64_t i = 0; i < tiling_.channels * p_.term_count; ++i) lane_sums_[i] = V(T(0));
      for (int64_t y = rows_begin(); y < rows_end(); ++y) {
        if (z < p_.D) produce(z, y);
        if (inside(z, y)) sum_voxel_terms(z, y);
        if (inside(z - plan_.ahead, y)) sum_stencil_terms(z - plan_.ahead, y);
      }
      for (int64_t i = 0; i < tiling_.channels * p_.term_count; ++i) partial_sums[i] += lane_sums_[i].sum();
    }
  }

  void backward() {
    clear_carry();
    for (int64_t z = max(0, z_begin_ - halo_before_); z < z_end_ + plan_.reach(); ++z) {
      clear_carry_along_y();
      for (int64_t y = rows_begin(); y < rows_end(); ++y) {
        if (z < p_.D) produce(z, y);
        if (flux_wanted(z - plan_.ahead, y)) compute_flux(z - plan_.ahead, y);
        if (inside(z - plan_.reach(), y)) {
          write_gradient(z - plan_.reach(), y);
        } else if (carry_wanted(z - plan_.reach(), y)) {
          sweep_halo(z - plan_.reach(), y);
        }
      }
    }
  }

  int64_t workspace_elements() const { return workspace_elements_; }

 private:
  int64_t rows_begin() const { return max(0, y_begin_ - halo_before_); }
  int64_t rows_end() const { return min(p_.H, y_end_ + halo_after_); }

  bool inside(int64_t z, int64_t y) const {
    return z >= z_begin_ && z < z_end_ && y >= y_begin_ && y < y_end_;
  }

  // The rows just before the tile hand their flux on to its first plane and to the first row of each plane.
  bool carry_wanted(int64_t z, int64_t y) const {
    return z >= max(0, z_begin_ - 1) && z < z_end_ && y >= max(0, y_begin_ - 1) && y < y_end_;
  }

  // A voxel's flux reaches the gradients up to `ahead` after it and `back` before it.
  bool flux_wanted(int64_t z, int64_t y) const {
    return plan_.stencil_count > 0 && z >= max(0, z_begin_ - plan_.ahead) &&
           z < min(p_.D, z_end_ + plan_.back) && y >= max(0, y_begin_ - plan_.ahead) &&
           y < min(p_.H, y_end_ + plan_.back);
  }

  // ---- memory ----

  void lay_out(T* workspace) {
    choose_fields();
    T* next = workspace;
    for (int field = 0; field < kFieldCount; ++field) {
      if (wanted_[field] && !in_place_[field]) ring_[field] = take_ring(next, plan_.ring_planes());
    }
    if (backward_) {
      for (int i = 0; i < plan_.stencil_count; ++i) {
        const StencilTerm<T>& term = *plan_.stencil[i].term;
        for (int f = 0; f < term.flux_fields; ++f) flux_[i][f] = take_ring(next, plan_.ring_planes());
        if (!term.sweep) continue;
        carry_along_z_[i] = take_ring(next, 1);
        carry_along_y_[i] = take_row(next);
      }
    }
    gradient_scratch_ = take_row(next);
    logit_gradient_ = take_row(next);
    channel_pitch_ = next - workspace;
    next = workspace + channel_pitch_ * tiling_.channels;
    label_row_ = take_row(next);
    readable_row_ = take_row(next);
    lane_sums_ = reinterpret_cast<V*>(next);
    next += tiling_.channels * p_.term_count * V::kCount;
    workspace_elements_ = next - workspace;
  }

  void choose_fields() {
    const bool plain = !plan_.masked && !plan_.on_fields;
    wanted_[kPrediction] = wanted_[kTarget] = true;
    wanted_[kValid] = plan_.masked;
    wanted_[kLogit] = plan_.from_logit && !backward_;
    wanted_[kMap] = p_.map.data != nullptr;
    wanted_[kSoftmax] = plan_.masked && backward_ && p_.activation == Activation::kSoftmax;
    in_place_[kPrediction] = plain && p_.activation == Activation::kNone && readable_in_place(p_.input);
    in_place_[kTarget] = plain && !p_.label_map && readable_in_place(p_.target);
    in_place_[kMap] = !plan_.masked && readable_in_place(p_.map);
    error_in_place_ = plan_.on_error && plan_.in_place && in_place_[kPrediction] && in_place_[kTarget];
    wanted_[kError] = plan_.on_error && !error_in_place_;
    all_in_place_ = true;
    for (int field = 0; field < kFieldCount; ++field) all_in_place_ &= !wanted_[field] || in_place_[field];
    input_in_place_ = !plan_.masked && readable_in_place(p_.input);
    in_place_gradient_ = readable_in_place(p_.grad_input);
  }

  // The tensor's own rows are of the arithmetic type and end with a whole vector: no copy is made of them.
  bool readable_in_place(const TensorView& view) const {
    constexpr DType arithmetic = sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32;
    return view.data && view.dtype == arithmetic && view.stride_x == 1 && p_.W % V::kCount == 0;
  }

  int64_t row_pitch() const { return (ceil_divide(p_.W, V::kCount) + 2) * V::kCount; }

  Ring<T> take_ring(T*& next, int64_t planes) const {
    const bool single_row = plan_.reach() == 0;
    const int64_t rows = single_row ? 1 : min(p_.H, tiling_.rows + halo_before_ + halo_after_);
    const int64_t row_step = single_row ? 0 : row_pitch();
    Ring<T> ring{next + V::kCount - rows_begin() * row_step, planes - 1, rows * row_pitch(), row_step};
    next += planes * rows * row_pitch();
    return ring;
  }

  T* take_row(T*& next) const {
    T* row = next + V::kCount;
    next += row_pitch();
    return row;
  }

  static int64_t offset(const TensorView& view, int64_t n, int64_t c, int64_t z, int64_t y) {
    return n * view.stride_n + c * view.stride_c + z * view.stride_z + y * view.stride_y;
  }

  const T* row(Field field, int64_t c, int64_t z, int64_t y) const {
    if (!wanted_[field]) return nullptr;
    if (!in_place_[field]) return ring_[field].row(z, y) + c * channel_pitch_;
    const TensorView& view = field == kPrediction ? p_.input : field == kTarget ? p_.target : p_.map;
    return tensor_row(view, c, z, y);
  }

  const T* tensor_row(const TensorView& view, int64_t c, int64_t z, int64_t y) const {
    return static_cast<const T*>(view.data) + offset(view, n_, c_ + c, z, y);
  }

  T* buffer(Field field, int64_t c, int64_t z, int64_t y) const {
    return wanted_[field] && !in_place_[field] ? ring_[field].row(z, y) + c * channel_pitch_ : nullptr;
  }

  VoxelRow<T> voxel_row(int64_t c, int64_t z, int64_t y) const {
    return {row(kPrediction, c, z, y), row(kTarget, c, z, y), row(kValid, c, z, y), row(kLogit, c, z, y),
            row(kMap, c, z, y)};
  }

  NeighbourRows<T> neighbours(const Ring<T>& ring, int64_t c, int64_t z, int64_t y) const {
    const int64_t step = c * channel_pitch_;
    return {ring.row(z, y) + step, ring.row(z, max(y - 1, 0)) + step,
            ring.row(z, min(y + 1, p_.H - 1)) + step, ring.row(max(z - 1, 0), y) + step,
            ring.row(min(z + 1, p_.D - 1), y) + step};
  }

  NeighbourRows<T> neighbours_in_place(const TensorView& view, int64_t c, int64_t z, int64_t y) const {
    const T* centre = tensor_row(view, c, z, y);
    return {centre, centre - (y > 0 ? view.stride_y : 0), centre + (y + 1 < p_.H ? view.stride_y : 0),
            centre - (z > 0 ? view.stride_z : 0), centre + (z + 1 < p_.D ? view.stride_z : 0)};
  }

  // ---- produce ----

  void load(const TensorView& view, int64_t c, int64_t z, int64_t y, T* row) const {
    load_row<T>(view.dtype)(view.data, offset(view, n_, c, z, y), view.stride_x, p_.W, row);
  }

  template <class Function>
  GEOLOSS_SIMD void for_each_vector(Function function) const {
    const int64_t width = p_.W;
    for (int64_t x = 0; x < width; x += V::kCount) function(x);
  }

  void produce(int64_t z, int64_t y) {
    if (all_in_place_) return;
    if (p_.label_map) load(p_.target, 0, z, y, label_row_);
    for (int64_t c = 0; c < tiling_.channels; ++c) {
      if (T* target = buffer(kTarget, c, z, y)) produce_target(c, z, y, target);
      if (T* valid = buffer(kValid, c, z, y)) produce_valid(c, z, y, valid);
      if (T* map = buffer(kMap, c, z, y)) {
        load(p_.map, c_ + c, z, y, map);
        leave_out(row(kValid, c, z, y), map, T(0));
      }
    }
    if (buffer(kPrediction, 0, z, y)) produce_prediction(z, y);
    for (int64_t c = 0; c < tiling_.channels; ++c) finish_row(c, z, y);
  }

  void produce_target(int64_t c, int64_t z, int64_t y, T* target) {
    if (!p_.label_map) return load(p_.target, c_ + c, z, y, target);
    const V label(static_cast<T>(c_ + c));
    for_each_vector([&](int64_t x) GEOLOSS_LAMBDA_INLINE {
      select(V::load(label_row_ + x) == label, V(T(1)), V(T(0))).store(target + x);
    });
  }

  // Needs the target's row as it was loaded, before ignored voxels are taken out of it.
  void produce_valid(int64_t c, int64_t z, int64_t y, T* valid) {
    if (p_.mask.data) load(p_.mask, c_ + c, z, y, valid);
    T* target = buffer(kTarget, c, z, y);
    const T* ignored_in = p_.label_map ? label_row_ : target;
    const V ignore_index(static_cast<T>(p_.ignore_index));
    for_each_vector([&](int64_t x) GEOLOSS_LAMBDA_INLINE {
      V ok(T(1));
      if (p_.mask.data) ok = select(V::load(valid + x) != V(T(0)), ok, V(T(0)));
      if (p_.has_ignore_index) ok = select(V::load(ignored_in + x) == ignore_index, V(T(0)), ok);
      ok.store(valid + x);
      select(ok == V(T(0)), V(T(0)), V::load(target + x)).store(target + x);
    });
  }

  // Replaced, not multiplied: a NaN at an invalid voxel must not get on.
  void leave_out(const T* valid, T* values, T instead) const {
    if (!valid) return;
    for_each_vector([&](int64_t x) GEOLOSS_LAMBDA_INLINE {
      select(V::load(valid + x) == V(T(0)), V(instead), V::load(values + x)).store(values + x);
    });
  }

  void produce_prediction(int64_t z, int64_t y) {
    if (p_.activation == Activation::kSigmoid && input_in_place_) {
      apply_sigmoid(tensor_row(p_.input, 0, z, y), z, y);
    } else {
      load_input(z, y);
      if (p_.activation == Activation::kSigmoid) apply_sigmoid(buffer(kPrediction, 0, z, y), z, y);
      if (p_.activation == Activation::kSoftmax) apply_softmax(z, y);
    }
    if (plan_.masked && p_.activation != Activation::kNone) mask_prediction(z, y);
  }

  void load_input(int64_t z, int64_t y) {
    const T* valid = readable(z, y);
    for (int64_t c = 0; c < tiling_.channels; ++c) {
      T* row = buffer(kPrediction, c, z, y);
      load(p_.input, c_ + c, z, y, row);
      leave_out(valid, row, T(0));
    }
  }

  void mask_prediction(int64_t z, int64_t y) {
    for (int64_t c = 0; c < tiling_.channels; ++c) {
      T* prediction = buffer(kPrediction, c, z, y);
      if (T* softmax = buffer(kSoftmax, c, z, y)) copy(prediction, softmax);
      leave_out(row(kValid, c, z, y), prediction, T(0));
    }
  }

  void copy(const T* from, T* to) const {
    for_each_vector([&](int64_t x) GEOLOSS_LAMBDA_INLINE { V::load(from + x).store(to + x); });
  }

  // Where the activation may read the input: where the voxel is valid in any channel that it ties together.
  const T* readable(int64_t z, int64_t y) const {
    if (!plan_.masked || tiling_.channels == 1) return row(kValid, 0, z, y);
    for_each_vector([&](int64_t x) GEOLOSS_LAMBDA_INLINE {
      V any(T(0));
      for (int64_t c = 0; c < tiling_.channels; ++c) any = maximum(any, V::load(row(kValid, c, z, y) + x));
      any.store(readable_row_ + x);
    });
    return readable_row_;
  }

  void apply_sigmoid(const T* logits, int64_t z, int64_t y) {
    if (T* logit = buffer(kLogit, 0, z, y)) {
      copy(logits, logit);
      leave_out(row(kValid, 0, z, y), logit, -__builtin_inff());
    }
    T* prediction = buffer(kPrediction, 0, z, y);
    for_each_vector([&](int64_t x) GEOLOSS_LAMBDA_INLINE {
      prefetch<kRead>(logits + x);
      sigmoid(V::load(logits + x)).store(prediction + x);
    });
  }

  void apply_softmax(int64_t z, int64_t y) {
    const auto channel = [&](int64_t c) { return buffer(kPrediction, c, z, y); };
    const int64_t channels = tiling_.channels;
    for_each_vector([&](int64_t x) GEOLOSS_LAMBDA_INLINE {
      V largest = V::load(channel(0) + x);
      for (int64_t c = 1; c < channels; ++c) largest = maximum(largest, V::load(channel(c) + x));
      V total(T(0));
      for (int64_t c = 0; c < channels; ++c) {
        const V power = exponential(V::load(channel(c) + x) - largest);
        total += power;
        power.store(channel(c) + x);
      }
      for (int64_t c = 0; c < channels; ++c) (V::load(channel(c) + x) / total).store(channel(c) + x);
    });
  }

  void finish_row(int64_t c, int64_t z, int64_t y) {
    if (T* error = buffer(kError, c, z, y)) {
      const T* prediction = row(kPrediction, c, z, y);
      const T* target = row(kTarget, c, z, y);
      for_each_vector([&](int64_t x) GEOLOSS_LAMBDA_INLINE {
        prefetch<kRead>(prediction + x);
        prefetch<kRead>(target + x);
        (V::load(prediction + x) - V::load(target + x)).store(error + x);
      });
      extend(error, T(1));
    }
    if (plan_.on_fields) {
      extend(buffer(kPrediction, c, z, y), T(1));
      extend(buffer(kTarget, c, z, y), T(1));
    }
    if (T* valid = buffer(kValid, c, z, y)) extend(valid, T(1));
  }

  // What lies just outside the volume along x.
  void extend(T* row, T factor) const {
    row[-1] = factor * row[0];
    row[p_.W] = factor * row[p_.W - 1];
  }

  // ---- sum ----

  void count_voxels(double* partial_sums) const {
    const int64_t voxels = (z_end_ - z_begin_) * (y_end_ - y_begin_) * p_.W;
    for (int64_t c = 0; c < tiling_.channels; ++c) {
      partial_sums[c * p_.term_count + plan_.count_column] = static_cast<double>(voxels);
    }
  }

  template <class Function>
  void for_each_summed_channel(Function function) {
    for (int64_t c = max(0, p_.first_channel - c_); c < tiling_.channels; ++c) function(c);
  }

  void sum_voxel_terms(int64_t z, int64_t y) {
    if (plan_.voxel_count == 0) return;
    for_each_summed_channel([&](int64_t c) {
      const VoxelRow<T> voxels = voxel_row(c, z, y);
      for (int i = 0; i < plan_.voxel_count; ++i) {
        plan_.voxel[i].term->sum(voxels, p_.W, &lane_sums_[c * p_.term_count + plan_.voxel[i].column]);
      }
    });
  }

  void sum_stencil_terms(int64_t z, int64_t y) {
    if (plan_.stencil_count == 0) return;
    for_each_summed_channel([&](int64_t c) {
      const StencilInput<T> in = stencil_input(c, z, y);
      for (int i = 0; i < plan_.stencil_count; ++i) {
        const auto& [term, column] = plan_.stencil[i];
        const auto sum = error_in_place_ ? term->sum_in_place : term->sum;
        sum(in, p_.W, &lane_sums_[c * p_.term_count + column]);
      }
    });
  }

  StencilInput<T> stencil_input(int64_t c, int64_t z, int64_t y) const {
    StencilInput<T> in;
    if (plan_.on_fields) in.prediction = neighbours(ring_[kPrediction], c, z, y);
    if (plan_.on_fields) in.target = neighbours(ring_[kTarget], c, z, y);
    if (error_in_place_) {
      in.prediction = neighbours_in_place(p_.input, c, z, y);
      in.target = neighbours_in_place(p_.target, c, z, y);
    } else if (plan_.on_error) {
      in.error = neighbours(ring_[kError], c, z, y);
    }
    if (plan_.masked) in.valid = neighbours(ring_[kValid], c, z, y);
    in.inverse_spacing = inverse_spacing_;
    in.inverse_spacing_squared = inverse_spacing_squared_;
    return in;
  }

  void scale_axes() {
    T chosen[3], squared[3];
    for (int axis = 0; axis < 3; ++axis) {
      const double inverse = p_.inverse_spacing[axis];
      chosen[axis] = static_cast<T>(p_.axis_chosen[axis] ? inverse : 0);
      squared[axis] = static_cast<T>(inverse * inverse);
    }
    inverse_spacing_ = {chosen[2], chosen[1], chosen[0]};
    inverse_spacing_squared_ = {squared[2], squared[1], squared[0]};
  }

  // ---- flux and gather ----

  void clear_carry() {
    for (int i = 0; i < plan_.stencil_count; ++i) {
      if (!plan_.stencil[i].term->sweep) continue;
      for (int64_t c = 0; c < tiling_.channels; ++c) {
        for (int64_t y = rows_begin(); y < rows_end(); ++y) clear(carry(i, c, y).along_z);
      }
    }
  }

  void clear_carry_along_y() {
    for (int i = 0; i < plan_.stencil_count; ++i) {
      if (!plan_.stencil[i].term->sweep) continue;
      for (int64_t c = 0; c < tiling_.channels; ++c) clear(carry(i, c, y_begin_).along_y);
    }
  }

  void clear(T* row) const {
    for_each_vector([&](int64_t x) GEOLOSS_LAMBDA_INLINE { V(T(0)).store(row + x); });
  }

  FluxCarry<T> carry(int i, int64_t c, int64_t y) const {
    const int64_t step = c * channel_pitch_;
    return {carry_along_y_[i] + step, carry_along_z_[i].row(0, y) + step};
  }

  Sweep<T> sweep_of(const StencilTerm<T>& term) const {
    return error_in_place_ ? term.sweep_in_place : term.sweep;
  }

  void sweep_halo(int64_t z, int64_t y) {
    for_each_summed_channel([&](int64_t c) {
      const StencilInput<T> in = stencil_input(c, z, y);
      GradientRow<T> discarded{gradient_scratch_ + c * channel_pitch_, p_.W};
      for (int i = 0; i < plan_.stencil_count; ++i) {
        const auto& [term, column] = plan_.stencil[i];
        if (const auto sweep = sweep_of(*term)) sweep(in, carry(i, c, y), discarded, weight(c, column));
      }
    });
  }

  void compute_flux(int64_t z, int64_t y) {
    for_each_summed_channel([&](int64_t c) {
      const StencilInput<T> in = stencil_input(c, z, y);
      for (int i = 0; i < plan_.stencil_count; ++i) {
        const StencilTerm<T>& term = *plan_.stencil[i].term;
        if (!term.flux) continue;
        T* rows[kMaxFluxFields];
        for (int f = 0; f < term.flux_fields; ++f) rows[f] = flux_[i][f].row(z, y) + c * channel_pitch_;
        term.flux(in, p_.W, rows);
        for (int f = 0; f < term.flux_fields; ++f) extend(rows[f], T(term.border));
      }
    });
  }

  StencilFlux<T> stencil_flux(int i, int64_t c, int64_t z, int64_t y) const {
    const T border = T(plan_.stencil[i].term->border);
    StencilFlux<T> flux;
    for (int f = 0; f < plan_.stencil[i].term->flux_fields; ++f) {
      flux.field[f] = neighbours(flux_[i][f], c, z, y);
    }
    flux.y_previous_factor = y == 0 ? border : T(1);
    flux.y_next_factor = y == p_.H - 1 ? border : T(1);
    flux.z_previous_factor = z == 0 ? border : T(1);
    flux.z_next_factor = z == p_.D - 1 ? border : T(1);
    flux.inverse_spacing_squared = inverse_spacing_squared_;
    return flux;
  }

  T* gradient_row(int64_t c, int64_t z, int64_t y) const {
    if (!in_place_gradient_) return gradient_scratch_ + c * channel_pitch_;
    return const_cast<T*>(tensor_row(p_.grad_input, c, z, y));
  }

  T weight(int64_t c, int64_t column) const {
    const int64_t summed = p_.C - p_.first_channel;
    const int64_t row = n_ * summed + c_ + c - p_.first_channel;
    return static_cast<const T*>(p_.grad_sums)[row * p_.term_count + column];
  }

  void write_gradient(int64_t z, int64_t y) {
    for (int64_t c = 0; c < tiling_.channels; ++c) {
      add_slopes(c, z, y);
      leave_out(row(kValid, c, z, y), gradient_row(c, z, y), T(0));
    }
    if (p_.activation == Activation::kSigmoid) sigmoid_gradient(z, y);
    if (p_.activation == Activation::kSoftmax) softmax_gradient(z, y);
    for (int64_t c = 0; c < tiling_.channels && !in_place_gradient_; ++c) {
      store_row<T>(p_.grad_input.dtype)(p_.grad_input.data, offset(p_.grad_input, n_, c_ + c, z, y),
                                        p_.grad_input.stride_x, p_.W, gradient_row(c, z, y));
    }
  }

  void add_slopes(int64_t c, int64_t z, int64_t y) {
    GradientRow<T> gradient{gradient_row(c, z, y), p_.W};
    GradientRow<T> logit_gradient{logit_gradient_ + c * channel_pitch_, p_.W};
    if (c_ + c >= p_.first_channel) {
      if (plan_.has_slopes) add_voxel_slopes(c, z, y, gradient, logit_gradient);
      for (int i = 0; i < plan_.stencil_count; ++i) {
        const auto& [term, column] = plan_.stencil[i];
        if (const auto sweep = sweep_of(*term)) {
          sweep(stencil_input(c, z, y), carry(i, c, y), gradient, weight(c, column));
        }
        if (term->gather) term->gather(stencil_flux(i, c, z, y), gradient, weight(c, column));
      }
    }
    if (!gradient.written) clear(gradient.row);
    if (plan_.from_logit && !logit_gradient.written) clear(logit_gradient.row);
  }

  void add_voxel_slopes(int64_t c, int64_t z, int64_t y, GradientRow<T>& gradient,
                        GradientRow<T>& logit_gradient) {
    const VoxelRow<T> voxels = voxel_row(c, z, y);
    for (int i = 0; i < plan_.voxel_count; ++i) {
      const auto& [term, column] = plan_.voxel[i];
      if (!term->add_slope) continue;
      term->add_slope(voxels, term->from_logit ? logit_gradient : gradient, weight(c, column));
    }
  }

  void sigmoid_gradient(int64_t z, int64_t y) {
    T* gradient = gradient_row(0, z, y);
    const T* prediction = row(kPrediction, 0, z, y);
    for_each_vector([&](int64_t x) GEOLOSS_LAMBDA_INLINE {
      const V s = V::load(prediction + x);
      V result = V::load(gradient + x) * (s * (V(T(1)) - s));
      if (plan_.from_logit) result += V::load(logit_gradient_ + x);
      result.store(gradient + x);
    });
  }

  // ∂s_i/∂z_j = s_i (δ_ij - s_j)
  void softmax_gradient(int64_t z, int64_t y) {
    const int64_t channels = tiling_.channels;
    const Field field = wanted_[kSoftmax] ? kSoftmax : kPrediction;
    for_each_vector([&](int64_t x) GEOLOSS_LAMBDA_INLINE {
      V mean(T(0));
      for (int64_t c = 0; c < channels; ++c) {
        mean += V::load(row(field, c, z, y) + x) * V::load(gradient_row(c, z, y) + x);
      }
      for (int64_t c = 0; c < channels; ++c) {
        T* gradient = gradient_row(c, z, y) + x;
        (V::load(row(field, c, z, y) + x) * (V::load(gradient) - mean)).store(gradient);
      }
    });
  }

  const GeoSumsParams& p_;
  const Tiling& tiling_;
  const Plan<T> plan_;
  const bool backward_;
  int64_t n_, c_;  // the batch element and the first channel
  int64_t z_begin_, z_end_, y_begin_, y_end_;
  int64_t halo_before_, halo_after_;  // rows and planes produced around the tile

  bool wanted_[kFieldCount], in_place_[kFieldCount] = {};
  bool input_in_place_, in_place_gradient_;
  bool all_in_place_;    // there is nothing to produce
  bool error_in_place_;  // no error is stored: its stencils read input and target
  Ring<T> ring_[kFieldCount];
  Ring<T> flux_[kMaxTerms][kMaxFluxFields];
  Ring<T> carry_along_z_[kMaxTerms];
  T* carry_along_y_[kMaxTerms];
  T* gradient_scratch_;
  T* logit_gradient_;
  int64_t channel_pitch_;  // between one channel's rows and the next's
  T* label_row_;
  T* readable_row_;
  V* lane_sums_;  // [channels, K]
  int64_t workspace_elements_;
  PerAxis<T> inverse_spacing_, inverse_spacing_squared_;  // of the chosen axes; of all
};

template <class T>
size_t workspace(const GeoSumsParams& p, const Tiling& tiling, bool backward) {
  const Tile<T> tile(p, tiling, backward, 0, nullptr);
  return static_cast<size_t>(tile.workspace_elements()) * sizeof(T);
}

// As many rows as the cache and the workspace have room for.
template <class T>
int64_t tile_rows(const GeoSumsParams& p, Tiling t, bool backward) {
  const Plan<T> plan(p);
  if (plan.reach() == 0) return p.H;
  int64_t fields = 2 + plan.on_error + plan.masked + (p.map.data != nullptr);
  if (backward) fields += plan.stencil_count * kMaxFluxFields;
  const int64_t row_bytes = fields * plan.ring_planes() * p.W * int64_t(sizeof(T)) * t.channels;
  t.rows = min(p.H, max(kMinTileRows, kTileBytes / row_bytes));
  while (t.rows > kMinTileRows && workspace<T>(p, t, backward) > kWorkspaceBytes)
    t.rows = ceil_divide(t.rows, 2);
  return t.rows;
}

template <class T>
Tiling tiling(const GeoSumsParams& p, bool backward) {
  Tiling t;
  t.channels = p.activation == Activation::kSoftmax ? p.C : 1;
  t.volumes = p.N * p.C / t.channels;
  t.planes = t.tiles_y = t.tiles_z = 1;
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
