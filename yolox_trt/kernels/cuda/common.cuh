// SPDX-FileCopyrightText: The yolox_trt authors
// SPDX-License-Identifier: Apache-2.0
//
// What both kernel files share: element types of network tensors and their conversion.
// Compiled by NVRTC without any include, and by g++ behind test/kernels/host_shim.hpp, which
// defines YOLOX_TRT_HOST and the few CUDA built-ins that are used.

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
#endif

__device__ __forceinline__ float to_float(float value) { return value; }
