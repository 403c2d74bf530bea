// SPDX-FileCopyrightText: The yolox_trt authors
// SPDX-License-Identifier: Apache-2.0
//
// How a tensor of channels, rows and columns lies in memory.

#pragma once

#include "common.cuh"

// Where a level's box, objectness or classes lie, or the logits of a segmentation head. Element
// (channel, row, column) is at
//   (channel >> shift) * group_step + (channel & (2^shift - 1)) + row * row_step
//   + column * cell_step
// which covers planes (shift 0, one channel a group), a tensor (N, A, 5 + C) (shift 30) and the
// DLA's packed formats (shift 4 or 5). The same fields in the same order: descriptors.PLANE.
struct Plane {
  u64 data;        // address of image 0
  u64 image_step;  // elements from one image to the next
  int first_channel;
  int shift;
  int group_step;
  int row_step, cell_step;
  float scale;  // int8: real value of one step
};

// First element of a cell, its channel 0 of the group that first_channel lies in.
template <typename T>
__device__ __forceinline__ const T* cell_of(const Plane& plane, int image, int row, int column) {
  return (const T*)plane.data + image * plane.image_step + (u64)row * plane.row_step +
         (u64)column * plane.cell_step;
}

__device__ __forceinline__ u64 channel_offset(const Plane& plane, int channel) {
  channel += plane.first_channel;
  return (u64)(channel >> plane.shift) * plane.group_step + (channel & ((1 << plane.shift) - 1));
}
