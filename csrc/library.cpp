// Every native op of manvatar, as a schema: the table of contents of csrc/.
//
// An op `name` is implemented in cpu/name.cpp and cuda/name.cu, which register themselves with the dispatcher; what they
// compute for one element is in include/name_math.h, once. Its backward is an op of its own. Python (manvatar/ops/name.py)
// holds the public function with its documentation, the fake kernel, the autograd formula and the plain PyTorch reference.

#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(manvatar, library) {
  // Volume rendering of packed samples -> (rgb, opacity, depth_m, weights).
  library.def(
      "composite(Tensor density_per_m, Tensor length_m, Tensor rgb, Tensor distance_m, Tensor offsets)"
      " -> (Tensor, Tensor, Tensor, Tensor)");
  // -> gradients of (density_per_m, length_m, rgb, distance_m).
  library.def(
      "composite_backward(Tensor grad_rgb, Tensor grad_opacity, Tensor grad_depth_m, Tensor grad_weights,"
      " Tensor density_per_m, Tensor length_m, Tensor rgb, Tensor distance_m, Tensor offsets, Tensor weights)"
      " -> (Tensor, Tensor, Tensor, Tensor)");
  // Trilinear samples of grids of nodes -> (samples, channels).
  library.def("sample_grid(Tensor grid, Tensor unit_points, Tensor? frame) -> Tensor");
  // -> gradients of (grid, unit_points); one that was not asked for is empty.
  library.def(
      "sample_grid_backward(Tensor grad, Tensor grid, Tensor unit_points, Tensor? frame, bool for_grid, bool for_points)"
      " -> (Tensor, Tensor)");
  // Samples of a pyramid of grids at points a motion grid displaces -> (features, displaced points). `in_place` says how
  // the gradient of the levels is handed on.
  library.def(
      "sample_warped(Tensor motion, Tensor[] levels, Tensor unit_points, Tensor frame, Tensor tail, float[] scale,"
      " bool in_place) -> (Tensor, Tensor)");
  // Adds to the gradients of the levels -> gradients of (motion, unit_points); one that was not asked for is empty.
  library.def(
      "sample_warped_backward(Tensor grad, Tensor motion, Tensor[] levels, Tensor unit_points, Tensor frame, Tensor warped,"
      " float[] scale, Tensor(a!)[] grad_levels, bool for_motion, bool for_points) -> (Tensor, Tensor)");
  // Two-layer MLP whose hidden bias is chosen by frame, of inputs and their sines and cosines -> (samples, outputs).
  library.def(
      "mlp(Tensor inputs, Tensor frame, Tensor hidden_weight, Tensor hidden_bias, Tensor out_weight, Tensor out_bias,"
      " int octaves=0, int bfloat16_parts=0) -> Tensor");
  // -> gradients of (inputs, hidden_weight, hidden_bias, out_weight, out_bias).
  library.def(
      "mlp_backward(Tensor grad, Tensor inputs, Tensor frame, Tensor hidden_weight, Tensor hidden_bias, Tensor out_weight,"
      " int octaves=0, int bfloat16_parts=0) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  // Whether mlp can multiply in bfloat16 on the device of a tensor.
  library.def("mlp_has_bfloat16(Tensor on) -> bool");
  // One step of Adam in place; `grad` is zero afterwards. `scale` takes the place of rate and step: rate / (1 - beta1^step)
  // and 1 / sqrt(1 - beta2^step).
  library.def(
      "sparse_adam_(Tensor(a!) parameter, Tensor(b!) grad, Tensor(c!) exp_avg, Tensor(d!) exp_avg_sq, float rate,"
      " float beta1, float beta2, float eps, int step, bool skip_zero_rows, Tensor? scale=None) -> ()");
  // Adds weights^T rows to target, in place: the gradient of sums of grids with coefficients.
  library.def("add_outer_(Tensor(a!) target, Tensor weights, Tensor rows) -> ()");
  // Samples on rays through a grid of occupied cells -> (distance_m, ray, offsets), packed; at most `capacity` of them where
  // that is not negative, and that many rows.
  library.def(
      "march(Tensor origins_m, Tensor directions, Tensor shift, Tensor occupied, Tensor lowest_per_m, float[] lower_m,"
      " float[] upper_m, float step_m, float stop_depth, int margin_steps, int capacity=-1) -> (Tensor, Tensor, Tensor)");
  // The nearest triangle at every pixel centre -> (triangle, barycentric, depth_m).
  library.def(
      "rasterize(Tensor points_px, Tensor depth_m, Tensor triangles, int width, int height, bool cull_back_faces)"
      " -> (Tensor, Tensor, Tensor)");
}
