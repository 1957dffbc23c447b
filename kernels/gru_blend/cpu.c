/*
 * New hidden state of a GRU from the sums of its gates, and its gradient; float32.
 *
 *   r = sigmoid(x_r + h_r + b_r), z = sigmoid(x_z + h_z + b_z)
 *   n = tanh(x_n + b_n + r * (h_n + bhn)), h' = n + z * (h - n)
 *
 * gru_blend_forward:  inputs h [N, H]; from_x, from_h [N, 3H]; b [3H]; bhn [H];
 *                     outputs blended [N, H]; sizes N, H, rows of a part
 * gru_blend_backward: inputs g [N, H] and those of the forward pass; outputs d_h [N, H];
 *                     d_x, d_y [N, 3H]; partial [parts, 4, H], the sums over a part's
 *                     rows of the gradients of r, z, n and of the hidden part
 */
#include "native.h"
#include "native_math.h"

typedef struct {
  const float *g, *h, *x, *y, *b, *bhn;
  float *blended, *d_h, *d_x, *d_y, *partial;
  int64_t rows, width, part;
} Blend;

static void forward_part(void *context, int64_t index) {
  const Blend *c = context;
  int64_t w = c->width, end = (index + 1) * c->part;
  const float *b = c->b;
  if (end > c->rows) end = c->rows;
  for (int64_t i = index * c->part; i < end; ++i) {
    const float *x = c->x + 3 * w * i, *y = c->y + 3 * w * i, *h = c->h + w * i;
    float *blended = c->blended + w * i;
#pragma omp simd
    for (int64_t j = 0; j < w; ++j) {
      float r = fast_sigmoidf(x[j] + y[j] + b[j]);
      float z = fast_sigmoidf(x[w + j] + y[w + j] + b[w + j]);
      float hidden = y[2 * w + j] + c->bhn[j];
      float n = fast_tanhf(x[2 * w + j] + b[2 * w + j] + r * hidden);
      blended[j] = n + z * (h[j] - n);
    }
  }
}

static void backward_part(void *context, int64_t index) {
  const Blend *c = context;
  int64_t w = c->width, end = (index + 1) * c->part;
  const float *b = c->b;
  float *total = c->partial + 4 * w * index;
  memset(total, 0, 4 * w * sizeof *total);
  if (end > c->rows) end = c->rows;
  for (int64_t i = index * c->part; i < end; ++i) {
    const float *x = c->x + 3 * w * i, *y = c->y + 3 * w * i, *h = c->h + w * i;
    const float *g = c->g + w * i;
    float *d_h = c->d_h + w * i, *d_x = c->d_x + 3 * w * i, *d_y = c->d_y + 3 * w * i;
#pragma omp simd
    for (int64_t j = 0; j < w; ++j) {
      float r = fast_sigmoidf(x[j] + y[j] + b[j]);
      float z = fast_sigmoidf(x[w + j] + y[w + j] + b[w + j]);
      float hidden = y[2 * w + j] + c->bhn[j];
      float n = fast_tanhf(x[2 * w + j] + b[2 * w + j] + r * hidden);
      float d_n = g[j] * (1.0f - z) * (1.0f - n * n);
      float d_r = d_n * hidden * (r * (1.0f - r));
      float d_z = g[j] * (h[j] - n) * (z * (1.0f - z));
      d_h[j] = g[j] * z;
      d_x[j] = d_y[j] = d_r;
      d_x[w + j] = d_y[w + j] = d_z;
      d_x[2 * w + j] = d_n;
      d_y[2 * w + j] = d_n * r;
      total[j] += d_r;
      total[w + j] += d_z;
      total[2 * w + j] += d_n;
      total[3 * w + j] += d_n * r;
    }
  }
}

void gru_blend_forward(const Launch *l) {
  const float *const *in = (const float *const *)l->inputs;
  Blend c = {.h = in[0], .x = in[1], .y = in[2], .b = in[3], .bhn = in[4],
             .blended = l->outputs[0], .rows = l->sizes[0], .width = l->sizes[1],
             .part = l->sizes[2]};
  l->parallel((c.rows + c.part - 1) / c.part, forward_part, &c);
}

void gru_blend_backward(const Launch *l) {
  const float *const *in = (const float *const *)l->inputs;
  Blend c = {.g = in[0], .h = in[1], .x = in[2], .y = in[3], .b = in[4], .bhn = in[5],
             .d_h = l->outputs[0], .d_x = l->outputs[1], .d_y = l->outputs[2],
             .partial = l->outputs[3], .rows = l->sizes[0], .width = l->sizes[1],
             .part = l->sizes[2]};
  l->parallel((c.rows + c.part - 1) / c.part, backward_part, &c);
}
