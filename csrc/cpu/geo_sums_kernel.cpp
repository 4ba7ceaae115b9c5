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
// gather are one step, `sweep`: each row hands its flux on to the next row and to the next plane.
//
// Rows of a tensor that already are what the kernels read (of the arithmetic type, unmasked, whole vectors)
// are not copied, and forward differences form the error in registers; of probabilities nothing is produced.
//
// Memory is asked for ahead of time, by the stages that compute much, so that it arrives while they do.
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
constexpr int64_t kBlockElements = 1024;  // of a field: all fields of a block fit the first-level cache
constexpr int64_t kMinTileRows = 8;
constexpr int64_t kMinTilePlanes = 32;
constexpr int64_t kMinTiles = 16;  // work for that many threads, where the volumes are large enough

int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows y_begin to y_end of plane z.
struct Block {
  int64_t z, y_begin, y_end;
  int64_t rows() const { return y_end - y_begin; }
  bool empty() const { return y_begin >= y_end; }
};

struct Box {
  int64_t z_begin, z_end, y_begin, y_end;

  Block part_of(const Block& b) const {
    if (b.z < z_begin || b.z >= z_end) return {b.z, 0, 0};
    return {b.z, max(b.y_begin, y_begin), min(b.y_end, y_end)};
  }
};

// The last planes of a field, or its last block of rows alone. Rows are padded by a vector at either end.
template <class T>
struct Ring {
  T* first = nullptr;  // null: the field is not in a ring
  int64_t plane_mask = 0, plane_pitch = 0, row_mask = 0, row_pitch = 0;

  T* row(int64_t z, int64_t y) const {
    return first + (z & plane_mask) * plane_pitch + (y & row_mask) * row_pitch;
  }
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
    const int64_t z = index / tiling.tiles_y % tiling.tiles_z * tiling.planes;
    const int64_t y = index % tiling.tiles_y * tiling.rows;
    tile_ = {z, min(z + tiling.planes, p_.D), y, min(y + tiling.rows, p_.H)};
    halo_before_ = backward ? plan_.reach() : plan_.back;
    halo_after_ = backward ? plan_.reach() : plan_.ahead;
    lay_out(static_cast<T*>(workspace));
    scale_axes();
  }

  // partial_sums: [channels, K]
  void forward(double* partial_sums) {
    for (int64_t i = 0; i < tiling_.channels * p_.term_count; ++i) partial_sums[i] = 0;
    if (plan_.counts_all) count_voxels(partial_sums);
    for (int64_t z = max(0, tile_.z_begin - halo_before_); z < tile_.z_end + plan_.ahead; ++z) {
      for (int64_t i = 0; i < tiling_.channels * p_.term_count; ++i) lane_sums_[i] = V(T(0));
      for_each_block([&](int64_t y_begin, int64_t y_end) {
        const auto block = [&](int64_t z) { return Block{z, y_begin, y_end}; };
        if (z < p_.D) produce(block(z));
        sum_voxel_terms(tile_.part_of(block(z)));
        sum_stencil_terms(tile_.part_of(block(z - plan_.ahead)));
      });
      for (int64_t i = 0; i < tiling_.channels * p_.term_count; ++i) partial_sums[i] += lane_sums_[i].sum();
    }
  }

  void backward() {
    clear_carry();
    for (int64_t z = max(0, tile_.z_begin - halo_before_); z < tile_.z_end + plan_.reach(); ++z) {
      clear_carry_along_y();
      for_each_block([&](int64_t y_begin, int64_t y_end) {
        const auto block = [&](int64_t z) { return Block{z, y_begin, y_end}; };
        if (z < p_.D) produce(block(z));
        compute_flux(flux_box().part_of(block(z - plan_.ahead)));
        sweep_halo(halo_of_plane(z - plan_.reach()).part_of(block(z - plan_.reach())));
        write_gradient(tile_.part_of(block(z - plan_.reach())));
      });
    }
  }

  int64_t workspace_elements() const { return workspace_elements_; }

 private:
  int64_t rows_begin() const { return max(0, tile_.y_begin - halo_before_); }
  int64_t rows_end() const { return min(p_.H, tile_.y_end + halo_after_); }

  // The rows beside a block are as far away as for all of its rows: the volume's first and last row are
  // blocks of their own. In a buffer of block_rows() rows a block is contiguous.
  template <class Function>
  void for_each_block(Function function) const {
    for (int64_t y = rows_begin(), end; y < rows_end(); y = end) {
      end = min(rows_end(), (y | (block_rows() - 1)) + 1);
      if (plan_.reach() > 0 && y == 0) end = 1;
      if (plan_.reach() > 0 && y < p_.H - 1) end = min(end, p_.H - 1);
      function(y, end);
    }
  }

  // A power of two.
  int64_t block_rows() const {
    int64_t rows = 1;
    while (2 * rows * p_.W * tiling_.channels <= kBlockElements) rows *= 2;
    return rows;
  }

  // The rows just before the tile hand their flux on to its first plane and to the first row of each plane.
  Box halo_of_plane(int64_t z) const {
    const int64_t y_end = z < tile_.z_begin ? tile_.y_end : tile_.y_begin;
    return {max(0, tile_.z_begin - plan_.ahead), tile_.z_end, max(0, tile_.y_begin - plan_.ahead), y_end};
  }

  // A voxel's flux reaches the gradients up to `ahead` after it and `back` before it.
  Box flux_box() const {
    return {max(0, tile_.z_begin - plan_.ahead), min(p_.D, tile_.z_end + plan_.back),
            max(0, tile_.y_begin - plan_.ahead), min(p_.H, tile_.y_end + plan_.back)};
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
    gradient_scratch_ = take_block(next);
    logit_gradient_ = take_block(next);
    channel_pitch_ = next - workspace;
    next = workspace + channel_pitch_ * tiling_.channels;
    labels_ = take_block(next);
    readable_ = take_block(next);
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
    error_in_place_ = plan_.on_error && plan_.in_place && plain && in_place_[kTarget];
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
    if (plan_.reach() == 0) return take_block(next);
    const int64_t rows = min(p_.H, tiling_.rows + halo_before_ + halo_after_);
    Ring<T> ring{next + V::kCount - rows_begin() * row_pitch(), planes - 1, rows * row_pitch(), -1,
                 row_pitch()};
    next += planes * rows * row_pitch();
    return ring;
  }

  Ring<T> take_block(T*& next) const {
    Ring<T> ring{next + V::kCount, 0, 0, block_rows() - 1, row_pitch()};
    next += block_rows() * row_pitch();
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

  // Null where the field is not wanted.
  Rows<const T> rows(Field field, int64_t c, const Block& b) const {
    if (!wanted_[field]) return {};
    return in_place_[field] ? tensor_rows(tensor(field), c, b) : rows_of(ring_[field], c, b);
  }

  const TensorView& tensor(Field field) const {
    return field == kPrediction ? p_.input : field == kTarget ? p_.target : p_.map;
  }

  Rows<T> tensor_rows(const TensorView& view, int64_t c, const Block& b) const {
    return {static_cast<T*>(view.data) + offset(view, n_, c_ + c, b.z, b.y_begin), view.stride_y};
  }

  Rows<T> rows_of(const Ring<T>& ring, int64_t c, const Block& b) const {
    return {ring.row(b.z, b.y_begin) + c * channel_pitch_, ring.row_pitch};
  }

  // Null where nothing is stored.
  Rows<T> buffer(Field field, int64_t c, const Block& b) const {
    if (!wanted_[field] || in_place_[field]) return {};
    return rows_of(ring_[field], c, b);
  }

  VoxelRows<T> voxel_rows(int64_t c, const Block& b) const {
    return {rows(kPrediction, c, b), rows(kTarget, c, b), rows(kValid, c, b), rows(kLogit, c, b),
            rows(kMap, c, b)};
  }

  NeighbourRows<T> neighbours(Field field, int64_t c, const Block& b) const {
    return in_place_[field] ? neighbours_in_place(tensor(field), c, b)
                            : neighbours_in_ring(ring_[field], c, b);
  }

  NeighbourRows<T> neighbours_in_ring(const Ring<T>& ring, int64_t c, const Block& b) const {
    const T* centre = ring.row(b.z, b.y_begin);
    const auto distance = [&](int64_t z, int64_t y) { return ring.row(z, y) - centre; };
    return {rows_of(ring, c, b), distance(b.z, max(b.y_begin - 1, 0)),
            distance(b.z, min(b.y_begin + 1, p_.H - 1)), distance(max(b.z - 1, 0), b.y_begin),
            distance(min(b.z + 1, p_.D - 1), b.y_begin)};
  }

  NeighbourRows<T> neighbours_in_place(const TensorView& view, int64_t c, const Block& b) const {
    return {tensor_rows(view, c, b), b.y_begin > 0 ? -view.stride_y : 0,
            b.y_begin + 1 < p_.H ? view.stride_y : 0, b.z > 0 ? -view.stride_z : 0,
            b.z + 1 < p_.D ? view.stride_z : 0};
  }

  // ---- produce ----

  void load(const TensorView& view, int64_t c, const Block& b, Rows<T> rows) const {
    if (readable_in_place(view)) return copy(tensor_rows(view, c - c_, b), b, rows);
    const auto load = load_row<T>(view.dtype);
    for (int64_t y = 0; y < b.rows(); ++y) {
      load(view.data, offset(view, n_, c, b.z, b.y_begin + y), view.stride_x, p_.W, rows.at(y));
    }
  }

  template <class Function>
  GEOLOSS_SIMD void for_each_vector(const Block& b, Function function) const {
    const int64_t rows = b.rows(), width = p_.W;
    for (int64_t y = 0; y < rows; ++y) {
      for (int64_t x = 0; x < width; x += V::kCount) function(y, x);
    }
  }

  void produce(const Block& b) {
    if (all_in_place_) return;
    if (p_.label_map) load(p_.target, 0, b, rows_of(labels_, 0, b));
    for (int64_t c = 0; c < tiling_.channels; ++c) {
      if (const auto target = buffer(kTarget, c, b)) produce_target(c, b, target);
      if (const auto valid = buffer(kValid, c, b)) produce_valid(c, b, valid);
      if (const auto map = buffer(kMap, c, b)) {
        load(p_.map, c_ + c, b, map);
        leave_out(rows(kValid, c, b), b, map, T(0));
      }
    }
    if (buffer(kPrediction, 0, b)) produce_prediction(b);
    for (int64_t c = 0; c < tiling_.channels; ++c) finish_rows(c, b);
  }

  void produce_target(int64_t c, const Block& b, Rows<T> target) {
    if (!p_.label_map) return load(p_.target, c_ + c, b, target);
    const V label(static_cast<T>(c_ + c));
    const Rows<T> labels = rows_of(labels_, 0, b);
    for_each_vector(b, [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
      select(V::load(labels.at(y, x)) == label, V(T(1)), V(T(0))).store(target.at(y, x));
    });
  }

  // Needs the target's rows as they were loaded, before ignored voxels are taken out of them.
  void produce_valid(int64_t c, const Block& b, Rows<T> valid) {
    if (p_.mask.data) load(p_.mask, c_ + c, b, valid);
    const Rows<T> target = buffer(kTarget, c, b);
    const Rows<T> ignored_in = p_.label_map ? rows_of(labels_, 0, b) : target;
    const V ignore_index(static_cast<T>(p_.ignore_index));
    for_each_vector(b, [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
      V ok(T(1));
      if (p_.mask.data) ok = select(V::load(valid.at(y, x)) != V(T(0)), ok, V(T(0)));
      if (p_.has_ignore_index) ok = select(V::load(ignored_in.at(y, x)) == ignore_index, V(T(0)), ok);
      ok.store(valid.at(y, x));
      select(ok == V(T(0)), V(T(0)), V::load(target.at(y, x))).store(target.at(y, x));
    });
  }

  // Replaced, not multiplied: a NaN at an invalid voxel must not get on.
  void leave_out(Rows<const T> valid, const Block& b, Rows<T> values, T instead) const {
    if (!valid) return;
    for_each_vector(b, [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
      T* value = values.at(y, x);
      select(V::load(valid.at(y, x)) == V(T(0)), V(instead), V::load(value)).store(value);
    });
  }

  void produce_prediction(const Block& b) {
    if (p_.activation == Activation::kSigmoid && input_in_place_) {
      apply_sigmoid(tensor_rows(p_.input, 0, b), b);
    } else {
      load_input(b);
      if (p_.activation == Activation::kSigmoid) apply_sigmoid(buffer(kPrediction, 0, b), b);
      if (p_.activation == Activation::kSoftmax) apply_softmax(b);
    }
    if (plan_.masked && p_.activation != Activation::kNone) mask_prediction(b);
  }

  void load_input(const Block& b) {
    const Rows<const T> valid = readable(b);
    for (int64_t c = 0; c < tiling_.channels; ++c) {
      const Rows<T> prediction = buffer(kPrediction, c, b);
      load(p_.input, c_ + c, b, prediction);
      leave_out(valid, b, prediction, T(0));
    }
  }

  void mask_prediction(const Block& b) {
    for (int64_t c = 0; c < tiling_.channels; ++c) {
      const Rows<T> prediction = buffer(kPrediction, c, b);
      if (const auto softmax = buffer(kSoftmax, c, b)) copy(prediction, b, softmax);
      leave_out(rows(kValid, c, b), b, prediction, T(0));
    }
  }

  void copy(Rows<const T> from, const Block& b, Rows<T> to) const {
    for_each_vector(b, [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
      prefetch<kRead>(from.at(y, x));
      V::load(from.at(y, x)).store(to.at(y, x));
    });
  }

  // Where the activation may read the input: where the voxel is valid in any channel that it ties together.
  Rows<const T> readable(const Block& b) const {
    if (!plan_.masked || tiling_.channels == 1) return rows(kValid, 0, b);
    const Rows<T> result = rows_of(readable_, 0, b);
    for_each_vector(b, [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
      V any(T(0));
      for (int64_t c = 0; c < tiling_.channels; ++c) any = maximum(any, V::load(rows(kValid, c, b).at(y, x)));
      any.store(result.at(y, x));
    });
    return result;
  }

  void apply_sigmoid(Rows<const T> logits, const Block& b) {
    const Rows<T> prediction = buffer(kPrediction, 0, b);
    const Rows<T> kept_logit = buffer(kLogit, 0, b);
    const Rows<const T> target = rows(kTarget, 0, b);
    for_each_vector(b, [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
      prefetch<kRead>(logits.at(y, x));
      prefetch<kRead>(target.at(y, x));
      const V logit = V::load(logits.at(y, x));
      if (kept_logit) logit.store(kept_logit.at(y, x));
      sigmoid(logit).store(prediction.at(y, x));
    });
    if (kept_logit) leave_out(rows(kValid, 0, b), b, kept_logit, -__builtin_inff());
  }

  void apply_softmax(const Block& b) {
    const int64_t channels = tiling_.channels;
    const Rows<T> first = buffer(kPrediction, 0, b);
    for_each_vector(b, [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
      const auto channel = [&](int64_t c) { return first.at(y, x) + c * channel_pitch_; };
      V largest = V::load(channel(0));
      for (int64_t c = 1; c < channels; ++c) largest = maximum(largest, V::load(channel(c)));
      V total(T(0));
      for (int64_t c = 0; c < channels; ++c) {
        const V power = exponential(V::load(channel(c)) - largest);
        total += power;
        power.store(channel(c));
      }
      for (int64_t c = 0; c < channels; ++c) (V::load(channel(c)) / total).store(channel(c));
    });
  }

  void finish_rows(int64_t c, const Block& b) {
    if (const auto error = buffer(kError, c, b)) {
      const Rows<const T> prediction = rows(kPrediction, c, b);
      const Rows<const T> target = rows(kTarget, c, b);
      for_each_vector(b, [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
        prefetch<kRead>(prediction.at(y, x));
        prefetch<kRead>(target.at(y, x));
        (V::load(prediction.at(y, x)) - V::load(target.at(y, x))).store(error.at(y, x));
      });
      extend(b, error, T(1));
    }
    if (plan_.on_fields) {
      extend(b, buffer(kPrediction, c, b), T(1));
      extend(b, buffer(kTarget, c, b), T(1));
    }
    if (const auto valid = buffer(kValid, c, b)) extend(b, valid, T(1));
  }

  // What lies just outside the volume along x.
  void extend(const Block& b, Rows<T> rows, T factor) const {
    for (int64_t y = 0; y < b.rows(); ++y) {
      *rows.at(y, -1) = factor * *rows.at(y, 0);
      *rows.at(y, p_.W) = factor * *rows.at(y, p_.W - 1);
    }
  }

  // ---- sum ----

  void count_voxels(double* partial_sums) const {
    const int64_t voxels = (tile_.z_end - tile_.z_begin) * (tile_.y_end - tile_.y_begin) * p_.W;
    for (int64_t c = 0; c < tiling_.channels; ++c) {
      partial_sums[c * p_.term_count + plan_.count_column] = static_cast<double>(voxels);
    }
  }

  template <class Function>
  void for_each_summed_channel(Function function) {
    for (int64_t c = max(0, p_.first_channel - c_); c < tiling_.channels; ++c) function(c);
  }

  void sum_voxel_terms(const Block& b) {
    if (plan_.voxel_count == 0 || b.empty()) return;
    for_each_summed_channel([&](int64_t c) {
      const VoxelRows<T> voxels = voxel_rows(c, b);
      for (int i = 0; i < plan_.voxel_count; ++i) {
        const auto& [set, columns] = plan_.voxel[i];
        set->sum(voxels, extent(b), lane_sums_ + c * p_.term_count, columns);
      }
    });
  }

  void sum_stencil_terms(const Block& b) {
    if (plan_.stencil_count == 0 || b.empty()) return;
    for_each_summed_channel([&](int64_t c) {
      const StencilInput<T> in = stencil_input(c, b);
      for (int i = 0; i < plan_.stencil_count; ++i) {
        const auto& [term, column] = plan_.stencil[i];
        const auto sum = error_in_place_ ? term->sum_in_place : term->sum;
        sum(in, extent(b), &lane_sums_[c * p_.term_count + column]);
      }
    });
  }

  Extent extent(const Block& b) const { return {b.rows(), p_.W}; }

  StencilInput<T> stencil_input(int64_t c, const Block& b) const {
    StencilInput<T> in;
    if (plan_.on_fields || error_in_place_) {
      in.prediction = neighbours(kPrediction, c, b);
      in.target = neighbours(kTarget, c, b);
    }
    if (wanted_[kError]) in.error = neighbours(kError, c, b);
    if (plan_.masked) in.valid = neighbours(kValid, c, b);
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
      const Block all{0, rows_begin(), rows_end()};
      for (int64_t c = 0; c < tiling_.channels; ++c) clear(all, carry(i, c, all).along_z);
    }
  }

  void clear_carry_along_y() {
    for (int i = 0; i < plan_.stencil_count; ++i) {
      if (!plan_.stencil[i].term->sweep) continue;
      const Block one{0, rows_begin(), rows_begin() + 1};
      for (int64_t c = 0; c < tiling_.channels; ++c) clear(one, {carry(i, c, one).along_y, 0});
    }
  }

  void clear(const Block& b, Rows<T> rows) const {
    for_each_vector(b, [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE { V(T(0)).store(rows.at(y, x)); });
  }

  FluxCarry<T> carry(int i, int64_t c, const Block& b) const {
    return {carry_along_y_[i] + c * channel_pitch_, rows_of(carry_along_z_[i], c, b)};
  }

  Sweep<T> sweep_of(const StencilTerm<T>& term) const {
    return error_in_place_ ? term.sweep_in_place : term.sweep;
  }

  void sweep_halo(const Block& b) {
    if (b.empty()) return;
    for_each_summed_channel([&](int64_t c) {
      const StencilInput<T> in = stencil_input(c, b);
      GradientRows<T> discarded{rows_of(gradient_scratch_, c, b), extent(b)};
      for (int i = 0; i < plan_.stencil_count; ++i) {
        const auto& [term, column] = plan_.stencil[i];
        if (const auto sweep = sweep_of(*term)) sweep(in, carry(i, c, b), discarded, weights(c)[column]);
      }
    });
  }

  void compute_flux(const Block& b) {
    if (b.empty()) return;
    for_each_summed_channel([&](int64_t c) {
      for (int i = 0; i < plan_.stencil_count; ++i) {
        const StencilTerm<T>& term = *plan_.stencil[i].term;
        if (!term.flux) continue;
        Rows<T> rows[kMaxFluxFields] = {};
        for (int f = 0; f < term.flux_fields; ++f) rows[f] = rows_of(flux_[i][f], c, b);
        term.flux(stencil_input(c, b), extent(b), rows);
        for (int f = 0; f < term.flux_fields; ++f) extend(b, rows[f], T(term.border));
      }
    });
  }

  StencilFlux<T> stencil_flux(int i, int64_t c, const Block& b) const {
    const T border = T(plan_.stencil[i].term->border);
    StencilFlux<T> flux;
    for (int f = 0; f < plan_.stencil[i].term->flux_fields; ++f)
      flux.field[f] = neighbours_in_ring(flux_[i][f], c, b);
    flux.y_previous_factor = b.y_begin == 0 ? border : T(1);
    flux.y_next_factor = b.y_begin == p_.H - 1 ? border : T(1);
    flux.z_previous_factor = b.z == 0 ? border : T(1);
    flux.z_next_factor = b.z == p_.D - 1 ? border : T(1);
    flux.inverse_spacing_squared = inverse_spacing_squared_;
    return flux;
  }

  Rows<T> gradient_rows(int64_t c, const Block& b) const {
    return in_place_gradient_ ? tensor_rows(p_.grad_input, c, b) : rows_of(gradient_scratch_, c, b);
  }

  // Of all terms.
  const T* weights(int64_t c) const {
    const int64_t summed = p_.C - p_.first_channel;
    const int64_t row = n_ * summed + c_ + c - p_.first_channel;
    return static_cast<const T*>(p_.grad_sums) + row * p_.term_count;
  }

  void write_gradient(const Block& b) {
    if (b.empty()) return;
    for (int64_t c = 0; c < tiling_.channels; ++c) {
      add_slopes(c, b);
      leave_out(rows(kValid, c, b), b, gradient_rows(c, b), T(0));
    }
    if (p_.activation == Activation::kSigmoid) sigmoid_gradient(b);
    if (p_.activation == Activation::kSoftmax) softmax_gradient(b);
    for (int64_t c = 0; c < tiling_.channels && !in_place_gradient_; ++c) store_gradient(c, b);
  }

  void store_gradient(int64_t c, const Block& b) const {
    const TensorView& view = p_.grad_input;
    const auto store = store_row<T>(view.dtype);
    const Rows<T> gradient = gradient_rows(c, b);
    for (int64_t y = 0; y < b.rows(); ++y) {
      store(view.data, offset(view, n_, c_ + c, b.z, b.y_begin + y), view.stride_x, p_.W, gradient.at(y));
    }
  }

  void add_slopes(int64_t c, const Block& b) {
    GradientRows<T> gradient{gradient_rows(c, b), extent(b)};
    GradientRows<T> logit_gradient{rows_of(logit_gradient_, c, b), extent(b)};
    if (c_ + c >= p_.first_channel) {
      if (plan_.stencil_count > 0) add_stencil_slopes(c, b, gradient);
      if (plan_.has_slopes) add_voxel_slopes(c, b, gradient, logit_gradient);
    }
    if (!gradient.written) clear(b, gradient.rows);
    if (plan_.from_logit && !logit_gradient.written) clear(b, logit_gradient.rows);
  }

  void add_voxel_slopes(int64_t c, const Block& b, GradientRows<T>& gradient,
                        GradientRows<T>& logit_gradient) {
    const VoxelRows<T> voxels = voxel_rows(c, b);
    for (int i = 0; i < plan_.voxel_count; ++i) {
      const auto& [set, columns] = plan_.voxel[i];
      if (!set->add_slope) continue;
      set->add_slope(voxels, set->from_logit ? logit_gradient : gradient, weights(c), columns);
    }
  }

  void add_stencil_slopes(int64_t c, const Block& b, GradientRows<T>& gradient) {
    const StencilInput<T> in = stencil_input(c, b);
    for (int i = 0; i < plan_.stencil_count; ++i) {
      const auto& [term, column] = plan_.stencil[i];
      if (const auto sweep = sweep_of(*term)) sweep(in, carry(i, c, b), gradient, weights(c)[column]);
      if (term->gather) term->gather(stencil_flux(i, c, b), gradient, weights(c)[column]);
    }
  }

  void sigmoid_gradient(const Block& b) {
    const Rows<T> gradient = gradient_rows(0, b);
    const Rows<T> logit_gradient = rows_of(logit_gradient_, 0, b);
    const Rows<const T> prediction = rows(kPrediction, 0, b);
    for_each_vector(b, [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
      const V s = V::load(prediction.at(y, x));
      V result = V::load(gradient.at(y, x)) * (s * (V(T(1)) - s));
      if (plan_.from_logit) result += V::load(logit_gradient.at(y, x));
      result.store(gradient.at(y, x));
    });
  }

  // ∂s_i/∂z_j = s_i (δ_ij - s_j)
  void softmax_gradient(const Block& b) {
    const int64_t channels = tiling_.channels;
    const Field field = wanted_[kSoftmax] ? kSoftmax : kPrediction;
    for_each_vector(b, [&](int64_t y, int64_t x) GEOLOSS_LAMBDA_INLINE {
      V mean(T(0));
      for (int64_t c = 0; c < channels; ++c) {
        mean += V::load(rows(field, c, b).at(y, x)) * V::load(gradient_rows(c, b).at(y, x));
      }
      for (int64_t c = 0; c < channels; ++c) {
        T* gradient = gradient_rows(c, b).at(y, x);
        (V::load(rows(field, c, b).at(y, x)) * (V::load(gradient) - mean)).store(gradient);
      }
    });
  }

  const GeoSumsParams& p_;
  const Tiling& tiling_;
  const Plan<T> plan_;
  const bool backward_;
  int64_t n_, c_;  // the batch element and the first channel
  Box tile_;
  int64_t halo_before_, halo_after_;  // rows and planes produced around the tile

  bool wanted_[kFieldCount], in_place_[kFieldCount] = {};
  bool input_in_place_, in_place_gradient_;
  bool all_in_place_;    // there is nothing to produce
  bool error_in_place_;  // no error is stored: its stencils read prediction and target
  Ring<T> ring_[kFieldCount];
  Ring<T> flux_[kMaxTerms][kMaxFluxFields];
  Ring<T> carry_along_z_[kMaxTerms];
  T* carry_along_y_[kMaxTerms];
  Ring<T> gradient_scratch_, logit_gradient_;
  int64_t channel_pitch_;  // between one channel's rows and the next's
  Ring<T> labels_, readable_;
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
  if (backward) fields += plan.flux_fields;
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

const char* geo_sums_term_name(int index) { return term_name(index); }

}  // namespace geoloss::GEOLOSS_ISA
