// The operators of the package. Each backend implements them in a file of the operator's name.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(geoloss, m) {
  // Sums over the valid voxels of each volume: [N, C', K], one column per term.
  m.def(
      "geo_sums(Tensor input, Tensor target, Tensor? mask, Tensor? map, str[] terms, str activation, "
      "float[] spacing, int[] axes, int? ignore_index, bool include_background) -> Tensor");
  m.def(
      "geo_sums_backward(Tensor grad_sums, Tensor input, Tensor target, Tensor? mask, Tensor? map, "
      "str[] terms, str activation, float[] spacing, int[] axes, int? ignore_index, "
      "bool include_background) -> Tensor");

  // Eq. 1 on the sums S: Σ_j (n_j · [S, 1]) / (d_j · [S, 1]), with the rows n_j and d_j of K + 1 numbers.
  m.def("geo_ratio(Tensor sums, float[] numerator, float[] denominator) -> Tensor");
  m.def(
      "geo_ratio_backward(Tensor grad_ratio, Tensor sums, float[] numerator, float[] denominator) "
      "-> Tensor");

  // A loss in one call: geo_ratio(geo_sums(...)) [N, C'], and the sums [N, C', K] that it is the ratio of.
  // Its backward takes these sums, so that input and target are read once more and not twice.
  m.def(
      "geo_loss(Tensor input, Tensor target, Tensor? mask, Tensor? map, str[] terms, str activation, "
      "float[] spacing, int[] axes, int? ignore_index, bool include_background, float[] numerator, "
      "float[] denominator) -> (Tensor, Tensor)");
  m.def(
      "geo_loss_backward(Tensor grad_loss, Tensor sums, Tensor input, Tensor target, Tensor? mask, "
      "Tensor? map, str[] terms, str activation, float[] spacing, int[] axes, int? ignore_index, "
      "bool include_background, float[] numerator, float[] denominator) -> Tensor");

  // The exact Euclidean distance of each voxel to the nearest one on the other side of the mask's boundary,
  // in the unit of spacing; side: "foreground", "both" or "signed". dtype is float64 or float32.
  m.def(
      "distance_transform(Tensor mask, float[] spacing, str side, float without_boundary, ScalarType dtype) "
      "-> Tensor");
  // The same, and that voxel's index in the flattened volume, -1 where there is none.
  m.def(
      "distance_transform_with_indices(Tensor mask, float[] spacing, str side, float without_boundary, "
      "ScalarType dtype) -> (Tensor, Tensor)");

  m.def("cpu_instruction_set() -> str");
}
