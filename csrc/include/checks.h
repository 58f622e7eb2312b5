// Checks of tensor arguments. Every message says function, argument, what was expected and what came.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace manvatar {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Throws what arrives in Python as RuntimeError("<parts>"), without file names or a C++ stack in the text.
template <class... Parts>
[[noreturn]] inline void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::runtime_error(text.str());
}

inline std::string shape_text(const Tensor& tensor) {
  std::ostringstream text;
  text << '(';
  for (int64_t d = 0; d < tensor.dim(); ++d) text << (d ? ", " : "") << tensor.size(d);
  text << (tensor.dim() == 1 ? ",)" : ")");
  return text.str();
}

// `sizes`: -1 stands for any size.
inline void check_shape(const char* op, const char* argument, const Tensor& tensor, const std::vector<int64_t>& sizes) {
  bool right = tensor.dim() == static_cast<int64_t>(sizes.size());
  for (size_t d = 0; right && d < sizes.size(); ++d) right = sizes[d] < 0 || tensor.size(d) == sizes[d];
  if (right) return;
  std::ostringstream expected;
  expected << '(';
  for (size_t d = 0; d < sizes.size(); ++d) {
    expected << (d ? ", " : "");
    if (sizes[d] < 0) expected << '*'; else expected << sizes[d];
  }
  expected << (sizes.size() == 1 ? ",)" : ")");
  fail(op, "(): expected ", argument, " of shape ", expected.str(), ", got ", shape_text(tensor));
}

inline void check_floating(const char* op, const char* argument, const Tensor& tensor) {
  if (tensor.scalar_type() == ScalarType::Float || tensor.scalar_type() == ScalarType::Double) return;
  fail(op, "(): expected ", argument, " to be float32 or float64, got ", torch::headeronly::toString(tensor.scalar_type()));
}

inline void check_int64(const char* op, const char* argument, const Tensor& tensor) {
  if (tensor.scalar_type() == ScalarType::Long) return;
  fail(op, "(): expected ", argument, " to be int64, got ", torch::headeronly::toString(tensor.scalar_type()));
}

inline void check_same_device(const char* op, const char* argument, const Tensor& tensor, const Tensor& like) {
  if (tensor.device() == like.device()) return;
  fail(op, "(): expected ", argument, " on the device of the first argument, got another device");
}

// Same dtype and device as `like`, which is called `name`.
inline void check_like(const char* op, const char* argument, const Tensor& tensor, const char* name, const Tensor& like) {
  check_same_device(op, argument, tensor, like);
  if (tensor.scalar_type() == like.scalar_type()) return;
  fail(op, "(): expected ", argument, " of the dtype of ", name, " (", torch::headeronly::toString(like.scalar_type()),
       "), got ", torch::headeronly::toString(tensor.scalar_type()));
}

inline Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

inline Tensor empty_of(const Tensor& like, const std::vector<int64_t>& sizes) {
  return torch::stable::new_empty(like, {sizes.data(), sizes.size()});
}

// Calls f<float>() or f<double>() by the dtype of a tensor that check_floating has passed.
template <class F>
inline auto dispatch_floating(const Tensor& tensor, const F& f) {
  return tensor.scalar_type() == ScalarType::Double ? f.template operator()<double>() : f.template operator()<float>();
}

}  // namespace manvatar
