// SPDX-FileCopyrightText: The yolox_trt authors
// SPDX-License-Identifier: Apache-2.0
//
// From the output of a segmentation head to the runs of a mask in source pixels, of which alone
// anything crosses to the host:
//   classify    the class of each cell that the image covers: the largest logit's, the first of
//               equal ones; or the output itself, where the network ends in an ArgMax
//   count_runs  how many runs start in each strip of source rows
//   write_runs  their first pixels and classes, row after row, into page-locked host memory
//
// Exact: the cell of a source pixel is found in whole numbers, as in the reference
// (kernels/reference/masks.py).
//
// Macros, set by kernels/cuda/masks.py:
//   FORM    element type of the output: 0 float, 1 half, 2 int8, 3 uint8, 4 int32, 5 int64
//   ARGMAX  1: the output holds classes
//   VECTOR  neighbouring cells that a thread reads at once, 16 bytes of them; or 1

#include "common.cuh"
#include "plane.cuh"

#if FORM == 0
typedef float in_t;
#elif FORM == 1
typedef half_t in_t;
#elif FORM == 2
typedef signed char in_t;
#elif FORM == 3
typedef u8 in_t;
#elif FORM == 4
typedef int in_t;
#else
typedef long long in_t;
#endif

// The mask that is asked for of one image. The same fields in the same order: descriptors.MASK.
struct Job {
  u64 runs;      // host memory: a Run {number of runs, fault}, then `capacity` runs
  int capacity;  // 0: none is asked for
  int height, width;  // of the source
  int roi_x, roi_y, roi_width, roi_height;
  int resized_height, resized_width;  // of the network's input, where the image lies
  int top, left;                      // padding before the image
  int reserved;
};

struct alignas(8) Run {
  u32 start;  // pixel, counted row after row
  u32 value;
};

struct alignas(16) Words {
  u32 at[4];
};

const u8 NO_CLASS = 255;   // as core.mask.NO_CLASS
const u32 NOTHING = 256;   // before the first pixel: no value is equal to it
const int THREADS = 256;
const int PIXELS = 8;  // neighbouring source pixels of a thread

#ifdef YOLOX_TRT_HOST
static inline Words load16(const void* at) {
  if ((uintptr_t)at & 15) host::fail("a load that is not aligned");
  return *(const Words*)at;
}
#else
__device__ __forceinline__ Words load16(const void* at) {
  Words words;
  asm("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(words.at[0]), "=r"(words.at[1]), "=r"(words.at[2]), "=r"(words.at[3])
      : "l"(at));
  return words;
}
#endif

// Grid: (cells / (THREADS * VECTOR), batch); block: THREADS.
extern "C" __global__ void __launch_bounds__(THREADS)
    classify(const Plane* __restrict__ output, int classes, int height, int width, int stride,
             const Job* __restrict__ jobs, u8* __restrict__ cells, int* __restrict__ faults) {
  const int image = blockIdx.y;
  if (jobs[image].capacity == 0) return;
  const int groups = width / VECTOR;  // of a row
  const int group = blockIdx.x * THREADS + threadIdx.x;
  const int row = group / groups;
  const int column = group % groups * VECTOR;
  // Cells with nothing but padding are not asked for.
  if (row >= height || row * stride >= jobs[image].top + jobs[image].resized_height) return;
  if (column * stride >= jobs[image].left + jobs[image].resized_width) return;
  const Plane plane = *output;
  const in_t* cell = cell_of<in_t>(plane, image, row, column);
  u8* target = cells + ((u64)image * height + row) * width + column;
  bool fault = false;
#if ARGMAX
#if FORM < 2
  const float value = to_float(cell[channel_offset(plane, 0)]);
#else
  const long long value = cell[channel_offset(plane, 0)];
#endif
  fault = !(value >= 0 && value < classes);  // NaN is neither
  *target = fault ? NO_CLASS : (u8)value;
#else
  float best[VECTOR];
  u32 best_class[VECTOR];
  u32 nans = 0;  // one bit a cell
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) {
    best[i] = -__int_as_float(0x7f800000);
    best_class[i] = 0;
  }
#pragma unroll 8
  for (int id = 0; id < classes; ++id) {
    const in_t* from = cell + channel_offset(plane, id);
#if VECTOR > 1
    const Words words = load16(from);
#endif
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) {
#if VECTOR == 4
      const float value = __uint_as_float(words.at[i]);
#elif VECTOR == 8
      const u32 both = words.at[i / 2];
      const float value = to_float(i % 2 ? high_half(both) : low_half(both));
#elif VECTOR == 16  // one scale for all: it changes no order
      const float value = (float)(signed char)(words.at[i / 4] >> (8 * (i % 4)));
#elif FORM < 2
      const float value = to_float(*from);
#else
      const float value = (float)*from;
#endif
      nans |= (u32)!(value == value) << i;
      if (value > best[i]) {
        best[i] = value;
        best_class[i] = id;
      }
    }
  }
  // Cells of the padding that were read with those of the image do not matter.
#pragma unroll
  for (int i = 0; i < VECTOR; ++i) {
    fault |= (nans >> i & 1) &&
             (column + i) * stride < jobs[image].left + jobs[image].resized_width;
  }
#if VECTOR > 1
#pragma unroll
  for (int first = 0; first < VECTOR; first += 4) {
    *(u32*)(target + first) = best_class[first] | best_class[first + 1] << 8 |
                              best_class[first + 2] << 16 | best_class[first + 3] << 24;
  }
#else
  *target = (u8)best_class[0];
#endif
#endif
  if (fault) atomicOr((u32*)&faults[image], 1u);
}

// One image's mask, as the rows of its cells.
struct Mask {
  Job job;
  const u8* cells;
  int width, stride;  // of the cells

  // The cells of a source row; none outside the region.
  __device__ __forceinline__ const u8* row(int y) const {
    const int i = y - job.roi_y;
    if (i < 0 || i >= job.roi_height) return nullptr;
    // Twice the source rows.
    const u32 middle = (2u * i + 1) * job.resized_height + 2u * job.roi_height * job.top;
    return cells + (u64)(middle / (2u * job.roi_height * stride)) * width;
  }

  // The middle of column i of the region, in parts of an input pixel: twice the region's columns.
  __device__ __forceinline__ u32 middle_of(int i) const {
    return (2u * i + 1) * job.resized_width + 2u * job.roi_width * job.left;
  }

  // The value of pixel x of a row.
  __device__ __forceinline__ u32 value(const u8* row, int x) const {
    const int i = x - job.roi_x;
    if (row == nullptr || i < 0 || i >= job.roi_width) return NO_CLASS;
    return row[middle_of(i) / (2u * job.roi_width * stride)];
  }

  // Reads PIXELS pixels of row y from x on; returns one bit for each at which a run starts.
  __device__ __forceinline__ u32 starts(int y, int x, u32* values) const {
    if (x >= job.width) return 0;
    const u8* cells_of_row = row(y);
    u32 before = NOTHING;
    if (x > 0) {
      before = value(cells_of_row, x - 1);
    } else if (y > 0) {
      before = value(row(y - 1), job.width - 1);
    }
    // The cell of the next pixel follows from the last one's without a division.
    const u32 step = 2u * job.resized_width;
    const u32 cell = 2u * job.roi_width * stride;
    u32 column = 0, rest = 0, bits = 0;
#pragma unroll
    for (int k = 0; k < PIXELS; ++k) {
      const int i = x + k - job.roi_x;
      values[k] = NO_CLASS;
      if (cells_of_row != nullptr && i >= 0 && i < job.roi_width) {
        if (k == 0 || i == 0) {
          const u32 middle = middle_of(i);
          column = middle / cell;
          rest = middle % cell;
        } else {
          for (rest += step; rest >= cell; rest -= cell) ++column;
        }
        values[k] = cells_of_row[column];
      }
      if (x + k < job.width && values[k] != before) bits |= 1u << k;
      before = values[k];
    }
    return bits;
  }
};

// Adds up a value over a block and over the threads before each one. Every thread must call it.
__device__ __forceinline__ int block_sum(int value, int* before) {
  __shared__ int sums[THREADS / 32];
  const int lane = threadIdx.x % 32;
  int sum = value;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const int other = __shfl_sync(0xffffffffu, sum, lane >= distance ? lane - distance : lane);
    if (lane >= distance) sum += other;
  }
  __syncthreads();  // the last call's sums have been read
  if (lane == 31) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  int total = 0, earlier = 0;
#pragma unroll
  for (int warp = 0; warp < THREADS / 32; ++warp) {
    if (warp == (int)threadIdx.x / 32) earlier = total;
    total += sums[warp];
  }
  *before = earlier + sum - value;
  return total;
}

// Grid: (strips, batch); block: THREADS.
extern "C" __global__ void __launch_bounds__(THREADS)
    count_runs(const Job* __restrict__ jobs, const u8* __restrict__ cells, int height, int width,
               int stride, int* __restrict__ counts) {
  const int image = blockIdx.y;
  if (jobs[image].capacity == 0) return;
  const Mask mask = {jobs[image], cells + (u64)image * height * width, width, stride};
  const int rows = (mask.job.height + (int)gridDim.x - 1) / (int)gridDim.x;
  const int first = blockIdx.x * rows;
  int found = 0;
  for (int y = first; y < min(first + rows, mask.job.height); ++y) {
    for (int x = threadIdx.x * PIXELS; x < mask.job.width; x += THREADS * PIXELS) {
      u32 values[PIXELS];
      found += __popc(mask.starts(y, x, values));
    }
  }
  int before;
  const int total = block_sum(found, &before);
  if (threadIdx.x == 0) counts[image * gridDim.x + blockIdx.x] = total;
}

// Grid and block as of count_runs. Runs of a block are brought together before they are written:
// each write to host memory is a packet, however small.
extern "C" __global__ void __launch_bounds__(THREADS)
    write_runs(const Job* __restrict__ jobs, const u8* __restrict__ cells, int height, int width,
               int stride, const int* __restrict__ counts, int* __restrict__ faults) {
  const int image = blockIdx.y;
  if (jobs[image].capacity == 0) return;
  const Mask mask = {jobs[image], cells + (u64)image * height * width, width, stride};
  const int rows = (mask.job.height + (int)gridDim.x - 1) / (int)gridDim.x;
  const int first = blockIdx.x * rows;
  __shared__ Run found[THREADS * PIXELS];
  int earlier = 0, before;
  for (int strip = threadIdx.x; strip < (int)blockIdx.x; strip += THREADS) {
    earlier += counts[image * gridDim.x + strip];
  }
  int place = block_sum(earlier, &before);
  Run* runs = (Run*)mask.job.runs + 1;
  for (int y = first; y < min(first + rows, mask.job.height); ++y) {
    for (int x = 0; x < mask.job.width; x += THREADS * PIXELS) {
      u32 values[PIXELS];
      const int own = x + (int)threadIdx.x * PIXELS;
      const u32 bits = mask.starts(y, own, values);
      const int total = block_sum(__popc(bits), &before);
#pragma unroll
      for (int k = 0; k < PIXELS; ++k) {
        if (bits >> k & 1) found[before++] = {(u32)y * mask.job.width + own + k, values[k]};
      }
      __syncthreads();
      const int room = min(total, mask.job.capacity - place);
      for (int i = threadIdx.x; i < room; i += THREADS) runs[place + i] = found[i];
      place += total;
    }
  }
  if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0) {
    runs[-1] = {(u32)place, (u32)faults[image]};
    faults[image] = 0;
  }
}
