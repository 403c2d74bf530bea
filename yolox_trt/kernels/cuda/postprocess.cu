// SPDX-FileCopyrightText: The yolox_trt authors
// SPDX-License-Identifier: Apache-2.0
//
// From a network's output to final detections, without a word to the host in between:
//   decode           one pass over the output: grid decode, score, threshold, box in source pixels
//   rank_candidates  each candidate counts the better ones: its place in the sorted list
//   suppression      pairs of sorted candidates: one bit for each pair that overlaps too much
//   greedy_selection walks the bits, 64 candidates at a time, and writes the detections
//   read_efficient_nms instead of decode, for networks that end in EfficientNMS_TRT; suppression
//                    then finds nothing, because the wrapper sets an unreachable threshold
//
// Exact: order is by score descending, then anchor ascending, whatever order the threads ran in,
// and arithmetic is IEEE single precision without contraction (compiled with --fmad=false), as in
// the reference (kernels/reference/decode.py, nms.py, postprocess.py), whose steps these are.
//
// Macros, set by kernels/cuda/postprocess.py:
//   OUTPUT       element type of the network's output: 0 float, 1 half
//   INTERLEAVED  1: neighbouring elements are channels of a cell; 0: cells of a channel
//   DECODED      1: boxes are centre and size in input pixels already
//   SIGMOID      1: objectness and classes are logits

#include "common.cuh"

#if OUTPUT == 0
typedef float in_t;
#else
typedef half_t in_t;
#endif

// Where a level's box, objectness or classes lie. Element (channel, row, column) is at
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
  int reserved;
};

// One level of the head. The same fields in the same order: descriptors.LEVEL.
struct Level {
  Plane box, objectness, classes;
  int stride, width, cells;  // input pixels a cell; grid columns; grid cells
  int first_anchor, first_block;
  int reserved;
};

// How one image is read back. The same fields in the same order: descriptors.POST.
struct Post {
  float inverse_scale;  // source pixels for each input pixel
  float roi_x, roi_y, roi_width, roi_height;
  float nms_threshold;
  int class_agnostic;
  int max_detections;
};

// What a frame's decoding leaves behind, one for each image.
struct Tally {
  int candidates;
  int nan;  // NaN, or an unknown class from EfficientNMS_TRT
};

struct alignas(16) Box {  // input pixels until greedy_selection writes it in source pixels
  float x1, y1, x2, y2;
};

// The result of one image; detections follow as boxes, scores, class ids, `capacity` of each.
struct Header {
  int count;
  int candidates;  // above their threshold, before NMS
  int overflow;    // candidates that did not enter NMS, because they rank behind its capacity
  int nan;
};

__device__ __forceinline__ bool is_nan(float value) { return !(value == value); }

__device__ __forceinline__ float probability(float value) {
#if SIGMOID
  return 1.0f / (1.0f + expf(-value));
#else
  return value;
#endif
}

// The key sorts by score descending, then by anchor ascending. Scores are not negative, but may be
// -0, whose bits would sort before all others: adding 0 makes it +0.
__device__ __forceinline__ u64 make_key(float score, int anchor) {
  return (u64)(~__float_as_uint(score + 0.0f)) << 32 | (u32)anchor;
}

__device__ __forceinline__ float clip(float value, float limit) {
  return fminf(fmaxf(value, 0.0f), limit);
}

__device__ __forceinline__ bool is_finite(float value) { return value - value == 0.0f; }

// Finite, with an area, and not wholly in the padding.
__device__ __forceinline__ bool is_candidate(const Box& box, const Post& post) {
  const float x1 = box.x1 * post.inverse_scale;
  const float y1 = box.y1 * post.inverse_scale;
  const float x2 = box.x2 * post.inverse_scale;
  const float y2 = box.y2 * post.inverse_scale;
  return is_finite(box.x1) && is_finite(box.y1) && is_finite(box.x2) && is_finite(box.y2) &&
         x2 > 0.0f && y2 > 0.0f && x1 < post.roi_width && y1 < post.roi_height && x2 > x1 &&
         y2 > y1;
}

// Appends the candidates of a warp, all of whose threads must call it. Their order is made good
// by rank_candidates.
__device__ __forceinline__ void emit(bool keep, u64 first, int anchor, const Box& box, float score,
                                     int class_id, Tally* tally, u64* keys, Box* boxes,
                                     int* class_ids) {
  const u32 kept = __ballot_sync(0xffffffffu, keep);
  if (kept == 0) return;
  const u32 lane = threadIdx.x % 32;
  int base = 0;
  if (lane == 0) base = atomicAdd(&tally->candidates, __popc(kept));
  base = __shfl_sync(0xffffffffu, base, 0);
  if (!keep) return;
  const u64 place = first + base + __popc(kept & ((1u << lane) - 1));
  keys[place] = make_key(score, anchor);
  boxes[place] = box;
  class_ids[place] = class_id;
}

// First element of a cell, its channel 0 of the group that first_channel lies in.
__device__ __forceinline__ const in_t* cell_of(const Plane& plane, int image, int row, int column) {
  return (const in_t*)plane.data + image * plane.image_step + (u64)row * plane.row_step +
         (u64)column * plane.cell_step;
}

__device__ __forceinline__ u64 channel_offset(const Plane& plane, int channel) {
  channel += plane.first_channel;
  return (u64)(channel >> plane.shift) * plane.group_step + (channel & ((1 << plane.shift) - 1));
}

const int CELLS = 32;  // grid cells of a block
const int PARTS = 8;   // threads that share a cell's classes

// Grid: (blocks of all levels, batch); block: 256.
extern "C" __global__ void __launch_bounds__(CELLS* PARTS)
    decode(const Level* __restrict__ levels, int level_count, int num_classes, int anchors,
           const Post* __restrict__ posts, const float* __restrict__ thresholds,
           Tally* __restrict__ tallies, u64* __restrict__ keys, Box* __restrict__ boxes,
           int* __restrict__ class_ids) {
  __shared__ float best_value[PARTS][CELLS];
  __shared__ int best_class[PARTS][CELLS];
  const int image = blockIdx.y;
  int index = 0;
  while (index + 1 < level_count && (int)blockIdx.x >= levels[index + 1].first_block) ++index;
  const Level level = levels[index];

  // Neighbouring threads read neighbouring elements: classes of a cell, or cells of a plane.
#if INTERLEAVED
  const int part = threadIdx.x % PARTS;
  const int local = threadIdx.x / PARTS;
#else
  const int part = threadIdx.x / CELLS;
  const int local = threadIdx.x % CELLS;
#endif
  const int first_cell = ((int)blockIdx.x - level.first_block) * CELLS;
  bool nan = false;
  float best = -__int_as_float(0x7f800000);
  int best_id = 0;
  if (first_cell + local < level.cells) {
    const int own = first_cell + local;
    const in_t* __restrict__ values =
        cell_of(level.classes, image, own / level.width, own % level.width);
#pragma unroll 10
    for (int id = part; id < num_classes; id += PARTS) {
      const float value = to_float(values[channel_offset(level.classes, id)]);
      nan |= is_nan(value);
      if (value > best) {  // the first of equal classes wins
        best = value;
        best_id = id;
      }
    }
  }
  best_value[part][local] = best;
  best_class[part][local] = best_id;
  if (__syncthreads_or(nan) && threadIdx.x == 0) tallies[image].nan = 1;

  // The first warp finishes: one thread a cell.
  if (threadIdx.x >= CELLS) return;
  const int cell = first_cell + threadIdx.x;
  const bool exists = cell < level.cells;
  bool keep = false;
  float score = 0.0f;
  Box box = {0.0f, 0.0f, 0.0f, 0.0f};
  nan = false;
  if (exists) {
    best = best_value[0][threadIdx.x];
    best_id = best_class[0][threadIdx.x];
#pragma unroll
    for (int other = 1; other < PARTS; ++other) {
      const float value = best_value[other][threadIdx.x];
      const int id = best_class[other][threadIdx.x];
      if (value > best || (value == best && id < best_id)) {
        best = value;
        best_id = id;
      }
    }
    const int row = cell / level.width;
    const int column = cell % level.width;
    const in_t* raw_box = cell_of(level.box, image, row, column);
    float raw[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      raw[c] = to_float(raw_box[channel_offset(level.box, c)]);
      nan |= is_nan(raw[c]);
    }
    const in_t* raw_objectness = cell_of(level.objectness, image, row, column);
    const float object =
        probability(to_float(raw_objectness[channel_offset(level.objectness, 0)]));
    nan |= is_nan(object);
    score = object * probability(best);
    if (score >= thresholds[image * num_classes + best_id]) {
#if DECODED
      const float centre_x = raw[0];
      const float centre_y = raw[1];
      const float width = raw[2];
      const float height = raw[3];
#else
      const float stride = (float)level.stride;
      const float centre_x = (raw[0] + (float)column) * stride;
      const float centre_y = (raw[1] + (float)row) * stride;
      const float width = expf(raw[2]) * stride;
      const float height = expf(raw[3]) * stride;
#endif
      const float half_width = width * 0.5f;
      const float half_height = height * 0.5f;
      box.x1 = centre_x - half_width;
      box.y1 = centre_y - half_height;
      box.x2 = centre_x + half_width;
      box.y2 = centre_y + half_height;
      keep = is_candidate(box, posts[image]);
    }
  }
  if (nan) tallies[image].nan = 1;
  emit(keep, (u64)image * anchors, level.first_anchor + cell, box, score, best_id,
       &tallies[image], keys, boxes, class_ids);
}

// Grid: (blocks of `slots`, batch); block: 32.
extern "C" __global__ void __launch_bounds__(32)
    read_efficient_nms(const int* __restrict__ counts, const in_t* __restrict__ plugin_boxes,
                       const in_t* __restrict__ plugin_scores,
                       const int* __restrict__ plugin_classes, int slots, int num_classes,
                       const Post* __restrict__ posts, const float* __restrict__ thresholds,
                       Tally* __restrict__ tallies, u64* __restrict__ keys,
                       Box* __restrict__ boxes, int* __restrict__ class_ids) {
  const int image = blockIdx.y;
  const int slot = blockIdx.x * 32 + threadIdx.x;
  bool keep = false;
  float score = 0.0f;
  int class_id = 0;
  Box box = {0.0f, 0.0f, 0.0f, 0.0f};
  if (slot < min(counts[image], slots)) {
    const u64 from = (u64)image * slots + slot;
    score = to_float(plugin_scores[from]);
    class_id = plugin_classes[from];
    box.x1 = to_float(plugin_boxes[from * 4]);
    box.y1 = to_float(plugin_boxes[from * 4 + 1]);
    box.x2 = to_float(plugin_boxes[from * 4 + 2]);
    box.y2 = to_float(plugin_boxes[from * 4 + 3]);
    const bool known = class_id >= 0 && class_id < num_classes;
    if (is_nan(score) || is_nan(box.x1) || is_nan(box.y1) || is_nan(box.x2) || is_nan(box.y2) ||
        !known) {
      tallies[image].nan = 1;
    } else {
      keep = score >= thresholds[image * num_classes + class_id] &&
             is_candidate(box, posts[image]);
    }
  }
  emit(keep, (u64)image * slots, slot, box, score, class_id, &tallies[image], keys, boxes,
       class_ids);
}

const int SHARES = 32;  // threads that share the comparisons of one candidate

// Grid: (any, batch); block: 1024 = 32 candidates x SHARES.
extern "C" __global__ void __launch_bounds__(32 * SHARES)
    rank_candidates(const Tally* __restrict__ tallies, int anchors, int capacity,
                    const u64* __restrict__ keys, const Box* __restrict__ boxes,
                    const int* __restrict__ class_ids, Box* __restrict__ sorted_boxes,
                    float* __restrict__ sorted_scores, int* __restrict__ sorted_class_ids) {
  __shared__ int partial[SHARES][32];
  const int image = blockIdx.y;
  const int count = tallies[image].candidates;
  const int lane = threadIdx.x % 32;
  const int share = threadIdx.x / 32;
  keys += (u64)image * anchors;
  for (int first = blockIdx.x * 32; first < count; first += gridDim.x * 32) {
    const int mine = first + lane;
    const u64 key = mine < count ? keys[mine] : 0;
    int better = 0;
#pragma unroll 8
    for (int other = share; other < count; other += SHARES) better += keys[other] < key ? 1 : 0;
    partial[share][lane] = better;
    __syncthreads();
    if (share == 0 && mine < count) {
      int place = 0;
#pragma unroll
      for (int s = 0; s < SHARES; ++s) place += partial[s][lane];
      if (place < capacity) {
        const u64 from = (u64)image * anchors + mine;
        const u64 to = (u64)image * capacity + place;
        sorted_boxes[to] = boxes[from];
        sorted_scores[to] = __uint_as_float(~(u32)(key >> 32));
        sorted_class_ids[to] = class_ids[from];
      }
    }
    __syncthreads();
  }
}

// Whether the better box `a` suppresses `b`: intersection over union above the threshold.
__device__ __forceinline__ bool overlaps(const Box& a, float area_a, const Box& b, float area_b,
                                         float threshold) {
  const float width = fmaxf(fminf(a.x2, b.x2) - fmaxf(a.x1, b.x1), 0.0f);
  const float height = fmaxf(fminf(a.y2, b.y2) - fmaxf(a.y1, b.y1), 0.0f);
  const float intersection = width * height;
  return intersection > threshold * ((area_a + area_b) - intersection);
}

__device__ __forceinline__ float area_of(const Box& box) {
  return (box.x2 - box.x1) * (box.y2 - box.y1);
}

// mask[row][word]: bit j of word w tells that candidate 64 w + j suppresses candidate `row`, for
// candidates better than `row`. Grid: (any, batch); block: 64, one row each.
extern "C" __global__ void __launch_bounds__(64)
    suppression(const Tally* __restrict__ tallies, int capacity, const Post* __restrict__ posts,
                const Box* __restrict__ sorted_boxes, const int* __restrict__ sorted_class_ids,
                u64* __restrict__ mask) {
  __shared__ Box other[64];
  __shared__ float other_area[64];
  __shared__ int other_class[64];
  const int image = blockIdx.y;
  const int count = min(tallies[image].candidates, capacity);
  const int tiles = (count + 63) / 64;
  const int words = capacity / 64;
  const float threshold = posts[image].nms_threshold;
  const bool agnostic = posts[image].class_agnostic != 0;
  sorted_boxes += (u64)image * capacity;
  sorted_class_ids += (u64)image * capacity;
  mask += (u64)image * capacity * words;

  // Pairs of tiles (row >= column), numbered row by row.
  const int pairs = tiles * (tiles + 1) / 2;
  for (int pair = blockIdx.x; pair < pairs; pair += gridDim.x) {
    int row_tile = (int)((sqrtf(8.0f * (float)pair + 1.0f) - 1.0f) * 0.5f);
    while (row_tile * (row_tile + 1) / 2 > pair) --row_tile;
    while ((row_tile + 1) * (row_tile + 2) / 2 <= pair) ++row_tile;
    const int column_tile = pair - row_tile * (row_tile + 1) / 2;

    const int column = column_tile * 64 + threadIdx.x;
    if (column < count) {
      const Box box = sorted_boxes[column];
      other[threadIdx.x] = box;
      other_area[threadIdx.x] = area_of(box);
      other_class[threadIdx.x] = sorted_class_ids[column];
    }
    __syncthreads();
    const int row = row_tile * 64 + threadIdx.x;
    if (row < count) {
      const Box box = sorted_boxes[row];
      const float area = area_of(box);
      const int class_id = sorted_class_ids[row];
      const int end = min(64, row - column_tile * 64);  // better candidates only
      u64 bits = 0;
      for (int j = 0; j < end; ++j) {
        if ((agnostic || other_class[j] == class_id) &&
            overlaps(other[j], other_area[j], box, area, threshold)) {
          bits |= 1ull << j;
        }
      }
      mask[(u64)row * words + column_tile] = bits;
    }
    __syncthreads();
  }
}

const int SELECTION_THREADS = 1024;
const int ROW_THREADS = SELECTION_THREADS / 64;  // threads that share a row's words
const int MAX_WORDS = 1024;                   // capacity of NMS / 64, at most

// Greedy selection in blocks of 64 candidates. Inside a block the result is the fixed point of
// kept(i) = not suppressed by an earlier block, and no kept j < i of the block suppresses i;
// iterating from "all kept" reaches it, since row i is final once the rows before it are.
// Grid: (batch); block: 1024. Leaves the tally at zero for the next frame.
extern "C" __global__ void __launch_bounds__(SELECTION_THREADS)
    greedy_selection(Tally* __restrict__ tallies, int capacity, const Post* __restrict__ posts,
           const Box* __restrict__ sorted_boxes, const float* __restrict__ sorted_scores,
           const int* __restrict__ sorted_class_ids, const u64* __restrict__ mask,
           u8* __restrict__ results, int result_bytes, int result_capacity) {
  __shared__ u64 kept[MAX_WORDS];
  __shared__ int before[MAX_WORDS + 1];  // detections before each block of 64
  __shared__ u32 blocked[2];
  const int image = blockIdx.x;
  const int candidates = tallies[image].candidates;
  const int nan = tallies[image].nan;
  const int count = min(candidates, capacity);
  const int tiles = (count + 63) / 64;
  const int words = capacity / 64;
  const int limit = min(posts[image].max_detections, result_capacity);
  sorted_boxes += (u64)image * capacity;
  sorted_scores += (u64)image * capacity;
  sorted_class_ids += (u64)image * capacity;
  mask += (u64)image * capacity * words;

  const int local = threadIdx.x / ROW_THREADS;  // row inside the block of 64
  const int share = threadIdx.x % ROW_THREADS;
  int total = 0;
  int tile = 0;
  for (; tile < tiles && total < limit; ++tile) {
    const int row = tile * 64 + local;
    if (threadIdx.x < 2) blocked[threadIdx.x] = 0;
    // The first warp resolves the block: two rows a thread. These loads depend on nothing.
    u64 diagonal[2] = {0, 0};
    if (threadIdx.x < 32) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int own = tile * 64 + h * 32 + threadIdx.x;
        if (own < count) diagonal[h] = mask[(u64)own * words + tile];
      }
    }
    bool hit = row >= count;
    if (!hit) {
      const u64* __restrict__ bits = mask + (u64)row * words;
#pragma unroll 4
      for (int word = share; word < tile; word += ROW_THREADS) {
        hit |= (bits[word] & kept[word]) != 0;
      }
    }
    __syncthreads();
    if (hit) atomicOr(&blocked[local / 32], 1u << (local % 32));
    __syncthreads();
    if (threadIdx.x < 32) {
      const bool free_low = !(blocked[0] >> threadIdx.x & 1);
      const bool free_high = !(blocked[1] >> threadIdx.x & 1);
      u64 now = ~((u64)blocked[1] << 32 | blocked[0]);
      u64 previous;
      do {
        previous = now;
        const u32 lower = __ballot_sync(0xffffffffu, free_low && !(diagonal[0] & previous));
        const u32 upper = __ballot_sync(0xffffffffu, free_high && !(diagonal[1] & previous));
        now = (u64)upper << 32 | lower;
      } while (now != previous);
      if (threadIdx.x == 0) {
        kept[tile] = now;
        before[tile] = total;
        before[tile + 1] = total + __popcll(now);
      }
    }
    __syncthreads();
    total = before[tile + 1];
  }

  const int detections = min(total, limit);
  u8* result = results + (u64)image * result_bytes;
  Box* result_boxes = (Box*)(result + sizeof(Header));
  float* result_scores = (float*)(result_boxes + result_capacity);
  int* result_class_ids = (int*)(result_scores + result_capacity);
  for (int row = threadIdx.x; row < tile * 64; row += SELECTION_THREADS) {
    const u64 bits = kept[row / 64];
    if (!(bits >> (row % 64) & 1)) continue;
    const int place = before[row / 64] + __popcll(bits & ((1ull << (row % 64)) - 1));
    if (place < detections) {
      const Post post = posts[image];
      const Box box = sorted_boxes[row];
      Box source;
      source.x1 = clip(box.x1 * post.inverse_scale, post.roi_width) + post.roi_x;
      source.y1 = clip(box.y1 * post.inverse_scale, post.roi_height) + post.roi_y;
      source.x2 = clip(box.x2 * post.inverse_scale, post.roi_width) + post.roi_x;
      source.y2 = clip(box.y2 * post.inverse_scale, post.roi_height) + post.roi_y;
      result_boxes[place] = source;
      result_scores[place] = sorted_scores[row];
      result_class_ids[place] = sorted_class_ids[row];
    }
  }
  if (threadIdx.x == 0) {
    Header header;
    header.count = detections;
    header.candidates = candidates;
    header.overflow = candidates - count;
    header.nan = nan;
    *(Header*)result = header;
    Tally zero;
    zero.candidates = 0;
    zero.nan = 0;
    tallies[image] = zero;
  }
}
