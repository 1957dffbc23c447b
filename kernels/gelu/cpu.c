/*
 * GELU and its gradient, elementwise.
 *
 * gelu_forward:  inputs x [N];    outputs y [N];  sizes N, tanh form
 * gelu_backward: inputs x, g [N]; outputs gx [N]; sizes N, tanh form
 */
#include "native.h"
#include "native_math.h"

enum { GELU_CHUNK = 1 << 14 };

typedef struct {
  const float *x, *g;
  float *y;
  int64_t size;
  int is_tanh;
} Gelu;

static void forward_chunk(void *context, int64_t i) {
  const Gelu *c = context;
  int64_t start = i * GELU_CHUNK, left = c->size - start;
  int64_t n = left < GELU_CHUNK ? left : GELU_CHUNK;
  const float *x = c->x + start;
  float *y = c->y + start;
  if (c->is_tanh)
    for (int64_t j = 0; j < n; ++j) y[j] = gelu_tanhf(x[j]);
  else
    for (int64_t j = 0; j < n; ++j) y[j] = gelu_exactf(x[j]);
}

static void backward_chunk(void *context, int64_t i) {
  const Gelu *c = context;
  int64_t start = i * GELU_CHUNK, left = c->size - start;
  int64_t n = left < GELU_CHUNK ? left : GELU_CHUNK;
  const float *x = c->x + start, *g = c->g + start;
  float *y = c->y + start;
  if (c->is_tanh)
    for (int64_t j = 0; j < n; ++j) y[j] = g[j] * gelu_tanh_slopef(x[j]);
  else
    for (int64_t j = 0; j < n; ++j) y[j] = g[j] * gelu_exact_slopef(x[j]);
}

void gelu_forward(const Launch *l) {
  Gelu c = {l->inputs[0], 0, l->outputs[0], l->sizes[0], l->sizes[1]};
  l->parallel((c.size + GELU_CHUNK - 1) / GELU_CHUNK, forward_chunk, &c);
}

void gelu_backward(const Launch *l) {
  Gelu c = {l->inputs[0], l->inputs[1], l->outputs[0], l->sizes[0], l->sizes[1]};
  l->parallel((c.size + GELU_CHUNK - 1) / GELU_CHUNK, backward_chunk, &c);
}
