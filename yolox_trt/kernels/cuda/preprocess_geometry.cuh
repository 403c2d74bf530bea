// SPDX-FileCopyrightText: The yolox_trt authors
// SPDX-License-Identifier: Apache-2.0
//
// Which source pixels each network pixel samples: core.letterbox.Letterbox, in floats.

#pragma once
#include "common.cuh"

enum { BGR8 = 0, RGB8 = 1, BGRA8 = 2, RGBA8 = 3, MONO8 = 4, NV12 = 5, UYVY = 6, YUY2 = 7 };

// One image of the batch. The same fields in the same order: descriptors.IMAGE.
struct Image {
  u64 data;    // address of the image's first byte
  u64 chroma;  // nv12: address of the interleaved chroma plane
  int step;    // bytes from one row to the next
  int encoding;
  int roi_x, roi_y, roi_width, roi_height;  // source pixels
  int resized_width, resized_height;        // network pixels that carry the image
  float ratio_x, ratio_y;                   // source pixels for each network pixel
  int swap;                                 // first and third channel change places
  int compact;  // rows 2 i and 2 i + 1, of each plane, are the taps of network row i; no others
};

// The padding before the image, in network pixels. Where there is none, these are not even called:
// the code of an image in the corner has no trace of them.
__device__ __forceinline__ int left_of(const Image& image) {
  return (WIDTH - image.resized_width) / 2;
}
__device__ __forceinline__ int top_of(const Image& image) {
  return (HEIGHT - image.resized_height) / 2;
}

// Where an axis samples, inside a Roi: first tap, and the second tap's weight.
struct Sample {
  u32 tap;
  float weight;
};

__device__ __forceinline__ Sample sample(int position, float ratio, int first, int size) {
  // One rounding, as staging.compact_rows reckons.
  float source = fmaf((float)position + 0.5f, ratio, -0.5f);
  source = fminf(fmaxf(source, 0.0f), (float)(size - 1));
  // The last pixel is the second tap of its left neighbour, so that no tap leaves the Roi.
  const int floor = max(min((int)source, size - 2), 0);
  Sample result;
  result.tap = (u32)(first + floor);
  result.weight = source - (float)floor;
  return result;
}

// The rows that a network row samples, in the luma plane and (nv12) in the chroma plane.
struct RowTaps {
  u32 above, below;
  u32 chroma_above, chroma_below;
  float weight;  // of `below`
};

__device__ __forceinline__ RowTaps taps_of_row(const Image& image, int row) {
  row = min(row, image.resized_height - 1);
#if CENTRED
  row = max(row, 0);  // a tile may begin in the padding above
#endif
  const Sample y = sample(row, image.ratio_y, image.roi_y, image.roi_height);
  RowTaps taps;
  taps.weight = y.weight;
  taps.above = y.tap;
  taps.below = y.tap + (image.roi_height > 1 ? 1 : 0);
  taps.chroma_above = taps.above >> 1;
  taps.chroma_below = taps.below >> 1;
  if (image.compact) {
    taps.above = taps.chroma_above = 2 * (u32)row;
    taps.below = taps.chroma_below = 2 * (u32)row + 1;
  }
  return taps;
}

// What a row of a tile needs.
struct alignas(16) Row {
  u32 above, below;  // staged: bytes from the stage's start to the tile's first group; else rows
  u32 weight_above, weight_below;  // as in Weights
  u32 chroma_above, chroma_below;  // nv12, likewise
  u32 reserved[2];
};
