// SPDX-FileCopyrightText: The yolox_trt authors
// SPDX-License-Identifier: Apache-2.0
//
// From the bytes of an encoding to blended pixels: taps, colour conversion, weights.

#pragma once
#include "preprocess_geometry.cuh"

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
