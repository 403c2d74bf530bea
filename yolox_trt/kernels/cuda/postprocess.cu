// SPDX-FileCopyrightText: The yolox_trt authors
// SPDX-License-Identifier: Apache-2.0
//
// From a network's output to final detections, without a word to the host in between:
//   decode           one pass over the output: grid decode, score, threshold, box in source pixels
//   rank_candidates  each candidate counts the better ones: its place in the sorted list
//   suppression      pairs of sorted candidates: one bit for each pair that overlaps too much
//   greedy_selection walks the bits, 64 candidates at a time, and writes the detections
//   read_finished    instead of decode, for networks that give detections
//   best_selection   instead of suppression and greedy_selection, where nothing is to be suppressed
//
// Exact: order is by score descending, then anchor ascending, whatever order the threads ran in,
// and arithmetic is IEEE single precision without contraction (compiled with --fmad=false), as in
// the reference (kernels/reference/decode.py, nms.py, postprocess.py), whose steps these are.
//
// Macros, set by kernels/cuda/postprocess.py:
//   OUTPUT       element type of the network's output: 0 float, 1 half, 2 int8 (raw levels)
//   INTERLEAVED  1: neighbouring elements are channels of a cell; 0: cells of a channel
//   BOXES        0: relative to the grid; decoded: 1: centre and size, 2: corners; 3: EfficientDet's
//                offsets from anchors
//   RELATIVE     1: decoded boxes are parts of the input's width and height
//   OBJECTNESS   1: a score is objectness times class
//   SIGMOID      1: objectness and classes are logits
//   CLASSES      type of finished classes: 0 int, 1 long long, 2 as OUTPUT

#include "common.cuh"
#include "plane.cuh"

#if OUTPUT == 0
typedef float in_t;
#elif OUTPUT == 1
typedef half_t in_t;
#else
typedef signed char in_t;
#endif

// One level of the head. The same fields in the same order: descriptors.LEVEL.
struct Level {
  Plane box, objectness, classes;
  int stride, width, cells;  // input pixels a cell; grid columns; grid cells
  int first_anchor, first_block;
  int reserved;
};

// How one image is read back. The same fields in the same order: descriptors.POST.
struct Post {
  float inverse_x, inverse_y;  // source pixels for each input pixel
  float left, top;             // padding before the image, in input pixels
  float roi_x, roi_y, roi_width, roi_height;
  float nms_threshold;
  int class_agnostic;
  int max_detections;
};

// What a frame's decoding leaves behind, one for each image.
struct Tally {
  int candidates;
  int flags;  // of the bits below
};

// NaN, or an unknown class among finished detections; and what no detector of images gives: a score
// above 1, a box that ends further from the input than ten times its longer side. The same as in
// kernels/reference/postprocess.py.
const int NAN_FLAG = 1, SCORE_FLAG = 2, BOX_FLAG = 4;
const float LARGEST_SCORE = 1.001f, LARGEST_BOX = 10.0f;

#if CLASSES == 0
typedef int class_t;
#elif CLASSES == 1
typedef long long class_t;
#else
typedef in_t class_t;
#endif

struct alignas(16) Box {  // input pixels until greedy_selection writes it in source pixels
  float x1, y1, x2, y2;
};

// The result of one image; detections follow as boxes, scores, class ids, `capacity` of each.
struct Header {
  int count;
  int candidates;  // above their threshold, before NMS
  int overflow;    // candidates that did not enter NMS, because they rank behind its capacity
  int flags;
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

// A box of input pixels in source pixels from the Roi's corner on, as Letterbox.to_roi.
__device__ __forceinline__ Box to_roi(const Box& box, const Post& post) {
  return {(box.x1 - post.left) * post.inverse_x, (box.y1 - post.top) * post.inverse_y,
          (box.x2 - post.left) * post.inverse_x, (box.y2 - post.top) * post.inverse_y};
}

__device__ __forceinline__ bool is_finite(float value) { return value - value == 0.0f; }

__device__ __forceinline__ bool is_finite(const Box& box) {
  return is_finite(box.x1) && is_finite(box.y1) && is_finite(box.x2) && is_finite(box.y2);
}

// A box of input pixels in source pixels, clipped, as Letterbox.to_source.
__device__ __forceinline__ Box to_source(const Box& box, const Post& post) {
  const Box roi = to_roi(box, post);
  return {clip(roi.x1, post.roi_width) + post.roi_x, clip(roi.y1, post.roi_height) + post.roi_y,
          clip(roi.x2, post.roi_width) + post.roi_x, clip(roi.y2, post.roi_height) + post.roi_y};
}

// Finite, with an area, and not wholly in the padding.
__device__ __forceinline__ bool is_candidate(const Box& box, const Post& post) {
  const Box roi = to_roi(box, post);
  return is_finite(box) && roi.x2 > 0.0f && roi.y2 > 0.0f && roi.x1 < post.roi_width &&
         roi.y1 < post.roi_height && roi.x2 > roi.x1 && roi.y2 > roi.y1;
}

struct Size {  // of the network's input, in pixels
  float width, height;
};

// What is implausible in a candidate; 0 in all but the outputs of a misunderstood network.
__device__ __forceinline__ int implausible(const Box& box, float score, const Size& input) {
  if (!is_finite(box)) return 0;  // no candidate
  const float farthest = fmaxf(fmaxf(fabsf(box.x1), fabsf(box.y1)),
                               fmaxf(fabsf(box.x2), fabsf(box.y2)));
  return (score > LARGEST_SCORE ? SCORE_FLAG : 0) |
         (farthest > LARGEST_BOX * fmaxf(input.width, input.height) ? BOX_FLAG : 0);
}

// A decoded box as corners in input pixels.
__device__ __forceinline__ Box corners_of(float a, float b, float c, float d,
                                          const Size& input) {
#if RELATIVE
  a *= input.width;
  b *= input.height;
  c *= input.width;
  d *= input.height;
#endif
#if BOXES == 2
  return {a, b, c, d};
#else
  const float half_width = c * 0.5f;
  const float half_height = d * 0.5f;
  return {a - half_width, b - half_height, a + half_width, b + half_height};
#endif
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

// A channel of the cell whose channel 0 is at `cell`.
__device__ __forceinline__ float value_of(const Plane& plane, const in_t* __restrict__ cell,
                                          int channel) {
  const in_t value = cell[channel_offset(plane, channel)];
#if OUTPUT == 2
  return (float)value * plane.scale;
#else
  return to_float(value);
#endif
}

const int CELLS = 32;  // grid cells of a block
const int PARTS = 8;   // threads that share a cell's classes

// Grid: (blocks of all levels, batch); block: 256.
extern "C" __global__ void __launch_bounds__(CELLS* PARTS)
    decode(const Level* __restrict__ levels, int level_count, int num_classes, int anchors,
           float input_width, float input_height, const Box* __restrict__ anchor_boxes,
           const Post* __restrict__ posts, const float* __restrict__ thresholds,
           Tally* __restrict__ tallies, u64* __restrict__ keys, Box* __restrict__ boxes,
           int* __restrict__ class_ids) {
  __shared__ float best_value[PARTS][CELLS];
  __shared__ int best_class[PARTS][CELLS];
  const Size input = {input_width, input_height};
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
        cell_of<in_t>(level.classes, image, own / level.width, own % level.width);
#pragma unroll 10
    for (int id = part; id < num_classes; id += PARTS) {
      const float value = value_of(level.classes, values, id);
      nan |= is_nan(value);
      if (value > best) {  // the first of equal classes wins
        best = value;
        best_id = id;
      }
    }
  }
  best_value[part][local] = best;
  best_class[part][local] = best_id;
  if (__syncthreads_or(nan) && threadIdx.x == 0) atomicOr((u32*)&tallies[image].flags, NAN_FLAG);

  // The first warp finishes: one thread a cell.
  if (threadIdx.x >= CELLS) return;
  const int cell = first_cell + threadIdx.x;
  const bool exists = cell < level.cells;
  bool keep = false;
  float score = 0.0f;
  Box box = {0.0f, 0.0f, 0.0f, 0.0f};
  int flags = 0;
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
    const in_t* raw_box = cell_of<in_t>(level.box, image, row, column);
    float raw[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      raw[c] = value_of(level.box, raw_box, c);
      if (is_nan(raw[c])) flags = NAN_FLAG;
    }
    score = probability(best);
#if OBJECTNESS
    const in_t* raw_objectness = cell_of<in_t>(level.objectness, image, row, column);
    const float object = probability(value_of(level.objectness, raw_objectness, 0));
    if (is_nan(object)) flags = NAN_FLAG;
    score = object * score;
#endif
    if (score >= thresholds[image * num_classes + best_id]) {
#if BOXES == 0
      const float stride = (float)level.stride;
      const float centre_x = (raw[0] + (float)column) * stride;
      const float centre_y = (raw[1] + (float)row) * stride;
      const float width = expf(raw[2]) * stride;
      const float height = expf(raw[3]) * stride;
      box = corners_of(centre_x, centre_y, width, height, input);
#elif BOXES == 3
      const Box anchor = anchor_boxes[level.first_anchor + cell];  // centre, width, height
      box = corners_of(raw[1] * anchor.x2 + anchor.x1, raw[0] * anchor.y2 + anchor.y1,
                       expf(raw[3]) * anchor.x2, expf(raw[2]) * anchor.y2, input);
#else
      box = corners_of(raw[0], raw[1], raw[2], raw[3], input);
#endif
      flags |= implausible(box, score, input);
      keep = is_candidate(box, posts[image]);
    }
  }
  if (flags) atomicOr((u32*)&tallies[image].flags, (u32)flags);
  emit(keep, (u64)image * anchors, level.first_anchor + cell, box, score, best_id,
       &tallies[image], keys, boxes, class_ids);
}

__device__ __forceinline__ int class_of(int value) { return value; }
__device__ __forceinline__ int class_of(long long value) {
  return value < 0 || value > 0x7fffffff ? -1 : (int)value;
}
__device__ __forceinline__ int class_of(float value) {
  const int whole = value >= 0.0f && value < 16777216.0f ? (int)value : -1;
  return (float)whole == value ? whole : -1;
}
#if OUTPUT == 1
__device__ __forceinline__ int class_of(half_t value) { return class_of(to_float(value)); }
#endif

// Where finished detections lie: elements from one row to the next, and rows of an image. The same
// fields in the same order: descriptors.FINISHED.
struct Finished {
  u64 counts;  // int for each image; 0: rows of score 0 fill up
  u64 boxes, scores, classes;
  int slots;
  int box_step, score_step, class_step;
};

// Grid: (blocks of `slots`, batch); block: 32.
extern "C" __global__ void __launch_bounds__(32)
    read_finished(const Finished* __restrict__ finished, int num_classes, float input_width,
                  float input_height, const Post* __restrict__ posts, const float* __restrict__ thresholds,
                  Tally* __restrict__ tallies, u64* __restrict__ keys, Box* __restrict__ boxes,
                  int* __restrict__ class_ids) {
  const Finished own = *finished;
  const Size input = {input_width, input_height};
  const int slots = own.slots;
  const int image = blockIdx.y;
  const int slot = blockIdx.x * 32 + threadIdx.x;
  bool keep = false;
  float score = 0.0f;
  int class_id = 0;
  Box box = {0.0f, 0.0f, 0.0f, 0.0f};
  const int count = own.counts ? ((const int*)own.counts)[image] : slots;
  if (slot < min(count, slots)) {
    const u64 from = (u64)image * slots + slot;
    const in_t* raw = (const in_t*)own.boxes + from * own.box_step;
    score = to_float(((const in_t*)own.scores)[from * own.score_step]);
    class_id = class_of(((const class_t*)own.classes)[from * own.class_step]);
    // NaN in the output is a fault; what infinite numbers make of a box is merely none.
    float values[4];
    bool nan = is_nan(score);
#pragma unroll
    for (int c = 0; c < 4; ++c) nan |= is_nan(values[c] = to_float(raw[c]));
    box = corners_of(values[0], values[1], values[2], values[3], input);
    const bool known = class_id >= 0 && class_id < num_classes;
    const bool counts = own.counts || score > 0.0f;
    int flags = 0;
    if (nan || (counts && !known)) {
      flags = NAN_FLAG;
    } else if (counts && score >= thresholds[image * num_classes + class_id]) {
      flags = implausible(box, score, input);
      keep = is_candidate(box, posts[image]);
    }
    if (flags) atomicOr((u32*)&tallies[image].flags, (u32)flags);
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
  const int flags = tallies[image].flags;
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
      result_boxes[place] = to_source(sorted_boxes[row], posts[image]);
      result_scores[place] = sorted_scores[row];
      result_class_ids[place] = sorted_class_ids[row];
    }
  }
  if (threadIdx.x == 0) {
    Header header;
    header.count = detections;
    header.candidates = candidates;
    header.overflow = candidates - count;
    header.flags = flags;
    *(Header*)result = header;
    tallies[image] = {0, 0};
  }
}

// The best detections, where nothing is to be suppressed. Grid: (batch); block: 1024. Leaves the
// tally at zero for the next frame.
extern "C" __global__ void __launch_bounds__(SELECTION_THREADS)
    best_selection(Tally* __restrict__ tallies, int capacity, const Post* __restrict__ posts,
                   const Box* __restrict__ sorted_boxes, const float* __restrict__ sorted_scores,
                   const int* __restrict__ sorted_class_ids, u8* __restrict__ results,
                   int result_bytes, int result_capacity) {
  const int image = blockIdx.x;
  const Tally tally = tallies[image];
  const Post post = posts[image];
  const int ranked = min(tally.candidates, capacity);
  const int detections = min(ranked, min(post.max_detections, result_capacity));
  u8* result = results + (u64)image * result_bytes;
  Box* result_boxes = (Box*)(result + sizeof(Header));
  float* result_scores = (float*)(result_boxes + result_capacity);
  int* result_class_ids = (int*)(result_scores + result_capacity);
  for (int place = threadIdx.x; place < detections; place += SELECTION_THREADS) {
    const u64 from = (u64)image * capacity + place;
    result_boxes[place] = to_source(sorted_boxes[from], post);
    result_scores[place] = sorted_scores[from];
    result_class_ids[place] = sorted_class_ids[from];
  }
  __syncthreads();  // every thread has read the tally
  if (threadIdx.x == 0) {
    *(Header*)result = {detections, tally.candidates, tally.candidates - ranked, tally.flags};
    tallies[image] = {0, 0};
  }
}
