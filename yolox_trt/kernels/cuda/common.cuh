// SPDX-FileCopyrightText: The yolox_trt authors
// SPDX-License-Identifier: Apache-2.0
//
// What both kernel files share: element types of network tensors and their conversion.
// Compiled by NVRTC without any header of CUDA's, and by g++ behind test/support/cuda_host, which
// defines YOLOX_TRT_HOST and the few CUDA built-ins that are used.

#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifndef YOLOX_TRT_HOST
// cuda_fp16.h would bring thousands of lines into every compilation; these two are all we need.
struct half_t {
  u16 bits;
};

__device__ __forceinline__ half_t to_half(float value) {
  half_t result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
}

__device__ __forceinline__ float to_float(half_t value) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
}

// Arithmetic on halves, and on two of them in a word; each rounds once.
__device__ __forceinline__ half_t subtract(half_t a, half_t b) {
  half_t result;
  asm("sub.rn.f16 %0, %1, %2;" : "=h"(result.bits) : "h"(a.bits), "h"(b.bits));
  return result;
}

__device__ __forceinline__ half_t multiply(half_t a, half_t b) {
  half_t result;
  asm("mul.rn.f16 %0, %1, %2;" : "=h"(result.bits) : "h"(a.bits), "h"(b.bits));
  return result;
}

__device__ __forceinline__ half_t fma(half_t a, half_t b, half_t c) {
  half_t result;
  asm("fma.rn.f16 %0, %1, %2, %3;" : "=h"(result.bits) : "h"(a.bits), "h"(b.bits), "h"(c.bits));
  return result;
}

__device__ __forceinline__ u32 multiply2(u32 a, u32 b) {
  u32 result;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
}

__device__ __forceinline__ u32 fma2(u32 a, u32 b, u32 c) {
  u32 result;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
  return result;
}

__device__ __forceinline__ u32 fma2_saturated(u32 a, u32 b, u32 c) {  // to 0..1
  u32 result;
  asm("fma.rn.sat.f16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
  return result;
}
#endif

__device__ __forceinline__ float to_float(float value) { return value; }

__device__ __forceinline__ half_t low_half(u32 both) { return half_t{(u16)both}; }
__device__ __forceinline__ half_t high_half(u32 both) { return half_t{(u16)(both >> 16)}; }
