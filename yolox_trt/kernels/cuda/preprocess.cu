// SPDX-FileCopyrightText: The yolox_trt authors
// SPDX-License-Identifier: Apache-2.0
//
// Resize + letterbox + colour conversion + normalisation + layout, in one kernel: each source
// byte is read once (neighbouring taps come from the L1), each destination byte is written once.
//
// The geometry is core.letterbox.Letterbox: half-pixel centres, each axis with its own ratio,
// edges clamped to the Roi. Colour conversion happens before interpolation, as in the reference
// (kernels/reference), because clamping to 0..255 does not commute with it.
//
// Macros, set by kernels/cuda/preprocess.py:
//   OUTPUT     element type: 0 float, 1 half, 2 int8, 3 uint8
//   LAYOUT     0 NCHW, 1 HWC4, 2 CHW16, 3 CHW32
//   NORMALISE  1: values are scaled and shifted; 0: they stay 0..255
//   PIXELS     pixels of a thread in a row, 32 columns apart
//   ROWS       neighbouring rows of a thread: 1, 2, 4, 8, 16 or 32
//   BLOCK_Y    warps of a block, one above the other
//   BLOCKS     blocks that must fit on a multiprocessor (bounds the registers of a thread)
//
// A warp reads 32 neighbouring pixels: their taps lie in two or three cache lines of a row, and
// each of its stores fills whole sectors. All loads of a thread are issued before the first use.
//
// Every source read lies in an aligned 32-bit word. A read may reach past the image's last byte;
// the buffer must be descriptors.SOURCE_MARGIN longer than the image.

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

// The bytes of both horizontal taps in one row.
struct Taps {
  u32 word[3];
};

// Reads one encoding. ALIGNED: addresses and step are multiples of four, so that what a column
// needs from its words is the same in every row.
template <int ENCODING, bool ALIGNED>
struct Reader {
  // Bytes from one pixel to the next in the plane that carries luma or colour.
  static const u32 PITCH = ENCODING == BGR8    ? 3
                           : ENCODING == BGRA8 ? 4
                           : ENCODING == UYVY  ? 2
                           : ENCODING == YUY2  ? 2
                                               : 1;
  const u8* __restrict__ data;
  u32 step;

  __device__ __forceinline__ Reader(u64 address, int row_step)
      : data((const u8*)address), step((u32)row_step) {}

  // First byte of the group that column x starts in.
  __device__ __forceinline__ u32 offset(u32 x) const {
    return ENCODING == UYVY || ENCODING == YUY2 ? PITCH * (x & ~1u) : PITCH * x;
  }

  // Words from `offset` on, which hold `count` bytes that matter, 8 at most.
  __device__ __forceinline__ Taps words(u32 byte_offset, u32 count) const {
    Taps taps;
    const u64 address = (u64)data + byte_offset;
    const u32 lead = ALIGNED ? (ENCODING == BGR8 ? byte_offset & 3 : 0) : (u32)address & 3;
    const u32* __restrict__ at = (const u32*)(address - lead);
    taps.word[0] = __ldg(at);
    taps.word[1] = taps.word[2] = 0;
    if (lead + count > 4) taps.word[1] = __ldg(at + 1);
    if (lead + count > 8) taps.word[2] = __ldg(at + 2);
    return taps;
  }

  // The words, shifted so that the group's bytes 0 to 3 and 4 to 7 are word[0] and word[1].
  __device__ __forceinline__ void align(Taps& taps, u32 byte_offset) const {
    if (ALIGNED && ENCODING != BGR8) return;
    const u32 lead = ALIGNED ? byte_offset & 3 : ((u32)(u64)data + byte_offset) & 3;
    taps.word[0] = __funnelshift_r(taps.word[0], taps.word[1], lead * 8);
    taps.word[1] = __funnelshift_r(taps.word[1], taps.word[2], lead * 8);
  }
};

// nv12: luma, and the chroma of both columns. Chroma samples lie at even addresses if ALIGNED.
template <bool ALIGNED>
__device__ __forceinline__ u32 chroma_pair(const u8* __restrict__ at) {
  if (ALIGNED) return __ldg((const u16*)at);
  return __ldg(at) | __ldg(at + 1) << 8;
}

// Blends ROWS x PIXELS pixels. The channels come in the order of the encoding's bytes (YUV: blue,
// green, red); an integer 0..255 is in the highest byte of each value, rounded half up.
template <int ENCODING, bool ALIGNED>
__device__ __forceinline__ void resample(const Image& image, int column, int row,
                                         u32 value[ROWS][PIXELS][3]) {
  const Reader<ENCODING, ALIGNED> reader(image.data, image.step);
  const bool is_rgb = ENCODING == BGR8 || ENCODING == BGRA8;
  const bool is_422 = ENCODING == UYVY || ENCODING == YUY2;

  u32 offset[PIXELS];
  u32 odd[PIXELS];
  u32 weights[PIXELS];  // of both horizontal taps
  u32 chroma_a[PIXELS];
  u32 chroma_b[PIXELS];
#pragma unroll
  for (int p = 0; p < PIXELS; ++p) {
    const Sample x = sample(min(column + 32 * p, image.resized_width - 1), image.ratio_x,
                            image.roi_x, image.roi_width);
    offset[p] = reader.offset(x.tap);
    odd[p] = x.tap & 1;
    weights[p] = (ONE - x.weight) | x.weight << 16;
    chroma_a[p] = x.tap & ~1u;
    chroma_b[p] = (x.tap + 1) & ~1u;
  }
  // Rows are the same for the whole warp: each thread finds one, all get them.
  const Sample own = sample(min(row + (int)(threadIdx.x % ROWS), image.resized_height - 1),
                            image.ratio_y, image.roi_y, image.roi_height);
  const u32 packed = own.tap << (WEIGHT_BITS + 1) | own.weight;

  u32 weight_y[ROWS];
  bool one_chroma_row[ROWS];
  u32 row_offset[ROWS][2];
  Taps taps[ROWS][PIXELS][2];
  u32 chroma[ROWS][PIXELS][2][2];
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    const u32 y = ROWS == 1 ? packed : __shfl_sync(0xffffffffu, packed, r);
    weight_y[r] = y & (2 * ONE - 1);
    const u32 above = y >> (WEIGHT_BITS + 1);
    const u32 below = above + (image.roi_height > 1 ? 1 : 0);
    one_chroma_row[r] = above >> 1 == below >> 1;
    row_offset[r][0] = above * reader.step;
    row_offset[r][1] = below * reader.step;
#pragma unroll
    for (int p = 0; p < PIXELS; ++p) {
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        Taps& tap = taps[r][p][t];
        const u32 at = row_offset[r][t] + offset[p];
        if (is_rgb) {
          tap = reader.words(at, ENCODING == BGR8 ? 6 : 8);
        } else if (is_422) {
          tap = reader.words(at, 4 + 4 * odd[p]);
        } else {
          tap.word[0] = __ldg(reader.data + at);
          tap.word[1] = __ldg(reader.data + at + 1);
        }
      }
      if (ENCODING == NV12) {
        const u8* plane = (const u8*)image.chroma + (above >> 1) * reader.step;
        chroma[r][p][0][0] = chroma_pair<ALIGNED>(plane + chroma_a[p]);
        chroma[r][p][0][1] = chroma_pair<ALIGNED>(plane + chroma_b[p]);
        if (!one_chroma_row[r]) {
          plane += reader.step;
          chroma[r][p][1][0] = chroma_pair<ALIGNED>(plane + chroma_a[p]);
          chroma[r][p][1][1] = chroma_pair<ALIGNED>(plane + chroma_b[p]);
        }
      }
    }
  }

#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
#pragma unroll
    for (int p = 0; p < PIXELS; ++p) {
      u32 sum[2][3];  // weighted over the row's two taps
      Chroma a;
      Chroma b;
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        Taps& tap = taps[r][p][t];
        if (is_rgb || is_422) reader.align(tap, row_offset[r][t] + offset[p]);
        if (is_rgb) {
          const u32 two = __byte_perm(tap.word[0], tap.word[1], ENCODING == BGR8 ? 0x4130 : 0x5140);
          const u32 third =
              __byte_perm(tap.word[0], tap.word[1], ENCODING == BGR8 ? 0x0052 : 0x0062);
          sum[t][0] = __dp2a_lo(weights[p], two, 0u);
          sum[t][1] = __dp2a_hi(weights[p], two, 0u);
          sum[t][2] = __dp2a_lo(weights[p], third, 0u);
        } else if (ENCODING == MONO8) {
          const u32 grey = tap.word[0] * (weights[p] & 0xffffu) + tap.word[1] * (weights[p] >> 16);
          sum[t][0] = sum[t][1] = sum[t][2] = grey;
        } else if (ENCODING == NV12) {
          if (t == 0 || !one_chroma_row[r]) {  // the same for the whole warp
            a = Chroma(byte_of(chroma[r][p][t][0], 0), byte_of(chroma[r][p][t][0], 1));
            b = Chroma(byte_of(chroma[r][p][t][1], 0), byte_of(chroma[r][p][t][1], 1));
          }
          blend_yuv(tap.word[0], tap.word[1], a, b, weights[p], sum[t]);
        } else {
          // UYVY: U Y V Y'; YUY2: Y U Y' V. Odd column: Y', then Y of the next group.
          const u32 luma = ENCODING == UYVY ? 1 : 0;
          const u32 u = ENCODING == UYVY ? 0 : 1;
          const u32 next = odd[p] ? tap.word[1] : tap.word[0];
          a = Chroma(byte_of(tap.word[0], u), byte_of(tap.word[0], u + 2));
          b = Chroma(byte_of(next, u), byte_of(next, u + 2));
          blend_yuv(byte_of(tap.word[0], luma + 2 * odd[p]), byte_of(next, luma + 2 - 2 * odd[p]),
                    a, b, weights[p], sum[t]);
        }
      }
#pragma unroll
      for (int c = 0; c < 3; ++c) {
        value[r][p][c] = sum[0][c] * (ONE - weight_y[r]) +
                         (sum[1][c] * weight_y[r] + (1u << (PIXEL_BITS - 1)));
      }
    }
  }
}

template <int ENCODING>
__device__ __forceinline__ void resample(const Image& image, int column, int row,
                                         u32 value[ROWS][PIXELS][3]) {
  if ((image.data | image.chroma | (u64)image.step) & 3) {
    resample<ENCODING, false>(image, column, row, value);
  } else {
    resample<ENCODING, true>(image, column, row, value);
  }
}

struct Normalisation {  // out = value * multiplier + offset, by the network's channel
  float multiplier[3];
  float offset[3];
};

// Stores what a thread made. INSIDE: no pixel of it is padding.
template <bool INSIDE>
__device__ __forceinline__ void store(const Image& image, const Normalisation& normalisation,
                                      u32 pad, const u32 value[ROWS][PIXELS][3], int column,
                                      int row, int height, int width, int row_pitch,
                                      out_t* __restrict__ output) {
#if LAYOUT == 0
  // Channels change places by changing planes.
  const u64 plane = (u64)height * row_pitch;
  out_t* __restrict__ to[3];
  float multiplier[3];
  float offset[3];
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    const int channel = image.swap ? 2 - c : c;
    to[c] = output + (blockIdx.z * 3 + channel) * plane + (u64)row * row_pitch + column;
    multiplier[c] = image.swap ? normalisation.multiplier[2 - c] : normalisation.multiplier[c];
    offset[c] = image.swap ? normalisation.offset[2 - c] : normalisation.offset[c];
  }
#else
  // Channels beyond the third are zero: the network's weights for them are, too.
  const int channels = LAYOUT == 1 ? 4 : LAYOUT == 2 ? 16 : 32;
  const int group = 16 / (int)sizeof(out_t) < channels ? 16 / (int)sizeof(out_t) : channels;
  struct alignas(group * sizeof(out_t)) Pack {
    out_t value[group];
  };
#endif
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    if (!INSIDE && row + r >= height) return;
#pragma unroll
    for (int p = 0; p < PIXELS; ++p) {
      if (!INSIDE && column + 32 * p >= width) break;
      const bool padding =
          !INSIDE && (column + 32 * p >= image.resized_width || row + r >= image.resized_height);
#if LAYOUT == 0
#pragma unroll
      for (int c = 0; c < 3; ++c) {
        to[c][r * row_pitch + 32 * p] =
            finish(padding ? pad : value[r][p][c], multiplier[c], offset[c]);
      }
#else
      out_t pixel[3];
#pragma unroll
      for (int c = 0; c < 3; ++c) {
        const u32 source = image.swap ? value[r][p][2 - c] : value[r][p][c];
        pixel[c] = finish(padding ? pad : source, normalisation.multiplier[c],
                          normalisation.offset[c]);
      }
      const u64 index =
          (((u64)blockIdx.z * height + row + r) * row_pitch + column + 32 * p) * channels;
#pragma unroll
      for (int first = 0; first < channels; first += group) {
        Pack pack = {};
        if (first == 0) {
          pack.value[0] = pixel[0];
          pack.value[1] = pixel[1];
          pack.value[2] = pixel[2];
        }
        *(Pack*)(output + index + first) = pack;
      }
#endif
    }
  }
}

// Grid: (columns / (32 * PIXELS), rows / (BLOCK_Y * ROWS), batch); block: (32, BLOCK_Y).
// row_pitch: elements from one output row to the next; pixels if LAYOUT is not NCHW.
extern "C" __global__ void __launch_bounds__(32 * BLOCK_Y, BLOCKS)
    preprocess(const Image* __restrict__ images, out_t* __restrict__ output, int height, int width,
               int row_pitch, float multiplier0, float multiplier1, float multiplier2,
               float offset0, float offset1, float offset2, int pad) {
  const int first_column = blockIdx.x * 32 * PIXELS;
  const int row = (blockIdx.y * BLOCK_Y + threadIdx.y) * ROWS;
  if (row >= height) return;
  const Image image = images[blockIdx.z];
  const int column = first_column + threadIdx.x;
  const Normalisation normalisation = {{multiplier0, multiplier1, multiplier2},
                                       {offset0, offset1, offset2}};
  const u32 pad_value = (u32)pad << PIXEL_BITS;

  u32 value[ROWS][PIXELS][3];
  // Both the same for a whole warp.
  if (first_column < image.resized_width && row < image.resized_height) {
    switch (image.encoding) {
      case BGR8:
      case RGB8:
        resample<BGR8>(image, column, row, value);
        break;
      case BGRA8:
      case RGBA8:
        resample<BGRA8>(image, column, row, value);
        break;
      case MONO8:
        resample<MONO8>(image, column, row, value);
        break;
      case NV12:
        resample<NV12>(image, column, row, value);
        break;
      case UYVY:
        resample<UYVY>(image, column, row, value);
        break;
      default:
        resample<YUY2>(image, column, row, value);
        break;
    }
  }
  if (first_column + 32 * PIXELS <= image.resized_width && row + ROWS <= image.resized_height) {
    store<true>(image, normalisation, pad_value, value, column, row, height, width, row_pitch,
                output);
  } else {
    store<false>(image, normalisation, pad_value, value, column, row, height, width, row_pitch,
                 output);
  }
}
