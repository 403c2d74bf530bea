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
//   ROWS_AHEAD   rows of a thread whose taps are read before the first is blended
//   BLOCKS       blocks that must fit on a multiprocessor: bounds the registers of a thread
//   CENTRED      1: the image lies in the middle of the padding; 0: in the top left corner
//   HEIGHT, WIDTH, ROW_PITCH  of the network's input: rows, columns, and elements (NCHW) or pixels
//                from one row to the next. As constants they cost no address arithmetic.
//
// Reads are of whole aligned words, pieces of 16 bytes or lines of the L2: the buffer must begin at
// a line and be descriptors.SOURCE_MARGIN longer than the image.

#include "preprocess_output.cuh"
#include "preprocess_staging.cuh"

// What a thread's column is: image, padding, or behind the row's end.
enum Kind { IMAGE, PADDING, OUTSIDE };

// What a thread makes of a tile.
template <int ENCODING>
struct Work {
  Column column;
  Output output;
  Normalisation normalisation;
  Kind kind;
#if CENTRED
  int above;  // rows in the padding before the image
#endif
  int count;  // rows from the first on to the last that carries the image
};

// Whether a row of the thread's column is padding.
template <int ENCODING>
__device__ __forceinline__ bool is_padding(const Work<ENCODING>& work, int row) {
#if CENTRED
  if (row < work.above) return true;
#endif
  return work.kind == PADDING;
}

// Makes the rows that carry the image from those in shared memory. INTERIOR: they are a multiple of
// ROWS_AHEAD, and all columns of the block carry the image.
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
  for (int first = 0; first < TILE_ROWS; first += ROWS_AHEAD) {
    if (first >= work.count) break;
    Row rows[ROWS_AHEAD];
    Taps taps[ROWS_AHEAD][2];
    u32 chroma[ROWS_AHEAD][2][2];
#pragma unroll
    for (int r = 0; r < ROWS_AHEAD; ++r) {
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
    for (int r = 0; r < ROWS_AHEAD; ++r) {
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        if (ENCODING == BGR8) align_taps(taps[r][t], lead);
      }
      u32 pixel[3];
      blend<ENCODING>(taps[r], chroma[r], column, rows[r], pixel);
      if (INTERIOR) {
        store<Traits<ENCODING>::FORM>(work.output, work.normalisation, first + r, pixel);
      } else {
        if (is_padding(work, first + r)) pixel[0] = pixel[1] = pixel[2] = pad;
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
    if (is_padding(work, r)) pixel[0] = pixel[1] = pixel[2] = pad;
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
#if CENTRED
  const int left = left_of(image), top = top_of(image);
#else
  const int left = 0, top = 0;
#endif
  const int column = blockIdx.x * TILE_COLUMNS + threadIdx.x - left;  // of the image
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
    work.kind = column < image.resized_width ? IMAGE : column + left < WIDTH ? PADDING : OUTSIDE;
#if CENTRED
    if (column < 0) work.kind = PADDING;
    work.above = -place.first_row;
#endif
    work.count = place.end - place.first_row;
    const bool swap = image.swap != 0;
    const u32 first =
        (blockIdx.z * IMAGE_ROWS + place.first_row + top) * ROW_PITCH + column + left;
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
      } else if (work.count % ROWS_AHEAD == 0 &&
                 place.first_column + TILE_COLUMNS <= image.resized_width &&
                 !(CENTRED && (place.first_column < 0 || place.first_row < 0))) {
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
