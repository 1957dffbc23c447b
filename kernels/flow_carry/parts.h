/*
 * Parts of `flow_carry`: weights and their sizes, products, the neuron, a GRU layer's
 * gates.
 */
#ifndef ENERGYFLOW_FLOW_CARRY_PARTS_H
#define ENERGYFLOW_FLOW_CARRY_PARTS_H

#include <stdlib.h>

#include "native.h"
#include "native_layers.h"

enum { TILE = 256, PARTS = 8, PLACE = 4, PAST = 15, OUT = 4 };
static const float LIMIT = 10.0f;

enum Weight {
  ENTRY, ENTRY_BIAS, NORM_0, NORM_0_BIAS, LAYER_1, LAYER_1_BIAS, NORM_1, NORM_1_BIAS,
  LAYER_2, LAYER_2_BIAS, TOP, MEMORY, INNER, INNER_BIAS, LAST, LAST_BIAS, CELLS
};
/* After the others four of each layer. */
enum Cell { WX, WH, BIAS, BHN, CELL_WEIGHTS };

typedef struct {
  const Launch *launch;
  int64_t rows, hidden, layers, channels, features, inner, is_first;
  int64_t tile, tiles; /* rows of a tile, tiles */
  float epsilon;
  const float *const *flows; /* position, energy, memory, states */
  const float *const *weights;
  float *const *outputs;
  /* Backward alone. */
  const float *const *above; /* gradients of out and new states, new states, tape */
  int64_t parts, weight_size;
  float *gradients; /* of all weights, one after the other, for each part */
} Carry;

static const float *weight(const Carry *c, int id) { return c->weights[id]; }

static const float *cell(const Carry *c, int64_t layer, int part) {
  return c->weights[CELLS + CELL_WEIGHTS * layer + part];
}

static int64_t cell_input(const Carry *c, int64_t layer) {
  return layer ? c->hidden : c->features + 1;
}

static Carry read_sizes(const Launch *l) {
  const int64_t *s = l->sizes;
  /* Tiles of about equal size, at least one for each part. */
  int64_t tiles = (s[0] + TILE - 1) / TILE;
  if (tiles < PARTS) tiles = PARTS;
  int64_t tile = (s[0] + tiles - 1) / tiles;
  return (Carry){
      .launch = l, .rows = s[0], .hidden = s[1], .layers = s[2], .channels = s[3],
      .features = s[4], .inner = s[5], .is_first = s[6], .tile = tile,
      .tiles = (s[0] + tile - 1) / tile, .epsilon = (float)l->reals[0]};
}

/* Memory of the calling thread that outlives the call; it may be dirty. */
static float *scratch(int64_t size) {
  static _Thread_local float *memory;
  static _Thread_local int64_t held;
  if (size > held) {
    free(memory);
    memory = aligned_alloc(64, (size_t)(size + 15) / 16 * 64);
    held = size;
  }
  return memory;
}

static float *take(float **memory, int64_t size) {
  float *found = *memory;
  *memory += (size + 15) / 16 * 16;
  return found;
}

/* y = x W^T + beta y */
static void times_rows(const Carry *c, int64_t m, int64_t n, int64_t k, const float *x,
                       int64_t ldx, const float *w, float beta, float *y, int64_t ldy) {
  c->launch->sgemm(ROW_MAJOR, NO_TRANSPOSE, TRANSPOSE, m, n, k, 1.0f, x, ldx, w, k,
                   beta, y, ldy);
}

/* dx = dy W + beta dx */
static void times_columns(const Carry *c, int64_t m, int64_t n, int64_t k,
                          const float *dy, int64_t ldy, const float *w, float beta,
                          float *dx, int64_t ldx) {
  c->launch->sgemm(ROW_MAJOR, NO_TRANSPOSE, NO_TRANSPOSE, m, n, k, 1.0f, dy, ldy, w, n,
                   beta, dx, ldx);
}

/* dW += dy^T x, W of n rows and k columns */
static void outer(const Carry *c, int64_t m, int64_t n, int64_t k, const float *dy,
                  int64_t ldy, const float *x, int64_t ldx, float *dw) {
  c->launch->sgemm(ROW_MAJOR, TRANSPOSE, NO_TRANSPOSE, n, k, m, 1.0f, dy, ldy, x, ldx,
                   1.0f, dw, k);
}

/* NaN is 0, the rest is kept in [-LIMIT, LIMIT]. */
static float sane(float x) { return x != x ? 0.0f : clampf(x, -LIMIT, LIMIT); }

typedef struct {
  float *place, *norm_0, *scale_0, *y_0, *g_0, *norm_1, *scale_1, *y_1, *g_1;
  float *raw, *x; /* input of the first layer, before and after it is made sane */
} Neuron;

static Neuron neuron_memory(const Carry *c, float **m) {
  int64_t n = c->tile, a = c->channels, f = c->features + 1;
  Neuron t = {take(m, n * PLACE), take(m, n * a), take(m, n), take(m, n * a),
              take(m, n * a),     take(m, n * a), take(m, n), take(m, n * a),
              take(m, n * a),     take(m, n * f), take(m, n * f)};
  return t;
}

static void neuron_forward(const Carry *c, const Neuron *t, int64_t start, int64_t n) {
  const float *position = c->flows[0] + 3 * start, *energy = c->flows[1] + start;
  int64_t a = c->channels, f = c->features, wide = f + 1;
  for (int64_t i = 0; i < n; ++i) {
    for (int j = 0; j < 3; ++j) t->place[i * PLACE + j] = position[3 * i + j];
    t->place[i * PLACE + 3] = energy[i];
  }
  times_rows(c, n, a, PLACE, t->place, PLACE, weight(c, ENTRY), 0, t->norm_0, a);
  add_bias(t->norm_0, weight(c, ENTRY_BIAS), n, a, a);
  norm_rows(t->norm_0, t->scale_0, t->y_0, weight(c, NORM_0), weight(c, NORM_0_BIAS),
            n, a, c->epsilon);
  gelu_values(t->g_0, t->y_0, n * a);
  times_rows(c, n, a, a, t->g_0, a, weight(c, LAYER_1), 0, t->norm_1, a);
  add_bias(t->norm_1, weight(c, LAYER_1_BIAS), n, a, a);
  norm_rows(t->norm_1, t->scale_1, t->y_1, weight(c, NORM_1), weight(c, NORM_1_BIAS),
            n, a, c->epsilon);
  gelu_values(t->g_1, t->y_1, n * a);
  times_rows(c, n, f, a, t->g_1, a, weight(c, LAYER_2), 0, t->raw, wide);
  add_bias(t->raw, weight(c, LAYER_2_BIAS), n, f, wide);
  for (int64_t i = 0; i < n; ++i) t->raw[i * wide + f] = energy[i];
  for (int64_t i = 0; i < n * wide; ++i) t->x[i] = sane(t->raw[i]);
}

/* The memory with ones as its last column, for the bias. */
static void past_of(const Carry *c, float *past, int64_t start, int64_t n) {
  const float *memory = c->flows[2] + PAST * start;
  for (int64_t i = 0; i < n; ++i) {
    memcpy(past + (PAST + 1) * i, memory + PAST * i, PAST * sizeof *past);
    past[(PAST + 1) * i + PAST] = 1.0f;
  }
}

static int64_t weight_size(const Carry *c, int64_t id) {
  int64_t a = c->channels, h = c->hidden;
  switch (id) {
    case ENTRY: return PLACE * a;
    case LAYER_1: return a * a;
    case LAYER_2: return c->features * a;
    case LAYER_2_BIAS: return c->features;
    case TOP: return h * h;
    case MEMORY: return h * (PAST + 1);
    case INNER: return c->inner * h;
    case INNER_BIAS: return c->inner;
    case LAST: return OUT * c->inner;
    case LAST_BIAS: return OUT;
  }
  if (id < CELLS) return a;
  int64_t layer = (id - CELLS) / CELL_WEIGHTS;
  switch ((id - CELLS) % CELL_WEIGHTS) {
    case WX: return 3 * h * cell_input(c, layer);
    case WH: return 3 * h * h;
    case BIAS: return 3 * h;
    default: return h;
  }
}

static int64_t weight_start(const Carry *c, int64_t id) {
  int64_t start = 0;
  for (int64_t i = 0; i < id; ++i) start += weight_size(c, i);
  return start;
}

/*
 * One GRU layer: the gates before their biases in, their values out. The old state's
 * rows lie `stride` apart, 0 where one of zeros serves all.
 */
static void blend(float *restrict gates, float *restrict new_h, const float *restrict h,
                  int64_t stride, const float *restrict b, const float *restrict bhn,
                  int64_t n, int64_t width) {
  for (int64_t i = 0; i < n; ++i) {
    float *g = gates + 4 * width * i;
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) {
      float r = fast_sigmoidf(g[j] + b[j]);
      float z = fast_sigmoidf(g[width + j] + b[width + j]);
      float part = g[3 * width + j] + bhn[j];
      float value = fast_tanhf(g[2 * width + j] + b[2 * width + j] + r * part);
      g[j] = r;
      g[width + j] = z;
      g[2 * width + j] = value;
      g[3 * width + j] = part;
      new_h[width * i + j] = value + z * (h[stride * i + j] - value);
    }
  }
}

/* Gradients of a layer's four sums, and of its old state. */
static void blend_gradient(float *restrict d, float *restrict d_h,
                           const float *restrict up, const float *restrict gates,
                           const float *restrict h, int64_t stride, int64_t n,
                           int64_t width) {
  for (int64_t i = 0; i < n; ++i) {
    const float *g = gates + 4 * width * i;
    float *to = d + 4 * width * i;
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) {
      float r = g[j], z = g[width + j], value = g[2 * width + j];
      float u = up[width * i + j];
      float d_value = u * (1.0f - z) * (1.0f - value * value);
      to[j] = d_value * g[3 * width + j] * (r * (1.0f - r));
      to[width + j] = u * (h[stride * i + j] - value) * (z * (1.0f - z));
      to[2 * width + j] = d_value;
      to[3 * width + j] = d_value * r;
      d_h[width * i + j] = u * z;
    }
  }
}

#endif
