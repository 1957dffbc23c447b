/*
 * Matrix products of float32 for kernels that work on tiles, on the calling thread.
 *
 * One factor is packed once, into panels of NR columns, and used for every tile; the
 * other is read where it lies. MR rows of the result by one panel stay in registers, KC
 * steps at a time, as in Goto and van de Geijn, "Anatomy of High-Performance Matrix
 * Multiplication", ACM TOMS 34(3), 2008. Every element is summed in the order of k, in
 * stretches of KC, wherever it lies in a tile: the bits do not depend on the tiles.
 *
 * A Xeon with AVX-512, 252 x 512 x 1152, one thread: 154 to 170 GFLOP/s, where OpenBLAS
 * 0.3.34 has 123 to 129 and a loop of nothing but multiply-add in registers 190.
 */
#ifndef ENERGYFLOW_NATIVE_GEMM_H
#define ENERGYFLOW_NATIVE_GEMM_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "native.h"

#if defined(__AVX512F__)
enum { LANES = 16, MR = 14 };
#elif defined(__AVX__)
enum { LANES = 8, MR = 6 };
#else
enum { LANES = 4, MR = 12 };
#endif
enum { NR = 2 * LANES, KC = 256, AHEAD = 8 };

typedef float Lanes __attribute__((vector_size(4 * LANES), aligned(4)));

/* A matrix whose element (i, j) lies at data[i * row + j * column]. */
typedef struct {
  const float *data;
  int64_t row, column;
} Strided;

/* Floats of n columns of length k in panels. */
static inline int64_t panel_size(int64_t k, int64_t n) {
  return (n + NR - 1) / NR * NR * k;
}

static inline float *aligned_floats(int64_t count) {
  return aligned_alloc(64, ((size_t)count * sizeof(float) + 127) / 64 * 64);
}

/* Panel p of b [k, n]: NR of its columns side by side, zeros past the last one. */
static inline void pack_panel(float *restrict panels, Strided b, int64_t k, int64_t n,
                              int64_t p) {
  float *restrict out = panels + p * NR * k;
  const float *from = b.data + p * NR * b.column;
  const int64_t width = n - p * NR < NR ? n - p * NR : NR;
  if (width == NR && b.column == 1)
    for (int64_t i = 0; i < k; ++i)
      memcpy(out + i * NR, from + i * b.row, sizeof(float) * NR);
  else
    for (int64_t i = 0; i < k; ++i)
      for (int64_t j = 0; j < NR; ++j)
        out[i * NR + j] = j < width ? from[i * b.row + j * b.column] : 0.0f;
}

/* c [rows, NR] = a [rows, k] times k steps of a panel, added to c if `add`. */
__attribute__((always_inline)) static inline void multiply_strip(
    const int rows, int64_t k, const float *restrict a, int64_t row, int64_t column,
    const float *restrict panel, float *restrict c, int64_t ldc, int add) {
  Lanes sum[MR][2];
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i) sum[i][0] = sum[i][1] = (Lanes){0};
  for (int64_t x = 0; x < k; ++x, panel += NR) {
    __builtin_prefetch(panel + AHEAD * NR);
    __builtin_prefetch(panel + AHEAD * NR + LANES);
    const Lanes low = *(const Lanes *)panel, high = *(const Lanes *)(panel + LANES);
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
      const float value = a[i * row + x * column];
      sum[i][0] += value * low;
      sum[i][1] += value * high;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i) {
    Lanes *out = (Lanes *)(c + i * ldc), *next = (Lanes *)(c + i * ldc + LANES);
    *out = add ? *out + sum[i][0] : sum[i][0];
    *next = add ? *next + sum[i][1] : sum[i][1];
  }
}

/* The same with 1, 4 or MR rows, each a loop of its own. */
static void multiply_rows(int rows, int64_t k, Strided a, const float *panel, float *c,
                          int64_t ldc, int add) {
  if (rows == MR && a.row == 1)
    multiply_strip(MR, k, a.data, 1, MR, panel, c, ldc, add);
  else if (rows == MR)
    multiply_strip(MR, k, a.data, a.row, 1, panel, c, ldc, add);
  else if (rows == 4)
    multiply_strip(4, k, a.data, a.row, a.column, panel, c, ldc, add);
  else
    multiply_strip(1, k, a.data, a.row, a.column, panel, c, ldc, add);
}

/* `rows` rows of the result by all panels, for `k` steps of `whole`. */
static void multiply_band(int rows, int64_t n, int64_t k, int64_t whole, Strided a,
                          const float *panels, float *c, int64_t ldc, int add) {
  float packed[MR * KC], edge[MR * NR];
  if (rows == MR && a.row == 1) { /* else each step would touch a line of its own */
    for (int64_t x = 0; x < k; ++x)
      memcpy(packed + x * MR, a.data + x * a.column, sizeof(float) * MR);
    a = (Strided){packed, 1, MR};
  }
  for (int64_t p = 0; p < n; p += NR, panels += NR * whole) {
    if (n - p >= NR) {
      multiply_rows(rows, k, a, panels, c + p, ldc, add);
      continue;
    }
    multiply_rows(rows, k, a, panels, edge, NR, 0);
    for (int i = 0; i < rows; ++i)
      for (int64_t j = 0; j < n - p; ++j)
        c[i * ldc + p + j] = edge[i * NR + j] + (add ? c[i * ldc + p + j] : 0.0f);
  }
}

/* c [m, n] = a [m, k] times b [k, n] in panels, added to c if `add`. */
static inline void multiply_panels(int64_t m, int64_t n, int64_t k, Strided a,
                                   const float *panels, float *c, int64_t ldc,
                                   int add) {
  for (int64_t x = 0; x < k; x += KC) {
    const int64_t steps = k - x < KC ? k - x : KC;
    for (int64_t i = 0; i < m;) {
      const int rows = m - i >= MR ? MR : m - i >= 4 ? 4 : 1;
      const Strided from = {a.data + i * a.row + x * a.column, a.row, a.column};
      multiply_band(rows, n, steps, k, from, panels + x * NR, c + i * ldc, ldc,
                    add || x > 0);
      i += rows;
    }
  }
}

/* c [m, n] = a [m, k] b [k, n], packing b in stretches: for a long k. */
static inline void multiply_long(int64_t m, int64_t n, int64_t k, Strided a, Strided b,
                                 float *c, int64_t ldc) {
  float *panels = aligned_floats(panel_size(KC, n));
  for (int64_t x = 0; x < k; x += KC) {
    const int64_t steps = k - x < KC ? k - x : KC;
    const Strided from = {b.data + x * b.row, b.row, b.column};
    for (int64_t p = 0; p * NR < n; ++p) pack_panel(panels, from, steps, n, p);
    const Strided left = {a.data + x * a.column, a.row, a.column};
    multiply_panels(m, n, steps, left, panels, c, ldc, x > 0);
  }
  free(panels);
}

/* All of b [k, n] in panels, packed on all threads; to be freed. */
typedef struct {
  float *panels;
  Strided b;
  int64_t k, n;
} PackJob;

static inline void pack_job(void *context, int64_t p) {
  const PackJob *job = context;
  pack_panel(job->panels, job->b, job->k, job->n, p);
}

static inline float *packed_panels(const Launch *launch, Strided b, int64_t k,
                                   int64_t n) {
  PackJob job = {aligned_floats(panel_size(k, n)), b, k, n};
  launch->parallel((n + NR - 1) / NR, pack_job, &job);
  return job.panels;
}

#endif
