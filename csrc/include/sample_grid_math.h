// Trilinear interpolation of a grid of nodes, host and device.
//
// A grid is (batch, z, y, x, channels), dense. Node 0 lies on the lower bound and node n - 1 on the upper one, so the unit
// coordinate u in [0, 1] stands at u (n - 1) nodes; outside it is clamped, and the derivative there is 0.
#pragma once

#include <torch/headeronly/macros/Macros.h>

#include <cstdint>

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

template <class T>
C10_HOST_DEVICE inline T lerp(T a, T b, T f) {
  return a + f * (b - a);
}

// One channel at a point: `corner` is that channel of the lowest corner, the arguments *_step lead to the next node.
template <class T>
C10_HOST_DEVICE inline T interpolate(
    const T* corner, int64_t x_step, int64_t y_step, int64_t z_step, T fx, T fy, T fz) {
  const T* near = corner;
  const T* far = corner + z_step;
  const T a = lerp(lerp(near[0], near[x_step], fx), lerp(near[y_step], near[y_step + x_step], fx), fy);
  const T b = lerp(lerp(far[0], far[x_step], fx), lerp(far[y_step], far[y_step + x_step], fx), fy);
  return lerp(a, b, fz);
}

// Adds grad * (the derivatives of one channel by x, y and z, in nodes) to dx, dy and dz.
template <class T>
C10_HOST_DEVICE inline void add_derivatives(
    const T* corner, int64_t x_step, int64_t y_step, int64_t z_step, T fx, T fy, T fz, T grad, T& dx, T& dy, T& dz) {
  const T* near = corner;
  const T* far = corner + z_step;
  const T e0 = near[x_step] - near[0], e1 = near[y_step + x_step] - near[y_step];
  const T e2 = far[x_step] - far[0], e3 = far[y_step + x_step] - far[y_step];
  const T l0 = near[0] + fx * e0, l1 = near[y_step] + fx * e1, l2 = far[0] + fx * e2, l3 = far[y_step] + fx * e3;
  dx += grad * lerp(lerp(e0, e1, fy), lerp(e2, e3, fy), fz);
  dy += grad * lerp(l1 - l0, l3 - l2, fz);
  dz += grad * (lerp(l2, l3, fy) - lerp(l0, l1, fy));
}

}  // namespace manvatar
