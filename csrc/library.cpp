// The operators of the package. Each backend implements them in a file of the operator's name.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(geoloss, m) {
  // Sums over the valid voxels of each volume: [N, C', K], one column per term. `terms` is a stream of kind,
  // number of integers, number of parameters, integers for each; `parameters` has the terms' numbers in turn
  // (see checks.h). Numbers, not text: the stable ABI keeps the memory of every str it is given.
  m.def(
      "geo_sums(Tensor input, Tensor target, Tensor? mask, Tensor[] maps, int[] terms, float[] parameters, "
      "int activation, int? ignore_index, bool include_background) -> Tensor");
  m.def(
      "geo_sums_backward(Tensor grad_sums, Tensor input, Tensor target, Tensor? mask, Tensor[] maps, "
      "int[] terms, float[] parameters, int activation, int? ignore_index, bool include_background) "
      "-> Tensor");

  // Eq. 1 on the sums: the fractions that geo_ratio.h explains, reduced to a number or left apart.
  m.def(
      "geo_ratio(Tensor sums, Tensor? channel_weights, int[] fractions, float[] weights, int reduction) "
      "-> Tensor");
  m.def(
      "geo_ratio_backward(Tensor grad_ratio, Tensor sums, Tensor? channel_weights, int[] fractions, "
      "float[] weights, int reduction) -> Tensor");

  // A loss in one call: geo_ratio(geo_sums(...)), and the sums [N, C', K] that it is the ratio of. Its
  // backward takes these sums, so that input and target are read once more and not twice.
  m.def(
      "geo_loss(Tensor input, Tensor target, Tensor? mask, Tensor? channel_weights, Tensor[] maps, "
      "int[] terms, float[] parameters, int activation, int? ignore_index, bool include_background, "
      "int[] fractions, float[] weights, int reduction) -> (Tensor, Tensor)");
  m.def(
      "geo_loss_backward(Tensor grad_loss, Tensor sums, Tensor input, Tensor target, Tensor? mask, "
      "Tensor? channel_weights, Tensor[] maps, int[] terms, float[] parameters, int activation, "
      "int? ignore_index, bool include_background, int[] fractions, float[] weights, int reduction) "
      "-> Tensor");

  // The exact Euclidean distance of each voxel to the nearest one on the other side of the mask's boundary,
  // in the unit of spacing; side: 0 foreground, 1 both, 2 signed. dtype is float64 or float32.
  m.def(
      "distance_transform(Tensor mask, float[] spacing, int side, float without_boundary, ScalarType dtype) "
      "-> Tensor");
  // The same, and that voxel's index in the flattened volume, -1 where there is none.
  m.def(
      "distance_transform_with_indices(Tensor mask, float[] spacing, int side, float without_boundary, "
      "ScalarType dtype) -> (Tensor, Tensor)");

  // What the kernels know of a kind of term: whether it starts from log s, starts from log(1 - s), reads a
  // map, and has a slope.
  m.def("term_properties(int kind) -> int[]");
  m.def("cpu_instruction_set() -> str");
}
