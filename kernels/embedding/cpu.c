/*
 * Rows of a table, and the sum of rows by their number.
 *
 *   rows[n] = table[ids[n]], zero where ids[n] < 0
 *   gtable[r] = sum of grad[n] over ids[n] = r, in rising order of n
 *
 * embedding_forward:  inputs table [R, D], ids [N] int32; outputs rows [N, D];
 *                     sizes N, R, D
 * embedding_backward: inputs grad [N, D], ids [N] int32; outputs gtable [R, D];
 *                     sizes N, D, R
 *
 * The positions are sorted by counting. A thread owns rows of the table, so equal input
 * gives equal bits, whatever the threads. Ids outside of the table: zeros forward, left
 * out backward.
 */
#include <stdlib.h>
#include <string.h>

#include "native.h"

enum { LOOKED_UP = 64, SUMMED = 64 };

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

typedef struct {
  const float *from;
  const int32_t *ids;
  float *to;
  const int64_t *starts, *order;
  int64_t count, rows, width;
} Embedding;

static void look_up(void *context, int64_t i) {
  const Embedding *c = context;
  int64_t end = least((i + 1) * LOOKED_UP, c->count), d = c->width;
  for (int64_t n = i * LOOKED_UP; n < end; ++n) {
    int64_t row = c->ids[n];
    if (row < 0 || row >= c->rows)
      memset(c->to + n * d, 0, (size_t)d * sizeof(float));
    else
      memcpy(c->to + n * d, c->from + row * d, (size_t)d * sizeof(float));
  }
}

void embedding_forward(const Launch *l) {
  Embedding c = {.from = l->inputs[0], .ids = l->inputs[1], .to = l->outputs[0],
                 .count = l->sizes[0], .rows = l->sizes[1], .width = l->sizes[2]};
  l->parallel((c.count + LOOKED_UP - 1) / LOOKED_UP, look_up, &c);
}

static void sum_rows(void *context, int64_t i) {
  const Embedding *c = context;
  int64_t end = least((i + 1) * SUMMED, c->rows), d = c->width;
  for (int64_t r = i * SUMMED; r < end; ++r) {
    float *to = c->to + r * d;
    memset(to, 0, (size_t)d * sizeof *to);
    for (int64_t k = c->starts[r]; k < c->starts[r + 1]; ++k) {
      const float *from = c->from + c->order[k] * d;
#pragma omp simd
      for (int64_t j = 0; j < d; ++j) to[j] += from[j];
    }
  }
}

void embedding_backward(const Launch *l) {
  Embedding c = {.from = l->inputs[0], .ids = l->inputs[1], .to = l->outputs[0],
                 .count = l->sizes[0], .width = l->sizes[1], .rows = l->sizes[2]};
  int64_t *starts = calloc((size_t)(c.rows + 2), sizeof *starts);
  int64_t *order = malloc((size_t)(c.count + 1) * sizeof *order);
  /* starts[r + 1] is the place of the next position of row r while they are sorted */
  for (int64_t n = 0; n < c.count; ++n)
    if (c.ids[n] >= 0 && c.ids[n] < c.rows) ++starts[c.ids[n] + 2];
  for (int64_t r = 0; r < c.rows; ++r) starts[r + 2] += starts[r + 1];
  for (int64_t n = 0; n < c.count; ++n)
    if (c.ids[n] >= 0 && c.ids[n] < c.rows) order[starts[c.ids[n] + 1]++] = n;
  c.starts = starts, c.order = order;
  l->parallel((c.rows + SUMMED - 1) / SUMMED, sum_rows, &c);
  free(order);
  free(starts);
}
