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
// one (BULK_COPY), else by asynchronous copies of 16 bytes a thread. Both need no registers for
// what is in flight, and make wide, aligned reads of unaligned pixels. While a block waits for its
// rows, others of its multiprocessor make pixels. A tile whose rows do not fit in STAGE_BYTES is
// made in parts of fewer rows. Images that this does not suit (steps that are no multiple of four,
// one row that does not fit) are read directly, through the L1.
//
// Macros, set by kernels/cuda/preprocess.py:
//   OUTPUT       element type: 0 float, 1 half, 2 int8, 3 uint8
//   LAYOUT       0 NCHW, 1 HWC4, 2 CHW16, 3 CHW32
//   NORMALISE    1: values are scaled and shifted; 0: they stay 0..255
//   WARPS        warps of a block, side by side
//   TILE_ROWS    rows of a tile, at most 32; a power of two
//   STAGE_BYTES  shared memory for source rows
//   BULK_COPY    1: use the bulk copy engine (compute capability 9.0 and later)
//   EVICT_FIRST  1: source pixels make room in the L2 for the network's input (with BULK_COPY)
//   BATCH        rows of a thread whose taps are read before the first is blended
//   BLOCKS       blocks that must fit on a multiprocessor: bounds the registers of a thread
//   HEIGHT, WIDTH, ROW_PITCH  of the network's input: rows, columns, and elements (NCHW) or pixels
//                from one row to the next. As constants they cost no address arithmetic.
//
// Reads are of whole aligned words, pieces of 16 bytes or lines of the L2: the buffer must begin at
// a line and be descriptors.SOURCE_MARGIN longer than the image.

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

#if OUTPUT == 0
typedef float out_t;
#elif OUTPUT == 1
typedef half_t out_t;
#elif OUTPUT == 2
typedef signed char out_t;
#else
typedef u8 out_t;
#endif

// Two forms of a blended pixel's channel, an integer 0..255. Encodings with full-resolution colour
// are blended in integers: it is the highest byte of a word. YUV is blended in halves: it is the
// lowest byte of the half 1024 + integer, whose other byte is 0x64.
enum Form { HIGH_BYTE, HALF };

const int WEIGHT_BITS = 12;  // of HIGH_BYTE; OpenCV's INTER_LINEAR has 11
const u32 ONE = 1u << WEIGHT_BITS;
const int PIXEL_BITS = 2 * WEIGHT_BITS;
const u32 HALF_1024 = 0x6400;

template <Form FORM>
__device__ __forceinline__ u32 make_pixel(u32 value) {
  return FORM == HALF ? HALF_1024 | value : value << PIXEL_BITS;
}

// A blended pixel's channel as an element of the network's input.
template <Form FORM>
__device__ __forceinline__ out_t finish(u32 pixel, float multiplier, float offset) {
  const u32 byte = FORM == HALF ? 0 : 3;  // where the integer lies
#if OUTPUT == 3
  return (u8)__byte_perm(pixel, 0u, 0x4440u | byte);
#elif OUTPUT == 1 && !NORMALISE
  half_t result;
  result.bits = (u16)(FORM == HALF ? pixel : __byte_perm(pixel, HALF_1024, 0x4450u | byte));
  return subtract(result, half_t{(u16)HALF_1024});
#else
  // 0x4b000000 | byte is the float 2^23 + byte: cheaper than a shift and a conversion.
  float value = __uint_as_float(__byte_perm(pixel, 0x4b000000u, 0x7440u | byte)) - 8388608.0f;
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

// The weights of both taps. Their sum is one, exactly.
struct Weights {
  u32 first, second;  // HIGH_BYTE: in 1 / ONE; HALF: two equal halves
};

template <Form FORM>
__device__ __forceinline__ Weights make_weights(float second) {
  Weights result;
  if (FORM == HALF) {
    // Multiples of 2^-11, which a half holds exactly, as it does one less them.
    const float rounded = (float)__float2int_rn(second * 2048.0f) * (1.0f / 2048.0f);
    result.first = 0x10001u * to_half(1.0f - rounded).bits;
    result.second = 0x10001u * to_half(rounded).bits;
  } else {
    result.second = (u32)__float2int_rn(second * (float)ONE);
    result.first = ONE - result.second;
  }
  return result;
}

// ITU-R BT.601, limited range, as kernels/reference/color.py, but in halves, for both horizontal
// taps at once: three times fewer instructions than in integers. 1 stands for WHITE (255 and what
// rounds to it), so that saturation to 0..1, which costs nothing, clips as the reference does.
// WHITE is chosen so that a half holds both it and the factor of luma almost exactly; with the
// rounding of each step a tap is off by less than 0.35.
constexpr double WHITE = 255.125;

constexpr u32 both_halves(double value) {  // of a normal number, rounded to nearest
  u32 sign = 0;
  if (value < 0) {
    sign = 0x8000;
    value = -value;
  }
  int exponent = 15;
  while (value >= 2) {
    value /= 2;
    ++exponent;
  }
  while (value < 1) {
    value *= 2;
    --exponent;
  }
  return 0x10001u * (sign | (((u32)exponent << 10) + (u32)((value - 1) * 1024 + 0.5)));
}

// A byte as the bits of a half is byte * 2^-24; times 2^15 it is byte / 512.
constexpr u32 BYTE_TO_HALF = both_halves(32768);
constexpr u32 MINUS_BLACK = both_halves(-16.0 / 512);
constexpr u32 MINUS_GREY = both_halves(-128.0 / 512);
constexpr u32 TO_BYTE = both_halves(WHITE);
constexpr u32 factor_of(double coefficient) { return both_halves(coefficient * 512 / WHITE); }
constexpr u32 YUV_Y = factor_of(1220542.0 / (1 << 20));
constexpr u32 YUV_U_TO_B = factor_of(2116026.0 / (1 << 20));
constexpr u32 YUV_U_TO_G = factor_of(-409993.0 / (1 << 20));
constexpr u32 YUV_V_TO_G = factor_of(-852492.0 / (1 << 20));
constexpr u32 YUV_V_TO_R = factor_of(1673527.0 / (1 << 20));

// Blue, green and red of two taps, from the bytes of their luma and chroma in halves.
__device__ __forceinline__ void yuv_to_bgr(u32 y, u32 u, u32 v, u32 bgr[3]) {
  const u32 luma = fma2_saturated(y, BYTE_TO_HALF, MINUS_BLACK);
  const u32 du = fma2(u, BYTE_TO_HALF, MINUS_GREY);
  const u32 dv = fma2(v, BYTE_TO_HALF, MINUS_GREY);
  const u32 grey = multiply2(luma, YUV_Y);
  bgr[0] = fma2_saturated(du, YUV_U_TO_B, grey);
  bgr[1] = fma2_saturated(dv, YUV_V_TO_G, fma2(du, YUV_U_TO_G, grey));
  bgr[2] = fma2_saturated(dv, YUV_V_TO_R, grey);
}

struct Normalisation {  // out = value * multiplier + offset, by the network's channel
  float multiplier[3];
  float offset[3];
};

#if LAYOUT == 0
const int ROW_ELEMENTS = ROW_PITCH;
const u32 PLANE = HEIGHT * ROW_PITCH;
const int IMAGE_ROWS = 3 * HEIGHT;  // of an image's planes, one below the other
#else
const int CHANNELS = LAYOUT == 1 ? 4 : LAYOUT == 2 ? 16 : 32;
const int ROW_ELEMENTS = ROW_PITCH * CHANNELS;
const int IMAGE_ROWS = HEIGHT;
#endif

// The network's input, seen by one thread.
struct Output {
#if LAYOUT == 0
  // The thread's column in the tile's first row, in the planes of a pixel's three channels.
  out_t* __restrict__ at[3];
#else
  out_t* __restrict__ at;  // the thread's pixel in the tile's first row
  bool swap;               // channels 0 and 2 change places
#endif
};

// Stores one pixel. `normalisation` is in the order of `pixel`.
template <Form FORM>
__device__ __forceinline__ void store(const Output& output, const Normalisation& normalisation,
                                      int row, const u32 pixel[3]) {
  out_t value[3];
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    value[c] = finish<FORM>(pixel[c], normalisation.multiplier[c], normalisation.offset[c]);
  }
#if LAYOUT == 0
#pragma unroll
  for (int c = 0; c < 3; ++c) output.at[c][row * ROW_ELEMENTS] = value[c];
#else
  // Channels beyond the third are zero: the network's weights for them are, too.
  const int group = 16 / (int)sizeof(out_t) < CHANNELS ? 16 / (int)sizeof(out_t) : CHANNELS;
  struct alignas(group * sizeof(out_t)) Pack {
    out_t value[group];
  };
  const Pack zero = {};
  Pack pack = {};
  pack.value[0] = output.swap ? value[2] : value[0];
  pack.value[1] = value[1];
  pack.value[2] = output.swap ? value[0] : value[2];
  Pack* to = (Pack*)(output.at + (long long)row * ROW_ELEMENTS);
  to[0] = pack;
#pragma unroll
  for (int next = 1; next < CHANNELS / group; ++next) to[next] = zero;
#endif
}

// What a row of a tile needs.
struct alignas(16) Row {
  u32 above, below;  // staged: bytes from the stage's start to the tile's first group; else rows
  u32 weight_above, weight_below;  // as in Weights
  u32 chroma_above, chroma_below;  // nv12, likewise
  u32 reserved[2];
};

// How one encoding lies in memory.
template <int ENCODING>
struct Traits {
  static const bool IS_422 = ENCODING == UYVY || ENCODING == YUY2;
  static const Form FORM = IS_422 || ENCODING == NV12 ? HALF : HIGH_BYTE;
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
  u32 weights;   // HIGH_BYTE: of both horizontal taps, 16 bits each
  Weights half;  // HALF
  u32 offset;    // bytes from a row's start to the first tap's group
  u32 chroma_a;  // nv12: bytes from a chroma row's start to both taps' chroma
  u32 chroma_b;
  u32 y, u, v;   // uyvy and yuy2: which bytes of a group and the next are both taps' (PRMT)
};

template <int ENCODING>
__device__ __forceinline__ Column make_column(const Image& image, int column) {
  const Sample x = sample(min(column, image.resized_width - 1), image.ratio_x, image.roi_x,
                          image.roi_width);
  const Weights weights = make_weights<Traits<ENCODING>::FORM>(x.weight);
  Column result;
  result.odd = x.tap & 1;
  result.weights = weights.first | weights.second << 16;
  result.half = weights;
  result.offset = Traits<ENCODING>::offset(x.tap);
  result.chroma_a = x.tap & ~1u;
  result.chroma_b = (x.tap + 1) & ~1u;
  // UYVY: U Y V Y'; YUY2: Y U Y' V. Even column: Y and Y'. Odd: Y', then Y of the next group.
  const u32 y = ENCODING == UYVY ? 1 : 0;
  const u32 u = ENCODING == UYVY ? 0 : 1;
  const u32 next = 4 * result.odd;
  result.y = (y + 2 * result.odd) | (y + 2 + 2 * result.odd) << 8;
  result.u = u | (u + next) << 8;
  result.v = (u + 2) | (u + 2 + next) << 8;
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

// Blends the two taps of one row: weighted sums, channels in the order of the encoding's bytes.
template <int ENCODING>
__device__ __forceinline__ void blend_columns(const Taps& taps, const Column& column, u32 sum[3]) {
  if (ENCODING == MONO8) {
    sum[0] = sum[1] = sum[2] =
        taps.word[0] * (column.weights & 0xffffu) + taps.word[1] * (column.weights >> 16);
    return;
  }
  const u32 two = __byte_perm(taps.word[0], taps.word[1], ENCODING == BGR8 ? 0x4130 : 0x5140);
  const u32 third = __byte_perm(taps.word[0], taps.word[1], ENCODING == BGR8 ? 0x0052 : 0x0062);
  sum[0] = __dp2a_lo(column.weights, two, 0u);
  sum[1] = __dp2a_hi(column.weights, two, 0u);
  sum[2] = __dp2a_lo(column.weights, third, 0u);
}

// Blue, green and red of the two taps of one row, in halves. `chroma`: nv12, of both taps.
template <int ENCODING>
__device__ __forceinline__ void convert(const Taps& taps, const Column& column,
                                        const u32 chroma[2], u32 bgr[3]) {
  if (ENCODING == NV12) {
    yuv_to_bgr(taps.word[0] | taps.word[1] << 16, __byte_perm(chroma[0], chroma[1], 0x6420),
               __byte_perm(chroma[0], chroma[1], 0x6521), bgr);
  } else {
    const u32 low = 0x00ff00ffu;
    yuv_to_bgr(__byte_perm(taps.word[0], taps.word[1], column.y) & low,
               __byte_perm(taps.word[0], taps.word[1], column.u) & low,
               __byte_perm(taps.word[0], taps.word[1], column.v) & low, bgr);
  }
}

// Blends the taps of two rows to one pixel, of the encoding's Form.
template <int ENCODING>
__device__ __forceinline__ void blend(const Taps taps[2], const u32 chroma[2][2],
                                      const Column& column, const Row& row, u32 pixel[3]) {
  u32 above[3], below[3];
  if (Traits<ENCODING>::FORM == HALF) {
    convert<ENCODING>(taps[0], column, chroma[0], above);
    convert<ENCODING>(taps[1], column, chroma[1], below);
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      const u32 both = fma2(below[c], row.weight_below, multiply2(above[c], row.weight_above));
      const half_t sum = fma(high_half(both), low_half(column.half.second),
                             multiply(low_half(both), low_half(column.half.first)));
      // Halves from 1024 to 2048 are integers: this rounds.
      pixel[c] = fma(sum, low_half(TO_BYTE), half_t{(u16)HALF_1024}).bits;
    }
  } else {
    blend_columns<ENCODING>(taps[0], column, above);
    blend_columns<ENCODING>(taps[1], column, below);
#pragma unroll
    for (int c = 0; c < 3; ++c) {  // rounded half up
      pixel[c] = above[c] * row.weight_above +
                 (below[c] * row.weight_below + (1u << (PIXEL_BITS - 1)));
    }
  }
}

// ---- bringing source rows into shared memory

#ifndef YOLOX_TRT_HOST
__device__ __forceinline__ u32 shared_address(const void* pointer) {
  return (u32)__cvta_generic_to_shared(pointer);
}
#if BULK_COPY
// A barrier's phase ends with the last of `arrivals` and of the bytes that were announced.
__device__ __forceinline__ void init_barrier(u64* barrier, u32 arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals));
}
__device__ __forceinline__ void publish_barrier() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void arrive_and_expect(u64* barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                   shared_address(barrier)),
               "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void wait_for_phase(u64* barrier, u32 parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ void bulk_copy(u8* to, u64 from, u32 bytes, u64* barrier) {
#if EVICT_FIRST
  // Source pixels are read once: they should not push the network's input out of the L2 before the
  // network reads it.
  u64 policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1], %2, [%3], %4;" ::"r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier)), "l"(policy)
      : "memory");
#else
  // Without a hint: evict_normal, the default's own name, given as a hint costs 1 to 4 %.
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
#endif
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

// Copies begin and end at multiples of this. The bulk copy engine is faster with whole lines of the
// L2, though they are a sixth more bytes.
const u32 PIECE = BULK_COPY ? 128 : 16;

// The part of a plane that a tile samples: `slots` rows of `bytes` bytes each.
struct Region {
  u64 data;    // address of row 0's byte that the tile's first column needs
  u32 step;    // bytes from row to row
  u32 bytes;   // multiple of PIECE
  u32 begin;   // of its first slot in the stage
  u32 slots;
  u32 first;    // dense: row of slot 0
  bool chroma;  // it is the chroma plane
  bool dense;   // every row from `first` on; else two slots for each row of the tile
};

// The plane's row that a slot holds.
__device__ __forceinline__ u32 region_row(const Region& region, const Image& image, int first_row,
                                          u32 slot) {
  if (region.dense) return region.first + slot;
  const RowTaps taps = taps_of_row(image, first_row + (int)(slot >> 1));
  if (region.chroma) return slot & 1 ? taps.chroma_below : taps.chroma_above;
  return slot & 1 ? taps.below : taps.above;
}

// Where the tile's first group lies in the stage, for a row that a slot holds.
__device__ __forceinline__ u32 staged_at(const Region& region, u32 row, u32 slot) {
  const u32 lead = (u32)(region.data + (u64)row * region.step) & (PIECE - 1);
  return region.begin + slot * region.bytes + lead;
}

// Bytes that are read of each row from the first of a tile's groups to the last.
__device__ __forceinline__ u32 bytes_of(u32 first, u32 last, u32 window) {
  return (last - first + window + 2 * (PIECE - 1)) & ~(PIECE - 1);  // wherever the row begins
}

// A read of a word, from a group's last bytes on, may leave a row by up to eight bytes.
__device__ __forceinline__ bool fits(u32 bytes) { return bytes + 16 <= STAGE_BYTES; }

// ---- tiles

const int TILE_COLUMNS = 32 * WARPS;

// A part of a tile of the network's input.
struct Place {
  int first_column;
  int first_row;
  int last_row;  // behind its last row
  int end;       // behind its last row that carries the image; first_row: none does
};

__device__ __forceinline__ Place place_of(const Image& image, int row, int rows) {
  Place place;
  place.first_column = blockIdx.x * TILE_COLUMNS;
  place.first_row = min((int)blockIdx.y * TILE_ROWS + row, HEIGHT);
  place.last_row = min(place.first_row + rows, HEIGHT);
  place.end = max(place.first_row, min(place.last_row, image.resized_height));
  if (place.first_column >= image.resized_width) place.end = place.first_row;
  return place;
}

// What a tile reads.
template <int ENCODING>
struct Tile {
  Region luma;
  Region chroma;
  u32 first_offset;   // of the tile's first group in a row
  u32 first_chroma;
  bool fits;    // in the stage
  bool staged;
};

// Decides how a tile is read.
template <int ENCODING>
__device__ __forceinline__ Tile<ENCODING> make_tile(const Image& image, const Place& place) {
  Tile<ENCODING> tile;
  const int last_column = min(place.first_column + TILE_COLUMNS, image.resized_width) - 1;
  const Column left = make_column<ENCODING>(image, place.first_column);
  const Column right = make_column<ENCODING>(image, last_column);
  const RowTaps top = taps_of_row(image, place.first_row);
  const RowTaps bottom = taps_of_row(image, place.end - 1);
  const u32 dense_rows = bottom.below - top.above + 1;
  const u32 listed_rows = 2 * (u32)(place.end - place.first_row);
  const bool dense = dense_rows <= listed_rows;

  tile.first_offset = left.offset;
  tile.luma.data = image.data + left.offset;
  tile.luma.step = (u32)image.step;
  tile.luma.bytes = bytes_of(left.offset, right.offset, Traits<ENCODING>::WINDOW);
  tile.luma.begin = 0;
  tile.luma.slots = dense ? dense_rows : listed_rows;
  tile.luma.first = top.above;
  tile.luma.chroma = false;
  tile.luma.dense = dense;
  u32 total = tile.luma.slots * tile.luma.bytes;

  tile.first_chroma = left.chroma_a;
  tile.chroma = tile.luma;
  tile.chroma.slots = 0;
  if (ENCODING == NV12) {
    tile.chroma.data = image.chroma + left.chroma_a;
    tile.chroma.bytes = bytes_of(left.chroma_a, right.chroma_b, 2);
    tile.chroma.begin = total;
    tile.chroma.first = top.chroma_above;
    tile.chroma.slots = dense ? bottom.chroma_below - top.chroma_above + 1 : listed_rows;
    tile.chroma.chroma = true;
    total += tile.chroma.slots * tile.chroma.bytes;
  }
  tile.fits = fits(total);
  tile.staged = tile.fits && ((image.data | image.chroma | (u64)image.step) & 3) == 0;
  return tile;
}

template <int ENCODING>
__device__ __forceinline__ Row make_row(const Image& image, const Tile<ENCODING>& tile,
                                        int first_row, int index) {
  const RowTaps taps = taps_of_row(image, first_row + index);
  const Weights weights = make_weights<Traits<ENCODING>::FORM>(taps.weight);
  Row row;
  row.weight_above = weights.first;
  row.weight_below = weights.second;
  row.above = taps.above;
  row.below = taps.below;
  row.chroma_above = taps.chroma_above;
  row.chroma_below = taps.chroma_below;
  if (tile.staged) {
    const u32 slot = 2 * index;
    const Region& luma = tile.luma;
    const Region& chroma = tile.chroma;
    row.chroma_above = staged_at(chroma, row.chroma_above,
                                 chroma.dense ? row.chroma_above - chroma.first : slot);
    row.chroma_below = staged_at(chroma, row.chroma_below,
                                 chroma.dense ? row.chroma_below - chroma.first : slot + 1);
    row.above = staged_at(luma, row.above, luma.dense ? row.above - luma.first : slot);
    row.below = staged_at(luma, row.below, luma.dense ? row.below - luma.first : slot + 1);
  }
  return row;
}

// A block's shared memory.
struct alignas(128) Shared {
  u8 stage[STAGE_BYTES];
  Row rows[TILE_ROWS];
#if BULK_COPY
  u64 barrier;  // the copies have arrived, and the rows are described
#endif
};

// Describes the rows of a part of a tile and starts the copies of what they sample.
template <int ENCODING>
__device__ __forceinline__ void start(const Image& image, const Tile<ENCODING>& tile,
                                      const Place& place, Shared& shared) {
  const u32 warp = threadIdx.x / 32;
  const u32 lane = threadIdx.x % 32;
#pragma unroll
  for (int plane = 0; plane < (ENCODING == NV12 ? 2 : 1); ++plane) {
    const Region& region = plane ? tile.chroma : tile.luma;
    if (!tile.staged) break;
#if BULK_COPY
    // Each warp starts its share: a copy takes it some tens of cycles.
    for (u32 slot = warp + lane * WARPS; slot < region.slots; slot += 32 * WARPS) {
      const u64 from =
          region.data + (u64)region_row(region, image, place.first_row, slot) * region.step;
      bulk_copy(shared.stage + region.begin + slot * region.bytes, from & ~(u64)(PIECE - 1),
                region.bytes, &shared.barrier);
    }
#else
    for (u32 slot = warp; slot < region.slots; slot += WARPS) {
      const u64 from =
          region.data + (u64)region_row(region, image, place.first_row, slot) * region.step;
      u8* to = shared.stage + region.begin + slot * region.bytes;
      for (u32 byte = lane * 16; byte < region.bytes; byte += 32 * 16) {
        copy16(to + byte, (const u8*)(from & ~(u64)(PIECE - 1)) + byte);
      }
    }
#endif
  }
  if (threadIdx.x < TILE_ROWS) {
    shared.rows[threadIdx.x] =
        make_row<ENCODING>(image, tile, place.first_row, (int)threadIdx.x);
  }
#if BULK_COPY
  if (warp == 0) {
    __syncwarp();
    const u32 bytes = tile.luma.slots * tile.luma.bytes + tile.chroma.slots * tile.chroma.bytes;
    if (lane == 0) arrive_and_expect(&shared.barrier, tile.staged ? bytes : 0);
  }
#endif
}

// What a thread's column is: image, padding, or behind the row's end.
enum Kind { IMAGE, PADDING, OUTSIDE };

// What a thread makes of a tile.
template <int ENCODING>
struct Work {
  Column column;
  Output output;
  Normalisation normalisation;
  Kind kind;
  int count;  // rows that carry the image
};

// Makes the rows that carry the image from those in shared memory. INTERIOR: they are a multiple of
// BATCH, and all columns of the block carry the image.
template <int ENCODING, bool INTERIOR>
__device__ __forceinline__ void make_staged(const Work<ENCODING>& work,
                                            const Tile<ENCODING>& tile, u32 pad,
                                            const Shared& shared) {
  const Column& column = work.column;
  // Steps are multiples of four: a group's place in its word is the same in every row.
  const u32 lead = ENCODING == BGR8 ? column.offset & 3 : 0;
  // A row's own place in the stage makes up for `lead`.
  const u8* at = shared.stage + ((int)(column.offset - tile.first_offset) - (int)lead);
  const u8* chroma_a = shared.stage + (column.chroma_a - tile.first_chroma);
  const u8* chroma_b = shared.stage + (column.chroma_b - tile.first_chroma);
#pragma unroll
  for (int first = 0; first < TILE_ROWS; first += BATCH) {
    if (first >= work.count) break;
    Row rows[BATCH];
    Taps taps[BATCH][2];
    u32 chroma[BATCH][2][2];
#pragma unroll
    for (int r = 0; r < BATCH; ++r) {
      rows[r] = shared.rows[INTERIOR ? first + r : min(first + r, work.count - 1)];
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        taps[r][t] =
            read_taps<ENCODING>(at + (t ? rows[r].below : rows[r].above), lead, column.odd);
        if (ENCODING == NV12) {
          const u32 offset = t ? rows[r].chroma_below : rows[r].chroma_above;
          chroma[r][t][0] = *(const u16*)(chroma_a + offset);
          chroma[r][t][1] = *(const u16*)(chroma_b + offset);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < BATCH; ++r) {
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        if (ENCODING == BGR8) align_taps(taps[r][t], lead);
      }
      u32 pixel[3];
      blend<ENCODING>(taps[r], chroma[r], column, rows[r], pixel);
      if (INTERIOR) {
        store<Traits<ENCODING>::FORM>(work.output, work.normalisation, first + r, pixel);
      } else {
        if (work.kind == PADDING) pixel[0] = pixel[1] = pixel[2] = pad;
        if (work.kind != OUTSIDE && first + r < work.count) {
          store<Traits<ENCODING>::FORM>(work.output, work.normalisation, first + r, pixel);
        }
      }
    }
  }
}

// Makes the rows that carry the image straight from it.
template <int ENCODING>
__device__ __forceinline__ void make_direct(const Image& image, const Work<ENCODING>& work,
                                            u32 pad, const Shared& shared) {
  const Column& column = work.column;
#pragma unroll 2
  for (int r = 0; r < work.count; ++r) {
    const Row row = shared.rows[r];
    Taps taps[2];
    u32 chroma[2][2];
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      const u64 from =
          image.data + (u64)(t ? row.below : row.above) * (u32)image.step + column.offset;
      const u32 lead = Traits<ENCODING>::WINDOW == 2 ? 0 : (u32)from & 3;
      taps[t] = read_taps<ENCODING>((const u8*)(from - lead), lead, column.odd);
      if (Traits<ENCODING>::WINDOW != 2) align_taps(taps[t], lead);
      if (ENCODING == NV12) {
        const u8* plane = (const u8*)image.chroma +
                          (u64)(t ? row.chroma_below : row.chroma_above) * (u32)image.step;
        chroma[t][0] = read_chroma(plane + column.chroma_a);
        chroma[t][1] = read_chroma(plane + column.chroma_b);
      }
    }
    u32 pixel[3];
    blend<ENCODING>(taps, chroma, column, row, pixel);
    if (work.kind == PADDING) pixel[0] = pixel[1] = pixel[2] = pad;
    if (work.kind != OUTSIDE) store<Traits<ENCODING>::FORM>(work.output, work.normalisation, r, pixel);
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

// Makes a block's tile. `at`: where `image` was read.
template <int ENCODING>
__device__ __forceinline__ void make(const Image* at, Image image, out_t* __restrict__ input,
                                     const Normalisation& normalisation, int pad_value,
                                     Shared& shared) {
  const Form FORM = Traits<ENCODING>::FORM;
  const u32 pad = make_pixel<FORM>(pad_value);
  const u32 padding[3] = {pad, pad, pad};
  const int column = blockIdx.x * TILE_COLUMNS + threadIdx.x;
  int rows = TILE_ROWS;  // of a part
  u32 phase = 0;
  for (int row = 0;;) {
    Place place = place_of(image, row, rows);
    const bool carries = place.end > place.first_row;
    Tile<ENCODING> tile;
    if (carries) {
      tile = make_tile<ENCODING>(image, place);
      while (!tile.fits && rows > 1) {
        rows /= 2;
        place = place_of(image, row, rows);
        tile = make_tile<ENCODING>(image, place);
      }
      start<ENCODING>(image, tile, place, shared);
    }
    Work<ENCODING> work;
    work.column = make_column<ENCODING>(image, column);
    work.normalisation = normalisation;
    work.kind = column < image.resized_width ? IMAGE : column < WIDTH ? PADDING : OUTSIDE;
    work.count = place.end - place.first_row;
    const bool swap = image.swap != 0;
    const u32 first = (blockIdx.z * IMAGE_ROWS + place.first_row) * ROW_PITCH + column;
#if LAYOUT == 0
    work.output.at[0] = input + (first + (swap ? 2 * PLANE : 0));
    work.output.at[1] = input + (first + PLANE);
    work.output.at[2] = input + (first + (swap ? 0 : 2 * PLANE));
#else
    work.output.at = input + (u64)first * CHANNELS;
    work.output.swap = swap;
#endif
    if (carries) {
#if !BULK_COPY
      wait_for_copies();
#endif
      __syncthreads();  // the rows are described
#if BULK_COPY
      wait_for_phase(&shared.barrier, phase);
      phase ^= 1;
#endif
      if (!tile.staged) {
        make_direct<ENCODING>(image, work, pad, shared);
      } else if (work.count % BATCH == 0 &&
                 place.first_column + TILE_COLUMNS <= image.resized_width) {
        make_staged<ENCODING, true>(work, tile, pad, shared);
      } else {
        make_staged<ENCODING, false>(work, tile, pad, shared);
      }
    }
    if (work.kind != OUTSIDE) {
      for (int r = work.count; r < place.last_row - place.first_row; ++r) {
        store<FORM>(work.output, normalisation, r, padding);
      }
    }
    row += rows;
    if (row >= TILE_ROWS) return;
    __syncthreads();         // before the stage is written again
    image = read_image(at);  // rather than to hold it in registers all the time
  }
}

// Grid: (columns / (32 * WARPS), rows / TILE_ROWS, batch); block: 32 * WARPS.
extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS)
    preprocess(const Image* __restrict__ images, out_t* __restrict__ input, float multiplier0,
               float multiplier1, float multiplier2, float offset0, float offset1, float offset2,
               int pad) {
  __shared__ Shared shared;
  const Image* const at = images + blockIdx.z;
  const Image image = read_image(at);
#if BULK_COPY
  if (threadIdx.x == 0) {
    init_barrier(&shared.barrier, 1);
    publish_barrier();
  }
  __syncthreads();
#endif
  const bool swap = image.swap != 0;
  Normalisation normalisation;
  normalisation.multiplier[0] = swap ? multiplier2 : multiplier0;
  normalisation.multiplier[1] = multiplier1;
  normalisation.multiplier[2] = swap ? multiplier0 : multiplier2;
  normalisation.offset[0] = swap ? offset2 : offset0;
  normalisation.offset[1] = offset1;
  normalisation.offset[2] = swap ? offset0 : offset2;
  switch (image.encoding) {
    case BGR8:
    case RGB8:
      make<BGR8>(at, image, input, normalisation, pad, shared);
      break;
    case BGRA8:
    case RGBA8:
      make<BGRA8>(at, image, input, normalisation, pad, shared);
      break;
    case MONO8:
      make<MONO8>(at, image, input, normalisation, pad, shared);
      break;
    case NV12:
      make<NV12>(at, image, input, normalisation, pad, shared);
      break;
    case UYVY:
      make<UYVY>(at, image, input, normalisation, pad, shared);
      break;
    default:
      make<YUY2>(at, image, input, normalisation, pad, shared);
      break;
  }
}
