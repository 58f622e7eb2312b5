// Trilinear interpolation of a grid of nodes, host and device.
//
// A grid is (batch, z, y, x, channels), dense. Node 0 lies on the lower bound and node n - 1 on the upper one, so the unit
// coordinate u in [0, 1] stands at u (n - 1) nodes; outside it is clamped, and the derivative there is 0.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

// Small functions of vectors must be inlined, or they are compiled for the oldest processor there is.
#define MANVATAR_MATH C10_HOST_DEVICE inline __attribute__((always_inline))
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // how vectors would be passed does not matter, since they never are
#endif

namespace manvatar {

struct GridShape {
  int64_t batch, z, y, x, channels;

  C10_HOST_DEVICE int64_t planes() const { return batch * z; }
  C10_HOST_DEVICE int64_t plane_size() const { return y * x * channels; }
};

// Where a point is: its lowest corner as plane (over batch and z) and offset within the plane, in elements; how far it is
// from that corner (0..1 on each axis); and how many nodes a unit coordinate spans, 0 where it is clamped.
template <class T>
struct Cell {
  int64_t plane, offset;
  T fx, fy, fz;
  T slope_x, slope_y, slope_z;
};

// Conditions are written so that NaN takes the branch to node 0 and stays in the fraction: it never becomes an address.
template <class T>
C10_HOST_DEVICE inline int64_t locate_axis(T unit, int64_t nodes, T& fraction, T& slope) {
  const T limit = static_cast<T>(nodes - 1);
  const T position = (unit < 0 ? T(0) : unit > 1 ? T(1) : unit) * limit;
  int64_t lower = position > 0 ? static_cast<int64_t>(position) : 0;
  if (lower > nodes - 2) lower = nodes - 2;
  fraction = position - static_cast<T>(lower);
  slope = unit >= 0 && unit <= 1 ? limit : T(0);
  return lower;
}

// `unit` is (x, y, z).
template <class T>
C10_HOST_DEVICE inline Cell<T> locate(const T* unit, int64_t frame, const GridShape& shape) {
  Cell<T> cell;
  const int64_t x = locate_axis(unit[0], shape.x, cell.fx, cell.slope_x);
  const int64_t y = locate_axis(unit[1], shape.y, cell.fy, cell.slope_y);
  const int64_t z = locate_axis(unit[2], shape.z, cell.fz, cell.slope_z);
  cell.plane = frame * shape.z + z;
  cell.offset = (y * shape.x + x) * shape.channels;
  return cell;
}

// From here on V is what is interpolated: one channel (T), or on the CPU a vector of some channels.
template <class V, class T>
MANVATAR_MATH V lerp(V a, V b, T f) {
  return a + f * (b - a);
}

// The eight nodes around a point, first those nearer in z.
template <class V>
struct Corners {
  V n000, n100, n010, n110, n001, n101, n011, n111;  // named x, y, z
};

// `corner` is the first channel of the lowest corner, the arguments *_step lead to the next node; load(p) reads a V from p.
template <class T, class Load>
MANVATAR_MATH auto corners_at(const T* corner, int64_t x_step, int64_t y_step, int64_t z_step, const Load& load) {
  const T* far = corner + z_step;
  return Corners<decltype(load(corner))>{load(corner), load(corner + x_step), load(corner + y_step),
                                         load(corner + y_step + x_step), load(far), load(far + x_step), load(far + y_step),
                                         load(far + y_step + x_step)};
}

template <class V, class T>
MANVATAR_MATH V interpolate(const Corners<V>& n, T fx, T fy, T fz) {
  const V a = lerp(lerp(n.n000, n.n100, fx), lerp(n.n010, n.n110, fx), fy);
  const V b = lerp(lerp(n.n001, n.n101, fx), lerp(n.n011, n.n111, fx), fy);
  return lerp(a, b, fz);
}

// Adds grad * (the derivatives by x, y and z, in nodes) to dx, dy and dz.
template <class V, class T>
MANVATAR_MATH void add_derivatives(const Corners<V>& n, T fx, T fy, T fz, V grad, V& dx, V& dy, V& dz) {
  const V e0 = n.n100 - n.n000, e1 = n.n110 - n.n010, e2 = n.n101 - n.n001, e3 = n.n111 - n.n011;
  const V l0 = n.n000 + fx * e0, l1 = n.n010 + fx * e1, l2 = n.n001 + fx * e2, l3 = n.n011 + fx * e3;
  dx += grad * lerp(lerp(e0, e1, fy), lerp(e2, e3, fy), fz);
  dy += grad * lerp(l1 - l0, l3 - l2, fz);
  dz += grad * (lerp(l2, l3, fy) - lerp(l0, l1, fy));
}

// Adds the transpose of `interpolate` within one plane, the share `fz` of it: add(p, weight) adds weight * grad at p.
template <class T, class Add>
MANVATAR_MATH void spread_in_plane(T* corner, int64_t x_step, int64_t y_step, T fx, T fy, T fz, const Add& add) {
  T* far = corner + y_step;
  add(corner, (1 - fx) * (1 - fy) * fz);
  add(corner + x_step, fx * (1 - fy) * fz);
  add(far, (1 - fx) * fy * fz);
  add(far + x_step, fx * fy * fz);
}

}  // namespace manvatar
