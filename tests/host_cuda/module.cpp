// The launch layer of csrc/cuda, bound for tests: NumPy arrays in and out, without torch.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cuda/distance_transform.cuh"
#include "cuda/launch.cuh"
#include "cuda/ratio.cuh"
#include "cuda_on_host.h"

namespace py = pybind11;

namespace geoloss::cuda {
namespace {

// An array of the elements' bits, and the name of the dtype that torch reads them as.
using Tensor = std::pair<py::array, std::string>;

DType dtype_of(const std::string& name) {
  static const std::vector<std::string> names = {"float64", "float32", "float16", "bfloat16", "bool",
                                                 "uint8",   "uint16",  "uint32",  "uint64",   "int8",
                                                 "int16",   "int32",   "int64"};
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) throw py::value_error("dtype: got " + name);
  return static_cast<DType>(found - names.begin());
}

// [N, C, *spatial] as [N, C, D, H, W], D = 1 in 2-D; a size of 1 is repeated.
TensorView view_of(const Tensor& tensor) {
  const auto& [array, dtype] = tensor;
  const auto stride = [&](py::ssize_t axis) { return array.strides(axis) / array.itemsize(); };
  const auto repeated = [&](py::ssize_t axis) { return array.shape(axis) == 1 ? 0 : stride(axis); };
  const py::ssize_t axes = array.ndim();
  return {const_cast<void*>(array.data()), dtype_of(dtype),  repeated(0),     repeated(1),
          axes == 5 ? stride(2) : 0,       stride(axes - 2), stride(axes - 1)};
}

Activation activation_of(const std::string& name) {
  if (name == "none") return Activation::kNone;
  return name == "sigmoid" ? Activation::kSigmoid : Activation::kSoftmax;
}

// N, C, D, H, W of [N, C, *spatial]; how many axes are spatial.
template <class Params>
int64_t set_shape(Params& p, const py::array& array) {
  const int64_t spatial = array.ndim() - 2;
  p.N = array.shape(0);
  p.C = array.shape(1);
  p.D = spatial == 3 ? array.shape(2) : 1;
  p.H = array.shape(spatial);
  p.W = array.shape(spatial + 1);
  return spatial;
}

// The arguments of geo_sums, as checks.h reads them.
struct Arguments {
  GeoSumsParams params{};
  std::vector<std::string> terms;

  Arguments(const Tensor& input, const Tensor& target, const std::optional<Tensor>& mask,
            const std::optional<Tensor>& map, std::vector<std::string> terms_, const std::string& activation,
            const std::vector<double>& spacing, const std::vector<int64_t>& axes,
            std::optional<int64_t> ignore_index, bool include_background)
      : terms(std::move(terms_)) {
    GeoSumsParams& p = params;
    const int64_t spatial = set_shape(p, input.first);
    p.input = view_of(input);
    p.target = view_of(target);
    p.label_map = p.C > 1 && target.first.shape(1) == 1;
    if (mask) p.mask = view_of(*mask);
    if (map) p.map = view_of(*map);
    p.activation = activation_of(activation);
    p.has_ignore_index = ignore_index.has_value();
    p.ignore_index = static_cast<double>(ignore_index.value_or(0));
    p.first_channel = include_background ? 0 : 1;
    p.inverse_spacing[0] = 1;
    p.axis_chosen[0] = spatial == 2;
    for (int64_t i = 0; i < spatial; ++i) p.inverse_spacing[3 - spatial + i] = 1 / spacing[i];
    for (const int64_t axis : axes) p.axis_chosen[3 - spatial + axis] = true;
    p.term_count = static_cast<int64_t>(terms.size());
    if (p.term_count > kMaxTerms) throw py::value_error("terms: too many");
    for (int64_t k = 0; k < p.term_count; ++k) {
      if (term_number(terms[k].c_str(), false) < 0) throw py::value_error("terms: got " + terms[k]);
      p.terms[k] = terms[k].c_str();
    }
  }
  Arguments(const Arguments&) = delete;  // the params point into the terms
};

Ratio ratio_of(const std::vector<double>& numerator, const std::vector<double>& denominator, int64_t terms) {
  Ratio ratio{};
  ratio.fractions = static_cast<int64_t>(numerator.size()) / (terms + 1);
  if (ratio.fractions > kMaxFractions || denominator.size() != numerator.size()) {
    throw py::value_error("numerator, denominator: wrong sizes");
  }
  std::copy(numerator.begin(), numerator.end(), ratio.numerator);
  std::copy(denominator.begin(), denominator.end(), ratio.denominator);
  return ratio;
}

void check(cudaError_t error) {
  if (error != cudaSuccess) throw py::value_error("cudaError_t " + std::to_string(error));
}

template <class T>
using Array = py::array_t<T, py::array::c_style>;

// sums: [N, C', K]; loss: [N, C'] and the ratio's numbers, or none of them.
template <class T>
void forward(const Arguments& arguments, Array<T> sums, std::optional<Array<T>> loss,
             const std::vector<double>& numerator, const std::vector<double>& denominator) {
  const LaunchParams params = launch_params<T>(arguments.params, false);
  std::vector<unsigned char> workspace(workspace_bytes<T>(params), 0xff);  // NaN
  const Ratio ratio = ratio_of(numerator, denominator, arguments.params.term_count);
  check(launch_forward<T>(params, ratio, workspace.data(), sums.mutable_data(),
                          loss ? loss->mutable_data() : nullptr, nullptr));
}

template <class T>
void backward(const Arguments& arguments, Array<T> grad_sums, const Tensor& grad_input) {
  GeoSumsParams tensors = arguments.params;
  tensors.grad_sums = grad_sums.data();
  tensors.grad_input = view_of(grad_input);
  check(launch_backward<T>(launch_params<T>(tensors, true), nullptr));
}

// sums: [rows, K]; ratio_of_row: [rows]
template <class T>
void ratio(Array<T> sums, const std::vector<double>& numerator, const std::vector<double>& denominator,
           Array<T> ratio_of_row) {
  check(launch_ratio<T>(ratio_of(numerator, denominator, sums.shape(1)), sums.data(), sums.shape(0),
                        sums.shape(1), ratio_of_row.mutable_data(), nullptr));
}

template <class T>
void ratio_backward(Array<T> grad_ratio, Array<T> sums, const std::vector<double>& numerator,
                    const std::vector<double>& denominator, Array<T> grad_sums) {
  check(launch_ratio_backward<T>(ratio_of(numerator, denominator, sums.shape(1)), grad_ratio.data(),
                                 sums.data(), sums.shape(0), sums.shape(1), grad_sums.mutable_data(),
                                 nullptr));
}

Side side_of(const std::string& name) {
  if (name == "foreground") return Side::kForeground;
  return name == "both" ? Side::kBoth : Side::kSigned;
}

template <class T>
void run_distance_transform(const DistanceParams& params) {
  std::vector<unsigned char> workspace(distance_workspace_bytes<T>(params), 0xff);  // NaN
  check(launch_distance_transform<T>(params, workspace.data(), nullptr));
}

// distance: of Out and the mask's shape; nearest: the same, int64
template <class Out>
void distance_transform(const Tensor& mask, const std::vector<double>& spacing, const std::string& side,
                        double without_boundary, Array<Out> distance, std::optional<Array<int64_t>> nearest) {
  DistanceParams p{};
  const int64_t spatial = set_shape(p, mask.first);
  p.mask = view_of(mask);
  p.spacing[0] = spacing[0];
  std::copy(spacing.begin(), spacing.end(), p.spacing + 3 - spatial);
  p.side = side_of(side);
  p.without_boundary = without_boundary;
  p.fp64 = sizeof(Out) == 8;
  p.distance = distance.mutable_data();
  if (nearest) p.nearest = nearest->mutable_data();
  (fp32_is_exact(p) ? run_distance_transform<float> : run_distance_transform<double>)(p);
}

// A copy or a conversion would hide where the kernels write.
template <class T>
void bind(py::module_& m) {
  m.def("forward", &forward<T>, py::arg("arguments"), py::arg("sums").noconvert(),
        py::arg("loss").noconvert(), py::arg("numerator"), py::arg("denominator"));
  m.def("backward", &backward<T>, py::arg("arguments"), py::arg("grad_sums").noconvert(),
        py::arg("grad_input"));
  m.def("ratio", &ratio<T>, py::arg("sums").noconvert(), py::arg("numerator"), py::arg("denominator"),
        py::arg("ratio_of_row").noconvert());
  m.def("ratio_backward", &ratio_backward<T>, py::arg("grad_ratio").noconvert(), py::arg("sums").noconvert(),
        py::arg("numerator"), py::arg("denominator"), py::arg("grad_sums").noconvert());
  m.def("distance_transform", &distance_transform<T>, py::arg("mask"), py::arg("spacing"), py::arg("side"),
        py::arg("without_boundary"), py::arg("distance").noconvert(), py::arg("nearest").noconvert());
}

void set_schedule(const std::string& order, uint64_t seed) {
  using cuda_on_host::Order;
  if (order != "forward" && order != "reverse" && order != "random")
    throw py::value_error("order: got " + order);
  cuda_on_host::set_schedule(order == "forward"   ? Order::kForward
                             : order == "reverse" ? Order::kReverse
                                                  : Order::kRandom,
                             seed);
}

py::dict statistics() {
  const cuda_on_host::Statistics& s = cuda_on_host::statistics();
  py::dict counts;
  counts["launches"] = s.launches;
  counts["threads"] = s.threads;
  counts["barriers"] = s.barriers;
  counts["exchanges"] = s.exchanges;
  return counts;
}

}  // namespace
}  // namespace geoloss::cuda

PYBIND11_MODULE(cuda_on_host, m) {
  using namespace geoloss::cuda;
  py::register_exception<cuda_on_host::Error>(m, "Error", PyExc_RuntimeError);
  py::class_<Arguments>(m, "Arguments")
      .def(py::init<const Tensor&, const Tensor&, const std::optional<Tensor>&, const std::optional<Tensor>&,
                    std::vector<std::string>, const std::string&, const std::vector<double>&,
                    const std::vector<int64_t>&, std::optional<int64_t>, bool>(),
           py::keep_alive<1, 2>(), py::keep_alive<1, 3>(), py::keep_alive<1, 4>(), py::keep_alive<1, 5>());
  bind<float>(m);
  bind<double>(m);
  m.def("set_schedule", &set_schedule);
  m.def("statistics", &statistics);
}
