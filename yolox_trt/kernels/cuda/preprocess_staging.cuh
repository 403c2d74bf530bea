// SPDX-FileCopyrightText: The yolox_trt authors
// SPDX-License-Identifier: Apache-2.0
//
// Source rows in shared memory: what a tile reads, and the copies that bring it.

#pragma once
#include "preprocess_color.cuh"

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

// A part of a tile of the network's input, counted from the image's corner: negative in the padding
// before it.
struct Place {
  int first_column;
  int first_row;
  int last_row;  // behind its last row
  int end;       // behind its last row that carries the image; first_row: none does
};

__device__ __forceinline__ Place place_of(const Image& image, int row, int rows) {
  Place place;
#if CENTRED
  const int left = left_of(image), top = top_of(image);
#else
  const int left = 0, top = 0;
#endif
  place.first_column = blockIdx.x * TILE_COLUMNS - left;
  place.first_row = min((int)blockIdx.y * TILE_ROWS + row, HEIGHT) - top;
  place.last_row = min(place.first_row + rows, HEIGHT - top);
  place.end = max(place.first_row, min(place.last_row, image.resized_height));
  if (place.first_column >= image.resized_width) place.end = place.first_row;
#if CENTRED
  if (place.last_row <= 0 || place.first_column + TILE_COLUMNS <= 0) place.end = place.first_row;
#endif
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
