// SPDX-FileCopyrightText: The yolox_trt authors
// SPDX-License-Identifier: Apache-2.0
//
// Blended pixels as elements of the network's input: type, normalisation, layout.

#pragma once
#include "preprocess_color.cuh"

#if OUTPUT == 0
typedef float out_t;
#elif OUTPUT == 1
typedef half_t out_t;
#elif OUTPUT == 2
typedef signed char out_t;
#else
typedef u8 out_t;
#endif

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

// Whether a pixel has two packs of 16 bytes, and a warp 32 pixels or none.
#if LAYOUT >= 2 && WIDTH % 32 == 0 && !defined(YOLOX_TRT_HOST)
#define WHOLE_WARPS 1
#else
#define WHOLE_WARPS 0
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
  Pack pack = {};
  pack.value[0] = output.swap ? value[2] : value[0];
  pack.value[1] = value[1];
  pack.value[2] = output.swap ? value[0] : value[2];
#if WHOLE_WARPS
  // A pixel's two packs lie side by side. If each thread wrote its own, a store of the warp would
  // fill half of every sector: the warp writes its first 16 pixels, then the others.
  const int lane = threadIdx.x & 31;
  const u32* const words = (const u32*)&pack;
  Pack* to = (Pack*)(output.at + ((long long)row * ROW_ELEMENTS - lane * CHANNELS));
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    Pack mine = {};
#pragma unroll
    for (int word = 0; word < 3 * (int)sizeof(out_t) / 4 + 1; ++word) {
      const u32 value = __shfl_sync(~0u, words[word], 16 * half + lane / 2);
      ((u32*)&mine)[word] = lane & 1 ? 0 : value;
    }
    to[32 * half + lane] = mine;
  }
#else
  const Pack zero = {};
  Pack* to = (Pack*)(output.at + (long long)row * ROW_ELEMENTS);
  to[0] = pack;
#pragma unroll
  for (int next = 1; next < CHANNELS / group; ++next) to[next] = zero;
#endif
#endif
}
