// SPDX-FileCopyrightText: The yolox_trt authors
// SPDX-License-Identifier: Apache-2.0
//
// Resize + letterbox + colour conversion + normalisation + layout, in one kernel: each source
// byte is read once (neighbours share it in shared memory), each destination byte is written once.
//
// The geometry is core.letterbox.Letterbox: half-pixel centres, each axis with its own ratio,
// edges clamped to the Roi. Colour conversion happens before interpolation, as in the reference
// (kernels/reference), because clamping to 0..255 does not commute with it.
//
// A block makes a tile of 32 * WARPS columns and TILE_ROWS rows. It first brings the source rows
// that the tile samples, and no others, into shared memory: by the bulk copy engine where there is
// one (compute capability 9.0), else by 16-byte asynchronous copies. That needs neither registers
// nor addresses for what is in flight, and makes wide, aligned reads of unaligned pixels. Images
// that this does not suit (steps that are no multiple of four, a tile that does not fit in
// STAGE_BYTES) are read directly, through the L1.
//
// Macros, set by kernels/cuda/preprocess.py:
//   OUTPUT       element type: 0 float, 1 half, 2 int8, 3 uint8
//   LAYOUT       0 NCHW, 1 HWC4, 2 CHW16, 3 CHW32
//   NORMALISE    1: values are scaled and shifted; 0: they stay 0..255
//   WARPS        warps of a block, side by side
//   TILE_ROWS    rows of a tile, at most 32
//   STAGE_BYTES  shared memory for source rows
//   BATCH        rows of a thread whose taps are read before the first is blended
//   BLOCKS       blocks that must fit on a multiprocessor: bounds the registers of a thread
//   HEIGHT, WIDTH, ROW_PITCH  of the network's input: rows, columns, and elements (NCHW) or pixels
//                from one row to the next. As constants they cost no address arithmetic.
//
// Reads are of whole aligned words or 16-byte pieces: the buffer must be
// descriptors.SOURCE_MARGIN longer than the image.

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
  int reserved;
};

#if OUTPUT == 0
typedef float out_t;
#elif OUTPUT == 1
typedef half_t out_t;
#elif OUTPUT == 2
typedef signed char out_t;
#else
typedef u8 out_t;
#endif

const int WEIGHT_BITS = 12;  // OpenCV's INTER_LINEAR has 11
const u32 ONE = 1u << WEIGHT_BITS;
const int PIXEL_BITS = 2 * WEIGHT_BITS;  // a blended pixel's integer is its highest byte

// A blended pixel (already rounded) as an element of the network's input.
__device__ __forceinline__ out_t finish(u32 pixel, float multiplier, float offset) {
#if OUTPUT == 3
  return (u8)(pixel >> PIXEL_BITS);
#elif OUTPUT == 1 && !NORMALISE && !defined(YOLOX_TRT_HOST)
  // 0x6400 | byte is the half 1024 + byte.
  half_t result;
  asm("sub.rn.f16 %0, %1, %2;"
      : "=h"(result.bits)
      : "h"((u16)__funnelshift_r(pixel, 0x64u, PIXEL_BITS)), "h"((u16)0x6400));
  return result;
#else
  // 0x4b000000 | byte is the float 2^23 + byte: cheaper than a shift and a conversion.
  float value = __uint_as_float(__funnelshift_r(pixel, 0x4b0000u, PIXEL_BITS)) - 8388608.0f;
#if NORMALISE
  value = fmaf(value, multiplier, offset);
#endif
#if OUTPUT == 0
  return value;
#elif OUTPUT == 1
  return to_half(value);
#else
  return (signed char)__float2int_rn(fminf(fmaxf(value, -128.0f), 127.0f));
#endif
#endif
}

// Where an axis samples, inside a Roi: first tap, and the second tap's weight in 1 / ONE.
struct Sample {
  u32 tap;
  u32 weight;
};

__device__ __forceinline__ Sample sample(int position, float ratio, int first, int size) {
  float source = ((float)position + 0.5f) * ratio - 0.5f;
  source = fminf(fmaxf(source, 0.0f), (float)(size - 1));
  // The last pixel is the second tap of its left neighbour, so that no tap leaves the Roi.
  const int floor = max(min((int)source, size - 2), 0);
  Sample result;
  result.tap = (u32)(first + floor);
  result.weight = (u32)__float2int_rn((source - (float)floor) * (float)ONE);
  return result;
}

// ITU-R BT.601, limited range, as kernels/reference/color.py, with 16 instead of 20 bits of
// fraction: an integer then lies in one byte, and differs from the reference's by 1 at most.
const int YUV_BITS = 16;
const int YUV_Y = 76284;        // round(2^16 * 1220542 / 2^20), likewise below
const int YUV_U_TO_B = 132252;
const int YUV_U_TO_G = -25625;
const int YUV_V_TO_G = -53281;
const int YUV_V_TO_R = 104595;
const int YUV_LIMIT = (256 << YUV_BITS) - 1;

struct Chroma {  // what chroma adds to the blue, green and red of a pixel, and half for rounding
  int value[3];

  Chroma() = default;

  __device__ __forceinline__ Chroma(u32 u, u32 v) {
    const int half = 1 << (YUV_BITS - 1);
    value[0] = (int)u * YUV_U_TO_B + (half - 128 * YUV_U_TO_B);
    value[1] = (int)v * YUV_V_TO_G +
               ((int)u * YUV_U_TO_G + (half - 128 * (YUV_U_TO_G + YUV_V_TO_G)));
    value[2] = (int)v * YUV_V_TO_R + (half - 128 * YUV_V_TO_R);
  }
};

__device__ __forceinline__ int luma_of(u32 y) { return max((int)y - 16, 0) * YUV_Y; }

__device__ __forceinline__ int clamped_sum(int a, int b) {
  return max(min(a + b, YUV_LIMIT), 0);  // one instruction on compute capability 9.0
}

// Weighted sums of the blue, green and red of two YUV pixels.
__device__ __forceinline__ void blend_yuv(u32 y_a, u32 y_b, const Chroma& chroma_a,
                                          const Chroma& chroma_b, u32 weights, u32 sum[3]) {
  const int luma_a = luma_of(y_a);
  const int luma_b = luma_of(y_b);
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    const u32 a = (u32)clamped_sum(luma_a, chroma_a.value[c]);
    const u32 b = (u32)clamped_sum(luma_b, chroma_b.value[c]);
    sum[c] = __dp2a_lo(weights, __byte_perm(a, b, 0x0062), 0u);
  }
}

// Byte `index` of a word; the index may differ between threads.
__device__ __forceinline__ u32 byte_of(u32 word, u32 index) {
  return __byte_perm(word, 0u, 0x4440u | index);
}

struct Normalisation {  // out = value * multiplier + offset, by the network's channel
  float multiplier[3];
  float offset[3];
};

#if LAYOUT == 0
const int ROW_ELEMENTS = ROW_PITCH;
const long long PLANE = (long long)HEIGHT * ROW_PITCH;
#else
const int CHANNELS = LAYOUT == 1 ? 4 : LAYOUT == 2 ? 16 : 32;
const int ROW_ELEMENTS = ROW_PITCH * CHANNELS;
#endif

// Stores one pixel. `to`: NCHW, its place in the plane of channel 0; else its first element.
// `swap`: channels 0 and 2 change places; `normalisation` is in the order of `pixel`.
template <bool SWAP>
__device__ __forceinline__ void store(out_t* __restrict__ to, const u32 pixel[3],
                                      const Normalisation& normalisation) {
  out_t value[3];
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    value[SWAP ? 2 - c : c] =
        finish(pixel[c], normalisation.multiplier[c], normalisation.offset[c]);
  }
#if LAYOUT == 0
  to[0] = value[0];
  to[PLANE] = value[1];
  to[2 * PLANE] = value[2];
#else
  // Channels beyond the third are zero: the network's weights for them are, too.
  const int group = 16 / (int)sizeof(out_t) < CHANNELS ? 16 / (int)sizeof(out_t) : CHANNELS;
  struct alignas(group * sizeof(out_t)) Pack {
    out_t value[group];
  };
  const Pack zero = {};
  Pack pack = {};
  pack.value[0] = value[0];
  pack.value[1] = value[1];
  pack.value[2] = value[2];
  ((Pack*)to)[0] = pack;
#pragma unroll
  for (int next = 1; next < CHANNELS / group; ++next) ((Pack*)to)[next] = zero;
#endif
}

// The network's input, seen by one thread.
struct Output {
  out_t* __restrict__ at;  // the thread's column in the tile's first row (NCHW: of channel 0)
  bool swap;
  Normalisation normalisation;
};

__device__ __forceinline__ void store(const Output& output, int row, const u32 pixel[3]) {
  out_t* __restrict__ to = output.at + (long long)row * ROW_ELEMENTS;
  if (output.swap) {  // the same for the whole block
    store<true>(to, pixel, output.normalisation);
  } else {
    store<false>(to, pixel, output.normalisation);
  }
}

// What the rows of a tile need, made by the first warp.
struct alignas(16) Row {
  u32 above, below;  // staged: bytes from the stage's start to the tile's first group; else rows
  u32 weight_above, weight_below;  // in 1 / ONE
  u32 chroma_above, chroma_below;  // nv12, likewise
  u32 reserved[2];
};

// How one encoding lies in memory.
template <int ENCODING>
struct Traits {
  static const bool IS_RGB = ENCODING == BGR8 || ENCODING == BGRA8;
  static const bool IS_422 = ENCODING == UYVY || ENCODING == YUY2;
  // Bytes from one pixel to the next in the plane that carries luma or colour.
  static const u32 PITCH = ENCODING == BGR8 ? 3 : ENCODING == BGRA8 ? 4 : IS_422 ? 2 : 1;
  // Bytes from a group's first one to the end of what both taps need.
  static const u32 WINDOW = ENCODING == BGR8 ? 6 : IS_422 || ENCODING == BGRA8 ? 8 : 2;

  // First byte of the group that column x lies in.
  static __device__ __forceinline__ u32 offset(u32 x) {
    return IS_422 ? PITCH * (x & ~1u) : PITCH * x;
  }
};

// What a thread knows of its column.
struct Column {
  u32 odd;       // whether the first tap's column is odd
  u32 weights;   // of both horizontal taps
  u32 offset;    // bytes from a row's start to the first tap's group
  u32 chroma_a;  // nv12: bytes from a chroma row's start to both taps' chroma
  u32 chroma_b;
};

template <int ENCODING>
__device__ __forceinline__ Column make_column(const Image& image, int column) {
  const Sample x = sample(min(column, image.resized_width - 1), image.ratio_x, image.roi_x,
                          image.roi_width);
  Column result;
  result.odd = x.tap & 1;
  result.weights = (ONE - x.weight) | x.weight << 16;
  result.offset = Traits<ENCODING>::offset(x.tap);
  result.chroma_a = x.tap & ~1u;
  result.chroma_b = (x.tap + 1) & ~1u;
  return result;
}

// The bytes of both taps in one row: words, or (mono8, nv12) two bytes.
struct Taps {
  u32 word[3];
};

// Reads a group that begins `lead` bytes behind the word at `at`.
template <int ENCODING>
__device__ __forceinline__ Taps read_taps(const u8* at, u32 lead, u32 odd) {
  Taps taps;
  if (Traits<ENCODING>::WINDOW == 2) {
    taps.word[0] = at[lead];
    taps.word[1] = at[lead + 1];
    return taps;
  }
  const u32 count = Traits<ENCODING>::IS_422 ? 4 + 4 * odd : Traits<ENCODING>::WINDOW;
  const u32* words = (const u32*)at;
  taps.word[0] = words[0];
  taps.word[1] = taps.word[2] = 0;
  if (!Traits<ENCODING>::IS_422 || lead + count > 4) taps.word[1] = words[1];
  if (lead + count > 8) taps.word[2] = words[2];
  return taps;
}

// Shifts the words so that the group's bytes 0 to 3 and 4 to 7 are word[0] and word[1].
__device__ __forceinline__ void align_taps(Taps& taps, u32 lead) {
  taps.word[0] = __funnelshift_r(taps.word[0], taps.word[1], lead * 8);
  taps.word[1] = __funnelshift_r(taps.word[1], taps.word[2], lead * 8);
}

// A chroma sample of nv12: blue difference in the low byte, red difference above it.
__device__ __forceinline__ u32 read_chroma(const u8* at) { return at[0] | at[1] << 8; }

// Weighted sums of a row's two taps, channels in the order of the encoding's bytes (YUV: blue,
// green, red). `chroma`: nv12, of both taps.
template <int ENCODING>
__device__ __forceinline__ void blend_row(const Taps& taps, const Column& column,
                                          const Chroma chroma[2], u32 sum[3]) {
  if (Traits<ENCODING>::IS_RGB) {
    const u32 two = __byte_perm(taps.word[0], taps.word[1], ENCODING == BGR8 ? 0x4130 : 0x5140);
    const u32 third = __byte_perm(taps.word[0], taps.word[1], ENCODING == BGR8 ? 0x0052 : 0x0062);
    sum[0] = __dp2a_lo(column.weights, two, 0u);
    sum[1] = __dp2a_hi(column.weights, two, 0u);
    sum[2] = __dp2a_lo(column.weights, third, 0u);
  } else if (ENCODING == MONO8) {
    sum[0] = sum[1] = sum[2] =
        taps.word[0] * (column.weights & 0xffffu) + taps.word[1] * (column.weights >> 16);
  } else if (ENCODING == NV12) {
    blend_yuv(taps.word[0], taps.word[1], chroma[0], chroma[1], column.weights, sum);
  } else {
    // UYVY: U Y V Y'; YUY2: Y U Y' V. Odd column: Y', then Y of the next group.
    const u32 luma = ENCODING == UYVY ? 1 : 0;
    const u32 u = ENCODING == UYVY ? 0 : 1;
    const u32 next = column.odd ? taps.word[1] : taps.word[0];
    const Chroma a(byte_of(taps.word[0], u), byte_of(taps.word[0], u + 2));
    const Chroma b(byte_of(next, u), byte_of(next, u + 2));
    blend_yuv(byte_of(taps.word[0], luma + 2 * column.odd),
              byte_of(next, luma + 2 - 2 * column.odd), a, b, column.weights, sum);
  }
}

// Blends both rows: an integer 0..255, rounded half up, in the highest byte.
__device__ __forceinline__ void blend_rows(const u32 above[3], const u32 below[3], const Row& row,
                                           u32 pixel[3]) {
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    pixel[c] = above[c] * row.weight_above +
               (below[c] * row.weight_below + (1u << (PIXEL_BITS - 1)));
  }
}

// ---- bringing source rows into shared memory

#if !defined(YOLOX_TRT_HOST) && __CUDA_ARCH__ >= 900
#define BULK_COPY 1
#else
#define BULK_COPY 0
#endif

#ifdef YOLOX_TRT_HOST
__device__ __forceinline__ void copy16(u8* to, const u8* from) { __builtin_memcpy(to, from, 16); }
__device__ __forceinline__ void wait_for_copies() {}
#else
__device__ __forceinline__ u32 shared_address(const void* pointer) {
  return (u32)__cvta_generic_to_shared(pointer);
}
#if BULK_COPY
__device__ __forceinline__ void init_barrier(u64* barrier, u32 arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals));
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void arrive_and_expect(u64* barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                   shared_address(barrier)),
               "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void bulk_copy(u8* to, u64 from, u32 bytes, u64* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}
__device__ __forceinline__ void wait_for_barrier(u64* barrier) {  // its first phase
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], 0;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(shared_address(barrier))
      : "memory");
}
#elif __CUDA_ARCH__ >= 800
__device__ __forceinline__ void copy16(u8* to, const u8* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from)
               : "memory");
}
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}
#else
__device__ __forceinline__ void copy16(u8* to, const u8* from) { *(uint4*)to = *(const uint4*)from; }
__device__ __forceinline__ void wait_for_copies() {}
#endif
#endif

// The part of a plane that a tile samples: `slots` rows of `bytes` bytes each.
struct Region {
  u64 data;    // address of row 0's byte that the tile's first column needs
  u32 step;    // bytes from row to row
  u32 bytes;   // multiple of 16
  u32 begin;   // of its first slot in the stage
  u32 slots;
  u32 first;   // dense: row of slot 0
  u32 halved;  // rows are chroma rows, each for two image rows
  bool dense;  // every row from `first` on; else two slots for each row of the tile
};

// The image row whose tap a slot holds, in rows of the region's plane.
__device__ __forceinline__ u32 region_row(const Region& region, const Image& image, int first_row,
                                          u32 slot) {
  if (region.dense) return region.first + slot;
  const Sample y = sample(min(first_row + (int)(slot >> 1), image.resized_height - 1),
                          image.ratio_y, image.roi_y, image.roi_height);
  const u32 row = y.tap + ((slot & 1) && image.roi_height > 1 ? 1 : 0);
  return row >> region.halved;
}

// Where the tile's first group lies in the stage, for a row that a slot holds.
__device__ __forceinline__ u32 staged_at(const Region& region, u32 row, u32 slot) {
  const u32 lead = (u32)(region.data + (u64)row * region.step) & 15;
  return region.begin + slot * region.bytes + lead;
}

template <int ENCODING>
struct Tile {
  Region luma;
  Region chroma;
  u32 first_offset;   // of the tile's first group in a row
  u32 first_chroma;
  bool staged;
};

// Decides how a tile is read. `last_row`: behind the tile's
// last row that carries the image; `last_column`: its last column that does.
template <int ENCODING>
__device__ __forceinline__ Tile<ENCODING> make_tile(const Image& image, int first_column,
                                                    int last_column, int first_row, int last_row) {
  Tile<ENCODING> tile;
  const Column left = make_column<ENCODING>(image, first_column);
  const Column right = make_column<ENCODING>(image, last_column);
  const Sample top = sample(first_row, image.ratio_y, image.roi_y, image.roi_height);
  const Sample bottom = sample(last_row - 1, image.ratio_y, image.roi_y, image.roi_height);
  const u32 second = image.roi_height > 1 ? 1 : 0;
  const u32 dense_rows = bottom.tap + second - top.tap + 1;
  const u32 listed_rows = 2 * (u32)(last_row - first_row);
  const bool dense = dense_rows <= listed_rows;

  tile.first_offset = left.offset;
  tile.luma.data = image.data + left.offset;
  tile.luma.step = (u32)image.step;
  tile.luma.bytes = (right.offset - left.offset + Traits<ENCODING>::WINDOW + 30) & ~15u;
  tile.luma.begin = 0;
  tile.luma.slots = dense ? dense_rows : listed_rows;
  tile.luma.first = top.tap;
  tile.luma.halved = 0;
  tile.luma.dense = dense;
  u32 total = tile.luma.slots * tile.luma.bytes;

  tile.first_chroma = left.chroma_a;
  tile.chroma = tile.luma;
  tile.chroma.slots = 0;
  if (ENCODING == NV12) {
    tile.chroma.data = image.chroma + left.chroma_a;
    tile.chroma.bytes = (right.chroma_b - left.chroma_a + 2 + 30) & ~15u;
    tile.chroma.begin = total;
    tile.chroma.first = top.tap >> 1;
    tile.chroma.slots = dense ? ((bottom.tap + second) >> 1) - (top.tap >> 1) + 1 : listed_rows;
    tile.chroma.halved = 1;
    total += tile.chroma.slots * tile.chroma.bytes;
  }
  // A read of a word, from a group's last bytes on, may leave a row by up to eight bytes.
  tile.staged = total + 16 <= STAGE_BYTES &&
                ((image.data | image.chroma | (u64)image.step) & 3) == 0;
  return tile;
}

__device__ __forceinline__ Row make_row(const Image& image, const Region& luma,
                                        const Region& chroma, bool staged, int first_row,
                                        int index) {
  const Sample y = sample(min(first_row + index, image.resized_height - 1), image.ratio_y,
                          image.roi_y, image.roi_height);
  Row row;
  row.weight_above = ONE - y.weight;
  row.weight_below = y.weight;
  row.above = y.tap;
  row.below = y.tap + (image.roi_height > 1 ? 1 : 0);
  row.chroma_above = row.above >> 1;
  row.chroma_below = row.below >> 1;
  if (staged) {
    const u32 slot = 2 * index;
    row.chroma_above = staged_at(chroma, row.chroma_above,
                                 chroma.dense ? row.chroma_above - chroma.first : slot);
    row.chroma_below = staged_at(chroma, row.chroma_below,
                                 chroma.dense ? row.chroma_below - chroma.first : slot + 1);
    row.above = staged_at(luma, row.above, luma.dense ? row.above - luma.first : slot);
    row.below = staged_at(luma, row.below, luma.dense ? row.below - luma.first : slot + 1);
  }
  return row;
}

// What a thread's column is: image, padding, or behind the row's end.
enum Kind { IMAGE, PADDING, OUTSIDE };

// A block's shared memory.
struct alignas(128) Shared {
  u8 stage[STAGE_BYTES];
  Row rows[TILE_ROWS];
  u64 barrier;
  u32 first_offset;  // of the tile's first group in a row
  u32 first_chroma;
  u32 staged;        // whether the rows are in `stage`
};

// Starts the copies of the source rows of a tile, and describes its rows. Called by one warp where
// bulk copies exist, else by all.
template <int ENCODING>
__device__ __forceinline__ void start(const Image& image, int first_column, int first_row,
                                      int last_row, Shared& shared) {
  const int lane = threadIdx.x % 32;
  const int last_column = min(first_column + 32 * WARPS, image.resized_width) - 1;
  const Tile<ENCODING> tile =
      make_tile<ENCODING>(image, first_column, last_column, first_row, last_row);
#if BULK_COPY
  if (tile.staged) {
    if (lane == 0) init_barrier(&shared.barrier, 32);
    __syncwarp();
    u32 bytes = 0;
    for (u32 slot = lane; slot < tile.luma.slots; slot += 32) bytes += tile.luma.bytes;
    for (u32 slot = lane; slot < tile.chroma.slots; slot += 32) bytes += tile.chroma.bytes;
    arrive_and_expect(&shared.barrier, bytes);
  }
#endif
#pragma unroll
  for (int plane = 0; plane < (ENCODING == NV12 ? 2 : 1); ++plane) {
    const Region& region = plane ? tile.chroma : tile.luma;
    if (!tile.staged) break;
#if BULK_COPY
    for (u32 slot = lane; slot < region.slots; slot += 32) {
      const u64 from = region.data + (u64)region_row(region, image, first_row, slot) * region.step;
      bulk_copy(shared.stage + region.begin + slot * region.bytes, from & ~15ull, region.bytes,
                &shared.barrier);
    }
#else
    for (u32 slot = threadIdx.x / 32; slot < region.slots; slot += WARPS) {
      const u64 from = region.data + (u64)region_row(region, image, first_row, slot) * region.step;
      u8* to = shared.stage + region.begin + slot * region.bytes;
      for (u32 byte = lane * 16; byte < region.bytes; byte += 32 * 16) {
        copy16(to + byte, (const u8*)(from & ~15ull) + byte);
      }
    }
#endif
  }
  if (threadIdx.x < TILE_ROWS) {
    shared.rows[threadIdx.x] =
        make_row(image, tile.luma, tile.chroma, tile.staged, first_row, threadIdx.x);
  }
  if (threadIdx.x == 0) {
    shared.first_offset = tile.first_offset;
    shared.first_chroma = tile.first_chroma;
    shared.staged = tile.staged;
  }
}

// Both taps' chroma of one nv12 row, from its two samples.
__device__ __forceinline__ void unpack_chroma(u32 a, u32 b, Chroma chroma[2]) {
  chroma[0] = Chroma(byte_of(a, 0), byte_of(a, 1));
  chroma[1] = Chroma(byte_of(b, 0), byte_of(b, 1));
}

// Makes `count` rows from those in shared memory. INTERIOR: all columns of the block carry the
// image.
template <int ENCODING, bool INTERIOR>
__device__ __forceinline__ void make_staged(const Column& column, const Output& output, Kind kind,
                                            int count, u32 pad, const Shared& shared) {
  // Steps are multiples of four: a group's place in its word is the same in every row.
  const u32 lead = ENCODING == BGR8 ? column.offset & 3 : 0;
  const u8* at = shared.stage + (column.offset - shared.first_offset - lead);
  const u8* chroma_a = shared.stage + (column.chroma_a - shared.first_chroma);
  const u8* chroma_b = shared.stage + (column.chroma_b - shared.first_chroma);
#pragma unroll
  for (int first = 0; first < TILE_ROWS; first += BATCH) {
    if (first >= count) break;
    Row rows[BATCH];
    Taps taps[BATCH][2];
    u32 samples[BATCH][2][2];
#pragma unroll
    for (int r = 0; r < BATCH; ++r) {
      rows[r] = shared.rows[INTERIOR ? first + r : min(first + r, count - 1)];
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        taps[r][t] =
            read_taps<ENCODING>(at + (t ? rows[r].below : rows[r].above), lead, column.odd);
        if (ENCODING == NV12) {
          const u32 offset = t ? rows[r].chroma_below : rows[r].chroma_above;
          samples[r][t][0] = *(const u16*)(chroma_a + offset);
          samples[r][t][1] = *(const u16*)(chroma_b + offset);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < BATCH; ++r) {
      u32 sum[2][3];
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        Chroma chroma[2];
        if (ENCODING == BGR8) align_taps(taps[r][t], lead);
        if (ENCODING == NV12) unpack_chroma(samples[r][t][0], samples[r][t][1], chroma);
        blend_row<ENCODING>(taps[r][t], column, chroma, sum[t]);
      }
      u32 pixel[3];
      blend_rows(sum[0], sum[1], rows[r], pixel);
      if (INTERIOR) {
        store(output, first + r, pixel);
      } else {
        if (kind == PADDING) pixel[0] = pixel[1] = pixel[2] = pad;
        if (kind != OUTSIDE && first + r < count) store(output, first + r, pixel);
      }
    }
  }
}

// Makes `count` rows straight from the image.
template <int ENCODING>
__device__ __forceinline__ void make_direct(const Image& image, const Column& column,
                                            const Output& output, Kind kind, int count, u32 pad,
                                            const Shared& shared) {
#pragma unroll 2
  for (int r = 0; r < count; ++r) {
    const Row row = shared.rows[r];
    u32 sum[2][3];
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      const u64 from =
          image.data + (u64)(t ? row.below : row.above) * (u32)image.step + column.offset;
      const u32 lead = Traits<ENCODING>::WINDOW == 2 ? 0 : (u32)from & 3;
      Taps taps = read_taps<ENCODING>((const u8*)(from - lead), lead, column.odd);
      if (Traits<ENCODING>::WINDOW != 2) align_taps(taps, lead);
      Chroma chroma[2];
      if (ENCODING == NV12) {
        const u8* plane = (const u8*)image.chroma +
                          (u64)(t ? row.chroma_below : row.chroma_above) * (u32)image.step;
        unpack_chroma(read_chroma(plane + column.chroma_a), read_chroma(plane + column.chroma_b),
                      chroma);
      }
      blend_row<ENCODING>(taps, column, chroma, sum[t]);
    }
    u32 pixel[3];
    blend_rows(sum[0], sum[1], row, pixel);
    if (kind == PADDING) pixel[0] = pixel[1] = pixel[2] = pad;
    if (kind != OUTSIDE) store(output, r, pixel);
  }
}

// Makes the tile's rows that carry the image. All threads of a block call it.
template <int ENCODING>
__device__ __forceinline__ void resample(const Image& image, const Output& output,
                                         int first_column, Kind kind, int first_row, int last_row,
                                         u32 pad, Shared& shared) {
  if (!BULK_COPY || threadIdx.x < 32) {
    start<ENCODING>(image, first_column, first_row, last_row, shared);
  }
  const Column column = make_column<ENCODING>(image, first_column + (int)threadIdx.x);
#if !BULK_COPY
  wait_for_copies();
#endif
  __syncthreads();
  const int count = last_row - first_row;
  if (!shared.staged) {
    make_direct<ENCODING>(image, column, output, kind, count, pad, shared);
    return;
  }
#if BULK_COPY
  wait_for_barrier(&shared.barrier);
#endif
  if (count == TILE_ROWS && first_column + 32 * WARPS <= image.resized_width) {
    make_staged<ENCODING, true>(column, output, kind, count, pad, shared);
  } else {
    make_staged<ENCODING, false>(column, output, kind, count, pad, shared);
  }
}

// Reads a struct Image by wide loads, all under way at a time: every block waits for it.
__device__ __forceinline__ Image read_image(const Image* at) {
#ifdef YOLOX_TRT_HOST
  return *at;
#else
  union {
    Image image;
    u32 word[16];
  } value;
#pragma unroll
  for (int i = 0; i < 16; i += 4) {
    asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.word[i]), "=r"(value.word[i + 1]), "=r"(value.word[i + 2]),
                   "=r"(value.word[i + 3])
                 : "l"((const u32*)at + i));
  }
  return value.image;
#endif
}

// Multiprocessors but those of compute capability 8.0 and 9.0 hold 16 to 24 blocks, not 32.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ != 800 && __CUDA_ARCH__ != 900 && BLOCKS > 16
const int RESIDENT = 16;
#else
const int RESIDENT = BLOCKS;
#endif

// Grid: (columns / (32 * WARPS), rows / TILE_ROWS, batch); block: 32 * WARPS.
extern "C" __global__ void __launch_bounds__(32 * WARPS, RESIDENT)
    preprocess(const Image* __restrict__ images, out_t* __restrict__ input, float multiplier0,
               float multiplier1, float multiplier2, float offset0, float offset1, float offset2,
               int pad) {
  __shared__ Shared shared;
  const Image image = read_image(images + blockIdx.z);
  const int first_column = blockIdx.x * 32 * WARPS;
  const int first_row = blockIdx.y * TILE_ROWS;
  const int column = first_column + threadIdx.x;
  const int last_row = min(first_row + TILE_ROWS, HEIGHT);
  const Kind kind = column < image.resized_width ? IMAGE : column < WIDTH ? PADDING : OUTSIDE;
  const u32 pad_value = (u32)pad << PIXEL_BITS;

  Output output;
  output.swap = image.swap != 0;
#if LAYOUT == 0
  output.at = input + blockIdx.z * 3 * PLANE + (long long)first_row * ROW_PITCH + column;
#else
  output.at = input + (((long long)blockIdx.z * HEIGHT + first_row) * ROW_PITCH + column) * CHANNELS;
#endif
  output.normalisation.multiplier[0] = output.swap ? multiplier2 : multiplier0;
  output.normalisation.multiplier[1] = multiplier1;
  output.normalisation.multiplier[2] = output.swap ? multiplier0 : multiplier2;
  output.normalisation.offset[0] = output.swap ? offset2 : offset0;
  output.normalisation.offset[1] = offset1;
  output.normalisation.offset[2] = output.swap ? offset0 : offset2;

  // Behind the last row of the tile that carries the image; the same for the whole block.
  int end = max(first_row, min(last_row, image.resized_height));
  if (first_column >= image.resized_width) end = first_row;
  if (first_row < end) {
    switch (image.encoding) {
      case BGR8:
      case RGB8:
        resample<BGR8>(image, output, first_column, kind, first_row, end, pad_value, shared);
        break;
      case BGRA8:
      case RGBA8:
        resample<BGRA8>(image, output, first_column, kind, first_row, end, pad_value, shared);
        break;
      case MONO8:
        resample<MONO8>(image, output, first_column, kind, first_row, end, pad_value, shared);
        break;
      case NV12:
        resample<NV12>(image, output, first_column, kind, first_row, end, pad_value, shared);
        break;
      case UYVY:
        resample<UYVY>(image, output, first_column, kind, first_row, end, pad_value, shared);
        break;
      default:
        resample<YUY2>(image, output, first_column, kind, first_row, end, pad_value, shared);
        break;
    }
  }
  if (kind == OUTSIDE) return;
  const u32 padding[3] = {pad_value, pad_value, pad_value};
  for (int row = end; row < last_row; ++row) store(output, row - first_row, padding);
}
