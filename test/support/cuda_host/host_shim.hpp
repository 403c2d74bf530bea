// SPDX-FileCopyrightText: The yolox_trt authors
// SPDX-License-Identifier: Apache-2.0
//
// Runs the .cu files on the host, so that their arithmetic and their barriers are tested on
// machines without a GPU. The threads of a block are fibers: one runs until it meets a barrier or
// a warp operation, then the next. Their order can be reversed: a missing barrier then shows.
// It says nothing of memory coalescing, of timing, or of races inside a warp.

#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define YOLOX_TRT_HOST 1
#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)

struct Index3 {
  unsigned x = 0, y = 0, z = 0;
};
static Index3 threadIdx, blockIdx, blockDim, gridDim;

struct half_t {
  unsigned short bits;
};
static inline half_t to_half(float value) {
  const _Float16 narrow = (_Float16)value;
  half_t result;
  std::memcpy(&result.bits, &narrow, 2);
  return result;
}
static inline float to_float(half_t value) {
  _Float16 narrow;
  std::memcpy(&narrow, &value.bits, 2);
  return (float)narrow;
}

// Arithmetic on halves: a double holds products and sums of halves exactly, or so nearly that
// rounding it is rounding them.
static inline half_t narrow_half(double value) {
  const _Float16 narrow = (_Float16)value;
  half_t result;
  std::memcpy(&result.bits, &narrow, 2);
  return result;
}
static inline half_t subtract(half_t a, half_t b) {
  return narrow_half((double)to_float(a) - to_float(b));
}
static inline half_t multiply(half_t a, half_t b) {
  return narrow_half((double)to_float(a) * to_float(b));
}
static inline half_t fma(half_t a, half_t b, half_t c) {
  return narrow_half((double)to_float(a) * to_float(b) + to_float(c));
}
template <typename Operation>
static inline unsigned on_both(unsigned a, unsigned b, unsigned c, Operation operation) {
  unsigned result = 0;
  for (int shift = 0; shift < 32; shift += 16) {
    const half_t value = operation(half_t{(unsigned short)(a >> shift)},
                                   half_t{(unsigned short)(b >> shift)},
                                   half_t{(unsigned short)(c >> shift)});
    result |= (unsigned)value.bits << shift;
  }
  return result;
}
static inline unsigned multiply2(unsigned a, unsigned b) {
  return on_both(a, b, 0, [](half_t x, half_t y, half_t) { return multiply(x, y); });
}
static inline unsigned fma2(unsigned a, unsigned b, unsigned c) {
  return on_both(a, b, c, [](half_t x, half_t y, half_t z) { return fma(x, y, z); });
}
static inline unsigned fma2_saturated(unsigned a, unsigned b, unsigned c) {
  return on_both(a, b, c, [](half_t x, half_t y, half_t z) {
    const float value = to_float(fma(x, y, z));
    return to_half(value < 0 ? 0.0f : value > 1 ? 1.0f : value);
  });
}

namespace host {

enum class State { READY, BLOCK_BARRIER, WARP, DONE };

struct Fiber {
  ucontext_t context;
  State state;
  Index3 index;
  unsigned linear;
  long long given;   // value brought to a barrier or warp operation
  long long taken;   // value that it gave back
  int source;        // lane to read from; -1: a vote
  bool spins;        // it waits for memory to change
};

static const size_t STACK = 64 * 1024;
static std::vector<std::vector<char>> stacks;
static std::vector<Fiber> fibers;
static Fiber* current;
static ucontext_t scheduler;
// A pointer and not a std::function, whose header takes as long to compile as a kernel.
static const void* kernel_of_block;
static void (*body)(const void* kernel);
static bool reversed = false;

static void entry() {
  body(kernel_of_block);
  current->state = State::DONE;
  swapcontext(&current->context, &scheduler);
}

static long long meet(State state, long long given, int source = -1) {
  Fiber* self = current;
  self->state = state;
  self->given = given;
  self->source = source;
  swapcontext(&self->context, &scheduler);
  return self->taken;
}

static void spin() {
  current->spins = true;
  swapcontext(&current->context, &scheduler);
}

static void fail(const char* what) {
  std::fprintf(stderr, "host_shim: %s in block (%u, %u, %u)\n", what, blockIdx.x, blockIdx.y,
               blockIdx.z);
  std::abort();
}

// The addresses between which copies to shared memory have read.
static unsigned long long lowest_read = ~0ull, highest_read = 0;
static void note_read(unsigned long long from, unsigned bytes) {
  lowest_read = std::min(lowest_read, from);
  highest_read = std::max(highest_read, from + bytes);
}

// Releases what can be released; whether anything was.
static bool release() {
  bool released = false;
  bool all_at_barrier = true;
  long long any = 0;
  for (const Fiber& fiber : fibers) {
    if (fiber.state == State::DONE) continue;
    if (fiber.state != State::BLOCK_BARRIER) all_at_barrier = false;
    any |= fiber.given;
  }
  if (all_at_barrier) {
    for (Fiber& fiber : fibers) {
      if (fiber.state == State::DONE) continue;
      fiber.taken = any;
      fiber.state = State::READY;
      released = true;
    }
    return released;
  }
  for (size_t first = 0; first < fibers.size(); first += 32) {
    size_t waiting = 0;
    unsigned vote = 0;
    const size_t lanes = std::min<size_t>(32, fibers.size() - first);
    for (size_t lane = 0; lane < lanes; ++lane) {
      const Fiber& fiber = fibers[first + lane];
      if (fiber.state != State::WARP) continue;
      ++waiting;
      if (fiber.source < 0 && fiber.given) vote |= 1u << lane;
    }
    if (waiting == 0 || waiting < lanes) {
      if (waiting) {
        for (size_t lane = 0; lane < lanes; ++lane) {
          if (fibers[first + lane].state == State::DONE) fail("a lane left before a warp operation");
          if (fibers[first + lane].state == State::BLOCK_BARRIER) fail("a warp at two barriers");
        }
      }
      continue;
    }
    for (size_t lane = 0; lane < lanes; ++lane) {
      Fiber& fiber = fibers[first + lane];
      fiber.taken = fiber.source < 0 ? vote : fibers[first + fiber.source % 32].given;
      fiber.state = State::READY;
    }
    released = true;
  }
  return released;
}

static void run_block(unsigned threads) {
  while (stacks.size() < threads) stacks.emplace_back(STACK);
  fibers.resize(threads);
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    fiber.state = State::READY;
    fiber.linear = i;
    fiber.index.x = i % blockDim.x;
    fiber.index.y = i / blockDim.x;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stacks[i].data();
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, entry, 0);
  }
  for (;;) {
    bool done = true;
    bool moved = false;
    for (unsigned n = 0; n < threads; ++n) {
      Fiber& fiber = fibers[reversed ? threads - 1 - n : n];
      if (fiber.state != State::READY) continue;
      current = &fiber;
      threadIdx = fiber.index;
      fiber.spins = false;
      swapcontext(&scheduler, &fiber.context);
      moved |= !fiber.spins;
    }
    for (const Fiber& fiber : fibers) done &= fiber.state == State::DONE;
    if (done) return;
    if (!release() && !moved) fail("deadlock");
  }
}

template <class Kernel>
static void launch(const unsigned* grid, const unsigned* block, const Kernel& kernel) {
  kernel_of_block = &kernel;
  body = [](const void* of_block) { (*(const Kernel*)of_block)(); };
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {block[0], block[1], 1};
  for (unsigned z = 0; z < grid[2]; ++z) {
    for (unsigned y = 0; y < grid[1]; ++y) {
      for (unsigned x = 0; x < grid[0]; ++x) {
        blockIdx = {x, y, z};
        run_block(block[0] * block[1]);
      }
    }
  }
}

}  // namespace host

// The barriers of the bulk copy engine, and its copies, which arrive at once. A barrier of more
// than one phase ahead of a waiting thread is an error that the thread would not see.
struct HostBarrier {
  unsigned short arrivals, pending;
  int bytes : 31;
  unsigned phase : 1;
};
static_assert(sizeof(HostBarrier) == 8, "a barrier has 8 bytes");
static inline HostBarrier& host_barrier(unsigned long long* at) { return *(HostBarrier*)at; }
static inline void end_phase(HostBarrier& barrier) {
  if (barrier.pending || barrier.bytes) return;
  barrier.pending = barrier.arrivals;
  barrier.phase ^= 1;
}
static inline void init_barrier(unsigned long long* at, unsigned arrivals) {
  host_barrier(at) = {(unsigned short)arrivals, (unsigned short)arrivals, 0, 0};
}
static inline void publish_barrier() {}
static inline void arrive_and_expect(unsigned long long* at, unsigned bytes) {
  HostBarrier& barrier = host_barrier(at);
  if (barrier.pending == 0) host::fail("one arrival too many");
  barrier.bytes += (int)bytes;
  --barrier.pending;
  end_phase(barrier);
}
static inline void wait_for_phase(unsigned long long* at, unsigned parity) {
  while (host_barrier(at).phase == parity) host::spin();
}
static inline void bulk_copy(unsigned char* to, unsigned long long from, unsigned bytes,
                             unsigned long long* at) {
  if (((uintptr_t)to | from | bytes) & 15) host::fail("a bulk copy that is not aligned");
  host::note_read(from, bytes);
  std::memcpy(to, (const void*)from, bytes);
  HostBarrier& barrier = host_barrier(at);
  barrier.bytes -= (int)bytes;
  end_phase(barrier);
}
static inline void copy16(unsigned char* to, const unsigned char* from) {
  if (((uintptr_t)to | (uintptr_t)from) & 15) host::fail("a copy that is not aligned");
  host::note_read((uintptr_t)from, 16);
  std::memcpy(to, from, 16);
}
static inline void wait_for_copies() {}

static inline void __syncwarp() { host::meet(host::State::WARP, 0); }
static inline void __syncthreads() { host::meet(host::State::BLOCK_BARRIER, 0); }
static inline int __syncthreads_or(int value) {
  return (int)host::meet(host::State::BLOCK_BARRIER, value);
}
static inline unsigned __ballot_sync(unsigned, bool value) {
  return (unsigned)host::meet(host::State::WARP, value);
}
template <typename T>
static inline T __shfl_sync(unsigned, T value, int lane) {
  return (T)host::meet(host::State::WARP, (long long)value, lane);
}

template <typename T>
static inline T __ldg(const T* at) {
  return *at;
}
static inline int atomicAdd(int* at, int value) {
  const int before = *at;
  *at += value;
  return before;
}
static inline unsigned atomicOr(unsigned* at, unsigned value) {
  const unsigned before = *at;
  *at |= value;
  return before;
}
static inline int __popc(unsigned value) { return __builtin_popcount(value); }
static inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
static inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
static inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
static inline float __int_as_float(int bits) { return __uint_as_float((unsigned)bits); }
static inline int __float2int_rn(float value) { return (int)std::nearbyintf(value); }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned shift) {
  return (unsigned)((((unsigned long long)hi << 32) | lo) >> (shift & 31));
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const unsigned long long bytes = ((unsigned long long)b << 32) | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    result |= (unsigned)((bytes >> (8 * ((selector >> (4 * i)) & 7))) & 255) << (8 * i);
  }
  return result;
}
static inline unsigned __dp2a_lo(unsigned a, unsigned b, unsigned c) {
  return (a & 0xffff) * (b & 255) + (a >> 16) * ((b >> 8) & 255) + c;
}
static inline unsigned __dp2a_hi(unsigned a, unsigned b, unsigned c) {
  return __dp2a_lo(a, b >> 16, c);
}
