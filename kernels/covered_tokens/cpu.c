/*
 * Tokens with a condition and what has been said so far, on the real tokens only.
 *
 *   c[l] = (sum over i <= l of mask[i] t[i]) / sqrt(l + 1)
 *   y = mask (t + condition + c W^T + bias)
 *
 * sizes: B, L, D
 * covered_tokens_forward:  t [B,L,D], mask [B,L], condition [B,D], W [D,D], bias [D]
 *   -> y [B,L,D]
 * covered_tokens_backward: the same, then gy [B,L,D]
 *   -> gt, gcondition, gW, gbias, like their arrays
 */
#include <math.h>
#include <string.h>

#include "native.h"
#include "native_gemm.h"
#include "native_rows.h"

enum { TILE_ROWS = 128, WEIGHT_ROWS = 192 };

typedef struct {
  int64_t D;
  Rows rows;
  const float *t, *condition, *w, *bias, *gy;
  float *panels; /* W, the way round the pass needs it */
  float *y, *gt, *gcondition, *gw;
  float *sums, *g, *partial; /* backward: c and mask gy of all rows; gbias by tile */
} Covered;

static float *floats(int64_t count) { return malloc(sizeof(float) * (size_t)(count + 1)); }

static Covered read_covered(const Launch *l) {
  const float *const *in = (const float *const *)l->inputs;
  Covered c = {.D = l->sizes[2], .t = in[0], .condition = in[2],
               .w = in[3], .bias = in[4]};
  c.rows = pack_rows(in[1], l->sizes[0], l->sizes[1], TILE_ROWS);
  return c;
}

/* c of a tile's real tokens, [rows, D]. */
static void running_sums(const Covered *c, const Tile *t, float *restrict sums) {
  const int64_t L = c->rows.length, D = c->D;
  float *restrict run = floats(D);
  for (int64_t b = t->sentence; b < t->end; ++b) {
    memset(run, 0, sizeof(float) * (size_t)D);
    for (int64_t l = 0; l < c->rows.span[b]; ++l) {
      const float *token = c->t + (b * L + l) * D, m = c->rows.mask[b * L + l];
      if (m == 0.0f) continue;
      const float scale = 1.0f / sqrtf((float)(l + 1));
      for (int64_t d = 0; d < D; ++d) {
        run[d] += m * token[d];
        sums[d] = run[d] * scale;
      }
      sums += D;
    }
  }
  free(run);
}

static void forward_tile(void *context, int64_t i) {
  const Covered *c = context;
  const Tile *t = c->rows.tiles + i;
  const int64_t L = c->rows.length, D = c->D;
  float *sums = floats(2 * t->rows * D), *said = sums + t->rows * D;
  running_sums(c, t, sums);
  multiply_panels(t->rows, D, D, (Strided){sums, D, 1}, c->panels, said, D, 0);
  for (int64_t at = t->sentence * L; at < t->end * L; ++at) {
    const float *token = c->t + at * D, *condition = c->condition + at / L * D;
    const float m = c->rows.mask[at];
    float *restrict y = c->y + at * D;
    if (m == 0.0f) {
      memset(y, 0, sizeof(float) * (size_t)D);
      continue;
    }
    for (int64_t d = 0; d < D; ++d)
      y[d] = m * (token[d] + condition[d] + (said[d] + c->bias[d]));
    said += D;
  }
  free(sums);
}

void covered_tokens_forward(const Launch *l) {
  Covered c = read_covered(l);
  c.y = l->outputs[0];
  c.panels = packed_panels(l, (Strided){c.w, 1, c.D}, c.D, c.D);
  l->parallel(c.rows.count, forward_tile, &c);
  free(c.panels);
  free_rows(&c.rows);
}

/* g = mask gy of a tile; the gradients of condition and bias are sums of it. */
static void masked_gradient(const Covered *c, const Tile *t, float *restrict g,
                            float *restrict gbias) {
  const int64_t L = c->rows.length, D = c->D;
  memset(gbias, 0, sizeof(float) * (size_t)D);
  for (int64_t b = t->sentence; b < t->end; ++b) {
    float *restrict gcondition = c->gcondition + b * D;
    memset(gcondition, 0, sizeof(float) * (size_t)D);
    for (int64_t l = 0; l < c->rows.span[b]; ++l) {
      const float *gy = c->gy + (b * L + l) * D, m = c->rows.mask[b * L + l];
      if (m == 0.0f) continue;
      for (int64_t d = 0; d < D; ++d) {
        g[d] = m * gy[d];
        gcondition[d] += g[d];
      }
      g += D;
    }
    for (int64_t d = 0; d < D; ++d) gbias[d] += gcondition[d];
  }
}

/* gt[i] = g[i] + mask[i] sum over l >= i of gc[l] / sqrt(l + 1), from the last row. */
static void token_gradient(const Covered *c, const Tile *t, const float *g,
                           const float *gc) {
  const int64_t L = c->rows.length, D = c->D;
  float *restrict run = floats(D);
  g += t->rows * D, gc += t->rows * D;
  for (int64_t b = t->end - 1; b >= t->sentence; --b) {
    memset(run, 0, sizeof(float) * (size_t)D);
    for (int64_t l = L - 1; l >= 0; --l) {
      const float m = c->rows.mask[b * L + l], scale = 1.0f / sqrtf((float)(l + 1));
      float *restrict gt = c->gt + (b * L + l) * D;
      if (m == 0.0f) {
        memset(gt, 0, sizeof(float) * (size_t)D);
        continue;
      }
      g -= D, gc -= D;
      for (int64_t d = 0; d < D; ++d) {
        run[d] += gc[d] * scale;
        gt[d] = g[d] + m * run[d];
      }
    }
  }
  free(run);
}

static void backward_tile(void *context, int64_t i) {
  const Covered *c = context;
  const Tile *t = c->rows.tiles + i;
  const int64_t D = c->D;
  float *g = c->g + t->row * D, *gc = floats(t->rows * D);
  running_sums(c, t, c->sums + t->row * D);
  masked_gradient(c, t, g, c->partial + i * D);
  multiply_panels(t->rows, D, D, (Strided){g, D, 1}, c->panels, gc, D, 0);
  token_gradient(c, t, g, gc);
  free(gc);
}

/* Some rows of gW = g^T c. */
static void weight_part(void *context, int64_t i) {
  const Covered *c = context;
  const int64_t start = i * WEIGHT_ROWS, left = c->D - start;
  const int64_t n = left < WEIGHT_ROWS ? left : WEIGHT_ROWS;
  multiply_long(n, c->D, c->rows.rows, (Strided){c->g + start, 1, c->D},
                (Strided){c->sums, c->D, 1}, c->gw + start * c->D, c->D);
}

void covered_tokens_backward(const Launch *l) {
  Covered c = read_covered(l);
  const int64_t D = c.D, T = c.rows.rows;
  float *gbias = l->outputs[3];
  c.gy = l->inputs[5];
  c.gt = l->outputs[0], c.gcondition = l->outputs[1], c.gw = l->outputs[2];
  c.sums = floats(2 * T * D);
  c.g = c.sums + T * D;
  c.partial = floats(c.rows.count * D);
  c.panels = packed_panels(l, (Strided){c.w, D, 1}, D, D);
  l->parallel(c.rows.count, backward_tile, &c);
  free(c.panels);
  if (T)
    l->parallel((D + WEIGHT_ROWS - 1) / WEIGHT_ROWS, weight_part, &c);
  else
    memset(c.gw, 0, sizeof(float) * (size_t)(D * D));
  memset(gbias, 0, sizeof(float) * (size_t)D);
  for (int64_t i = 0; i < c.rows.count; ++i)
    for (int64_t d = 0; d < D; ++d) gbias[d] += c.partial[i * D + d];
  free(c.sums);
  free(c.partial);
  free_rows(&c.rows);
}
