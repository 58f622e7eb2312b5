// What rasterize asks of its arguments, on every device.
#pragma once

#include "checks.h"
#include "rasterize_math.h"

#include <tuple>

namespace manvatar {

struct RasterizeInputs {
  Tensor points_px, depth_m, triangles;  // contiguous
  int64_t frames, vertices, count;       // count: of triangles
  int32_t width, height;
  bool cull;

  // (triangle, barycentric, depth_m), uninitialised.
  std::tuple<Tensor, Tensor, Tensor> outputs() const {
    const std::vector<int64_t> sizes{frames, height, width};
    return {torch::stable::new_empty(depth_m, {sizes.data(), sizes.size()}, ScalarType::Int),
            empty_of(depth_m, {frames, height, width, 3}), empty_of(depth_m, sizes)};
  }
};

inline RasterizeInputs check_rasterize(
    const Tensor& points_px, const Tensor& depth_m, const Tensor& triangles, int64_t width, int64_t height, bool cull) {
  const char* op = "rasterize";
  if (points_px.scalar_type() != ScalarType::Float)
    fail(op, "(): expected points_px to be float32, got ", torch::headeronly::toString(points_px.scalar_type()));
  check_shape(op, "points_px", points_px, {-1, -1, 2});
  const int64_t frames = points_px.size(0), vertices = points_px.size(1);
  check_like(op, "depth_m", depth_m, "points_px", points_px);
  check_shape(op, "depth_m", depth_m, {frames, vertices});
  check_same_device(op, "triangles", triangles, points_px);
  if (triangles.scalar_type() != ScalarType::Int && triangles.scalar_type() != ScalarType::Long)
    fail(op, "(): expected triangles to be int32 or int64, got ", torch::headeronly::toString(triangles.scalar_type()));
  check_shape(op, "triangles", triangles, {-1, 3});
  if (vertices > 2147483647 || triangles.size(0) > 2147483647)
    fail(op, "(): expected fewer than 2^31 vertices and triangles, got ", vertices, " and ", triangles.size(0));
  if (width < 1 || height < 1 || width > kMaxSide || height > kMaxSide)
    fail(op, "(): expected a size_px of 1 to ", kMaxSide, " pixels each way, got ", width, " x ", height);
  return {dense(points_px), dense(depth_m), dense(triangles), frames, vertices, triangles.size(0),
          static_cast<int32_t>(width), static_cast<int32_t>(height), cull};
}

}  // namespace manvatar
