// Runs programs and stencils of open formulas on rows in memory, for the tests: C functions, for ctypes.
#include <memory>

#include "cpu/open_stencil_rows.h"
#include "cpu/program_rows.h"

using namespace geoloss;
using namespace geoloss::GEOLOSS_ISA;

namespace {

template <class T>
const char* run(Stream<int64_t> integers, Stream<double> numbers, Rows<T>* fields, Rows<T>* outputs,
                Extent size) {
  Program program;
  if (const char* fault = read_program(integers, numbers, program)) return fault;
  if (integers.left != 0 || numbers.left != 0) return "is longer than its counts say";
  const int64_t row = (size.width + Lanes<T>::kCount - 1) / Lanes<T>::kCount * Lanes<T>::kCount;
  const int64_t registers = program.registers * size.rows * row;
  std::unique_ptr<T[]> memory(new T[registers + program.constants * row]);
  Rows<T> operands[kMaxOperands];
  for (int64_t i = 0; i < program.registers; ++i) operands[i] = {memory.get() + i * size.rows * row, row};
  for (int64_t i = 0; i < program.fields; ++i) operands[program.first_field() + i] = fields[i];
  for (int64_t i = 0; i < program.constants; ++i) {
    T* constant = memory.get() + registers + i * row;
    for (int64_t x = 0; x < row; ++x) constant[x] = static_cast<T>(program.constant[i]);
    operands[program.first_constant() + i] = {constant, 0};
  }
  for (int64_t i = 0; i < program.outputs; ++i) operands[program.first_output() + i] = outputs[i];
  run_program<T>(program, operands, size);
  return nullptr;
}

template <class T>
const char* run_volumes(const int64_t* integers, int64_t integer_count, const double* numbers,
                        int64_t number_count, T* const* fields, int64_t field_count, T* const* outputs,
                        int64_t output_count, int64_t rows, int64_t width, int64_t pitch) {
  Rows<T> from[kMaxOperands], to[kMaxOperands];
  for (int64_t i = 0; i < field_count; ++i) from[i] = {fields[i], pitch};
  for (int64_t i = 0; i < output_count; ++i) to[i] = {outputs[i], pitch};
  return run<T>({integers, integer_count}, {numbers, number_count}, from, to, {rows, width});
}

// A volume whose rows have a vector of padding at either end.
template <class T>
struct Padded {
  T* data;  // of voxel (0, 0, 0)
  int64_t D, H, W, pitch;

  NeighbourRows<T> at(int64_t z, int64_t y) const {
    const auto distance = [&](int64_t dz, int64_t dy) { return dz * H * pitch + dy * pitch; };
    return {{data + (z * H + y) * pitch, pitch},
            y > 0 ? distance(0, -1) : 0,
            y + 1 < H ? distance(0, 1) : 0,
            z > 0 ? distance(-1, 0) : 0,
            z + 1 < D ? distance(1, 0) : 0};
  }
  Rows<T> row(int64_t z, int64_t y) const { return {data + (z * H + y) * pitch, pitch}; }
};

template <class T, class Function>
void for_each_line(const Padded<T>& volume, Function function) {
  for (int64_t z = 0; z < volume.D; ++z) {
    for (int64_t y = 0; y < volume.H; ++y) function(z, y);
  }
}

// u, valid (or null), result: padded volumes.
template <class T>
void apply(const OpenComponent<T>& component, Padded<T> u, Padded<T> valid, Padded<T> result) {
  for_each_line(u, [&](int64_t z, int64_t y) {
    const Extent size{1, u.W};
    if (valid.data) {
      apply_masked_stencil(component, u.at(z, y), valid.at(z, y), size, result.row(z, y));
    } else {
      apply_stencil(component, u.at(z, y), size, result.row(z, y));
    }
  });
}

// The flux is changed; own is scratch.
template <class T>
void gather(const OpenComponent<T>& component, Padded<T> flux, Padded<T> valid, Padded<T> own,
            Padded<T> gradient) {
  if (valid.data) {
    for_each_line(flux, [&](int64_t z, int64_t y) {
      mask_flux(component, valid.at(z, y), {1, flux.W}, flux.row(z, y), own.row(z, y));
    });
  }
  for_each_line(flux, [&](int64_t z, int64_t y) {
    T* row = flux.row(z, y).at(0);
    row[-1] = row[flux.W] = 0;
  });
  for_each_line(flux, [&](int64_t z, int64_t y) {
    GatherList<T> list;
    list.add_component(component, flux.at(z, y), {z == 0, z + 1 == flux.D, y == 0, y + 1 == flux.H},
                       !valid.data);
    GradientRows<T> rows{gradient.row(z, y), {1, flux.W}};
    gather_rows<T>(list, valid.data ? Rows<const T>(own.row(z, y)) : Rows<const T>{}, rows, T(1));
  });
}

template <class T>
void stencil_and_adjoint(int64_t taps, const int64_t* codes, const double* weights, double centre,
                         bool needs_all, const int64_t* size, int64_t pitch, T* u, T* valid, T* result,
                         T* flux, T* own, T* gradient) {
  const auto component = open_component<T>({needs_all, taps, codes, centre, weights});
  const auto padded = [&](T* data) { return Padded<T>{data, size[0], size[1], size[2], pitch}; };
  apply(component, padded(u), padded(valid), padded(result));
  gather(component, padded(flux), padded(valid), padded(own), padded(gradient));
}

}  // namespace

#define EXPORTS(T, suffix)                                                                                   \
  extern "C" const char* run_program_##suffix(const int64_t* integers, int64_t integer_count,                \
                                              const double* numbers, int64_t number_count, T* const* fields, \
                                              int64_t field_count, T* const* outputs, int64_t output_count,  \
                                              int64_t rows, int64_t width, int64_t pitch) {                  \
    return run_volumes<T>(integers, integer_count, numbers, number_count, fields, field_count, outputs,      \
                          output_count, rows, width, pitch);                                                 \
  }                                                                                                          \
  extern "C" void stencil_##suffix(int64_t taps, const int64_t* codes, const double* weights, double centre, \
                                   bool needs_all, const int64_t* size, int64_t pitch, T* u, T* valid,       \
                                   T* result, T* flux, T* own, T* gradient) {                                \
    stencil_and_adjoint<T>(taps, codes, weights, centre, needs_all, size, pitch, u, valid, result, flux,     \
                           own, gradient);                                                                   \
  }

EXPORTS(float, float)
EXPORTS(double, double)
