// One triangle on the screen, host and device.
//
// Corners are rounded to 1/1024 px. Edge functions of rounded corners are whole numbers without rounding errors (int32 for
// small triangles, float64 for the others, exact up to 32768 px from the origin), so a pixel centre on the edge of two
// triangles belongs to one of them, and how the work is divided changes no bit.
#pragma once

#include "multiversion.h"

#include <torch/headeronly/macros/Macros.h>

#include <cfloat>
#include <cmath>
#include <cstdint>

#define MANVATAR_RASTER C10_HOST_DEVICE MANVATAR_INLINE

namespace manvatar {

constexpr int kUnitBits = 10;
constexpr int32_t kUnits = 1 << kUnitBits;   // units of a pixel; pixel i has its centre at i kUnits + kUnits / 2
constexpr int32_t kSmall = 16 * kUnits;      // sides of a triangle whose edge functions fit into int32
constexpr int64_t kMaxSide = 16384;          // pixels; its units and kSmall more are exact in float32
constexpr float kFarUnits = 1073741824.0f;   // 2^30: outside any picture, and inside int32

// A vertex on the screen. inverse_depth is 0 where it cannot be drawn.
struct Corner {
  float x, y;  // units, whole numbers
  float inverse_depth;
  float unused;
};

// Conditions are written so that NaN fails them.
MANVATAR_RASTER Corner corner_of(float x_px, float y_px, float depth_m) {
  const float x = rintf(x_px * kUnits), y = rintf(y_px * kUnits), inverse = 1 / depth_m;
  const bool usable = fabsf(x) <= FLT_MAX && fabsf(y) <= FLT_MAX && inverse >= FLT_MIN && inverse <= FLT_MAX;
  return {usable ? x : 0.0f, usable ? y : 0.0f, usable ? inverse : 0.0f, 0.0f};
}

MANVATAR_RASTER int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }
MANVATAR_RASTER int32_t larger(int32_t a, int32_t b) { return a < b ? b : a; }
MANVATAR_RASTER int32_t centre(int32_t pixel) { return pixel * kUnits + kUnits / 2; }

// The pixels whose centres may lie in a triangle, both ends included.
struct PixelBox {
  int32_t x0, y0, x1, y1;
  bool small;  // int32 will do

  MANVATAR_RASTER bool empty() const { return x0 > x1 || y0 > y1; }
};

MANVATAR_RASTER int32_t clamped_units(float x) {
  return static_cast<int32_t>(x < -kFarUnits ? -kFarUnits : x > kFarUnits ? kFarUnits : x);
}

// Within columns 0..width-1 and rows row0..row1-1.
MANVATAR_RASTER PixelBox box_of(
    const Corner& a, const Corner& b, const Corner& c, int32_t width, int32_t row0, int32_t row1) {
  const int32_t ax = clamped_units(a.x), bx = clamped_units(b.x), cx = clamped_units(c.x);
  const int32_t ay = clamped_units(a.y), by = clamped_units(b.y), cy = clamped_units(c.y);
  const int32_t left = smaller(smaller(ax, bx), cx), right = larger(larger(ax, bx), cx);
  const int32_t top = smaller(smaller(ay, by), cy), bottom = larger(larger(ay, by), cy);
  constexpr int32_t half = kUnits / 2;
  return {larger(0, (left + half - 1) >> kUnitBits), larger(row0, (top + half - 1) >> kUnitBits),
          smaller(width - 1, (right - half) >> kUnitBits), smaller(row1 - 1, (bottom - half) >> kUnitBits),
          right - left <= kSmall && bottom - top <= kSmall};
}

// Edge i lies opposite corner i. Its function a (x - at_x) + b (y - at_y) is positive inside, and its value over `area`
// (twice the triangle's) is the barycentric weight of corner i. Left and top edges belong to the triangle: their bias is 0,
// that of the others -1, and a centre is covered where function + bias >= 0 for all three.
template <class E>
struct Edges {
  E a[3], b[3], at_x[3], at_y[3], bias[3];
  E area;
  bool back;  // corners run clockwise on the screen

  MANVATAR_RASTER E value(int i, E x, E y) const { return a[i] * (x - at_x[i]) + b[i] * (y - at_y[i]); }
};

template <class E>
MANVATAR_RASTER E magnitude(E x) {
  return x < 0 ? -x : x;
}

// area is 0 where there is nothing to draw. E is int32_t only for a small triangle with a box that is not empty.
template <class E>
MANVATAR_RASTER Edges<E> edges_of(const Corner& c0, const Corner& c1, const Corner& c2) {
  const E x[3] = {static_cast<E>(c0.x), static_cast<E>(c1.x), static_cast<E>(c2.x)};
  const E y[3] = {static_cast<E>(c0.y), static_cast<E>(c1.y), static_cast<E>(c2.y)};
  Edges<E> edges;
  const E area = (x[1] - x[0]) * (y[2] - y[0]) - (y[1] - y[0]) * (x[2] - x[0]);
  edges.back = area > 0;  // y points down
  edges.area = magnitude(area);
  const E sign = area < 0 ? E(-1) : E(1);
  for (int i = 0; i < 3; ++i) {
    const int from = i == 2 ? 0 : i + 1, to = i == 0 ? 2 : i - 1;
    edges.a[i] = sign * (y[from] - y[to]);
    edges.b[i] = sign * (x[to] - x[from]);
    // Far away float64 rounds; both triangles at an edge must then do it alike, so both start from the same end: the one
    // nearer to the picture, which rounds less.
    const E start = magnitude(x[from]) + magnitude(y[from]), end = magnitude(x[to]) + magnitude(y[to]);
    const bool swap = end < start || (end == start && (x[to] < x[from] || (x[to] == x[from] && y[to] < y[from])));
    edges.at_x[i] = swap ? x[to] : x[from];
    edges.at_y[i] = swap ? y[to] : y[from];
    edges.bias[i] = edges.a[i] > 0 || (edges.a[i] == 0 && edges.b[i] > 0) ? E(0) : E(-1);
  }
  return edges;
}

// What a covered centre has: weights of the corners, each over its depth and normalised (perspective correct), and depth.
MANVATAR_RASTER void fragment(
    const Corner& c0, const Corner& c1, const Corner& c2, int32_t column, int32_t row, float* barycentric, float& depth_m) {
  const double px = centre(column), py = centre(row);
  const double x0 = c0.x - px, y0 = c0.y - py, x1 = c1.x - px, y1 = c1.y - py, x2 = c2.x - px, y2 = c2.y - py;
  const double e0 = x1 * y2 - x2 * y1, e1 = x2 * y0 - x0 * y2, e2 = x0 * y1 - x1 * y0;
  const double w0 = e0 * c0.inverse_depth, w1 = e1 * c1.inverse_depth, w2 = e2 * c2.inverse_depth;
  const double scale = 1 / (w0 + w1 + w2);
  barycentric[0] = static_cast<float>(w0 * scale);
  barycentric[1] = static_cast<float>(w1 * scale);
  barycentric[2] = static_cast<float>(w2 * scale);
  depth_m = static_cast<float>((e0 + e1 + e2) * scale);
}

}  // namespace manvatar
