/*
 * Layer norm of rows, to which a vector of their group may be added first.
 *
 *   v = x + added[group],  y = (v - mean) rstd * weight + bias
 *   gx = rstd (g - mean(g) - vhat mean(g vhat)) with g = gy weight;  gadded = sum gx
 *
 * sizes: groups G, rows of each R, width D, has added; reals: eps
 * layer_norm_forward:  x [G,R,D], weight, bias [D], (added [G,D]) -> y [G,R,D]
 * layer_norm_backward: the same, then gy [G,R,D] -> gx, gweight, gbias, (gadded)
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "native.h"

enum { CHUNK_ROWS = 256 };

typedef struct {
  const float *x, *weight, *bias, *added, *gy;
  float *y, *gx, *gadded, *partial;
  int64_t groups, rows, D, chunk; /* chunk: groups that one thread takes at a time */
  float eps;
} Norm;

static Norm read_norm(const Launch *l) {
  const int64_t *s = l->sizes;
  const float *const *in = (const float *const *)l->inputs;
  Norm c = {.x = in[0], .weight = in[1], .bias = in[2], .groups = s[0], .rows = s[1],
            .D = s[2], .eps = (float)l->reals[0]};
  c.chunk = (CHUNK_ROWS + c.rows - 1) / c.rows;
  c.added = s[3] ? in[3] : 0;
  return c;
}

/* vhat of a row; returns rstd. */
static float normalize(const Norm *c, int64_t group, int64_t row, float *restrict v) {
  const float *x = c->x + row * c->D;
  float sum = 0.0f, squares = 0.0f;
  memcpy(v, x, sizeof(float) * (size_t)c->D);
  if (c->added) {
    const float *added = c->added + group * c->D;
    for (int64_t d = 0; d < c->D; ++d) v[d] += added[d];
  }
#pragma omp simd reduction(+ : sum)
  for (int64_t d = 0; d < c->D; ++d) sum += v[d];
  const float mean = sum / (float)c->D;
#pragma omp simd reduction(+ : squares)
  for (int64_t d = 0; d < c->D; ++d) squares += (v[d] - mean) * (v[d] - mean);
  const float rstd = 1.0f / sqrtf(squares / (float)c->D + c->eps);
  for (int64_t d = 0; d < c->D; ++d) v[d] = (v[d] - mean) * rstd;
  return rstd;
}

static void forward_chunk(void *context, int64_t i) {
  const Norm *c = context;
  const int64_t stop = (i + 1) * c->chunk, end = stop < c->groups ? stop : c->groups;
  for (int64_t group = i * c->chunk; group < end; ++group)
    for (int64_t row = group * c->rows; row < (group + 1) * c->rows; ++row) {
      float *restrict y = c->y + row * c->D;
      normalize(c, group, row, y);
      for (int64_t d = 0; d < c->D; ++d) y[d] = y[d] * c->weight[d] + c->bias[d];
    }
}

static void row_gradient(const Norm *c, int64_t row, float rstd,
                         const float *restrict vhat, float *restrict gweight,
                         float *restrict gbias) {
  const float *gy = c->gy + row * c->D, share = 1.0f / (float)c->D;
  float *restrict gx = c->gx + row * c->D, sum = 0.0f, along = 0.0f;
#pragma omp simd reduction(+ : sum, along)
  for (int64_t d = 0; d < c->D; ++d) {
    float g = gy[d] * c->weight[d];
    sum += g;
    along += g * vhat[d];
    gbias[d] += gy[d];
    gweight[d] += gy[d] * vhat[d];
  }
  sum *= share, along *= share;
  for (int64_t d = 0; d < c->D; ++d)
    gx[d] = rstd * (gy[d] * c->weight[d] - sum - vhat[d] * along);
}

static void backward_chunk(void *context, int64_t i) {
  const Norm *c = context;
  const int64_t stop = (i + 1) * c->chunk, end = stop < c->groups ? stop : c->groups;
  float *gweight = c->partial + i * 2 * c->D, *gbias = gweight + c->D;
  float *vhat = malloc(sizeof(float) * (size_t)(c->D + 1));
  memset(gweight, 0, sizeof(float) * (size_t)(2 * c->D));
  for (int64_t group = i * c->chunk; group < end; ++group) {
    float *gadded = c->gadded ? c->gadded + group * c->D : 0;
    if (gadded) memset(gadded, 0, sizeof(float) * (size_t)c->D);
    for (int64_t row = group * c->rows; row < (group + 1) * c->rows; ++row) {
      float rstd = normalize(c, group, row, vhat);
      row_gradient(c, row, rstd, vhat, gweight, gbias);
      if (gadded)
        for (int64_t d = 0; d < c->D; ++d) gadded[d] += c->gx[row * c->D + d];
    }
  }
  free(vhat);
}

void layer_norm_forward(const Launch *l) {
  Norm c = read_norm(l);
  c.y = l->outputs[0];
  l->parallel((c.groups + c.chunk - 1) / c.chunk, forward_chunk, &c);
}

void layer_norm_backward(const Launch *l) {
  Norm c = read_norm(l);
  float *gweight = l->outputs[1], *gbias = l->outputs[2];
  const int64_t chunks = (c.groups + c.chunk - 1) / c.chunk;
  c.gy = l->inputs[c.added ? 4 : 3];
  c.gx = l->outputs[0];
  c.gadded = c.added ? l->outputs[3] : 0;
  c.partial = malloc(sizeof(float) * (size_t)(chunks * 2 * c.D + 1));
  l->parallel(chunks, backward_chunk, &c);
  memset(gweight, 0, sizeof(float) * (size_t)c.D);
  memset(gbias, 0, sizeof(float) * (size_t)c.D);
  for (int64_t i = 0; i < chunks; ++i)
    for (int64_t d = 0; d < c.D; ++d) {
      gweight[d] += c.partial[i * 2 * c.D + d];
      gbias[d] += c.partial[i * 2 * c.D + c.D + d];
    }
  free(c.partial);
}
