/*
 * Norm of all gradients, and AdamW in one pass over a parameter or over some of its
 * rows.
 *
 *   m = b1 m + (1 - b1) f g      v = b2 v + (1 - b2) (f g)^2      t = t + 1
 *   p = p - lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay p)
 *
 * gradient_norm: inputs g_i [N_i];  outputs norm [];  sizes their number, then N_i
 * adamw_update:  inputs p, g, m, v [N], t, factor f, lr [] float32, moves [] bool
 *                outputs p, m, v [N], t [];  sizes N;  reals b1, b2, eps, decay
 * adamw_rows:    inputs p, m, v [V, D], g [U, D], t, factor f, lr [] float32,
 *                moves [] bool, wanted [U] float32, rows [U] int32 (distinct)
 *                outputs p, m, v [V, D], t [];  sizes V, D, U, whether
 *                rows are given (else U = V);  reals b1, b2, eps
 *
 * Outputs may be the inputs of the same name. Where `moves` is false they equal them.
 * Partial sums of the norm are added in one order, whatever the threads.
 */
#include <stdlib.h>

#include "native.h"
#include "native_math.h"

enum { ADAMW_CHUNK = 1 << 14, NORM_CHUNK = 1 << 15, ADAMW_ROWS = 32 };

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* -- norm -- */

typedef struct {
  const float *const *arrays;
  const int64_t *sizes, *first; /* first chunk of each array */
  double *partial;
  int64_t count;
} Norm;

static void norm_chunk(void *context, int64_t i) {
  const Norm *c = context;
  int64_t a = 0;
  while (a + 1 < c->count && c->first[a + 1] <= i) ++a;
  int64_t start = (i - c->first[a]) * NORM_CHUNK;
  int64_t n = least(NORM_CHUNK, c->sizes[a] - start);
  const float *g = c->arrays[a] + start;
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < n; ++j) sum += g[j] * g[j];
  c->partial[i] = sum;
}

void gradient_norm(const Launch *l) {
  int64_t count = l->sizes[0], chunks = 0;
  const int64_t *sizes = l->sizes + 1;
  int64_t *first = malloc((size_t)count * sizeof *first);
  for (int64_t a = 0; a < count; ++a) {
    first[a] = chunks;
    chunks += (sizes[a] + NORM_CHUNK - 1) / NORM_CHUNK;
  }
  Norm c = {(const float *const *)l->inputs, sizes, first,
            malloc((size_t)(chunks + 1) * sizeof(double)), count};
  l->parallel(chunks, norm_chunk, &c);
  double sum = 0.0;
  for (int64_t i = 0; i < chunks; ++i) sum += c.partial[i];
  *(float *)l->outputs[0] = (float)sqrt(sum);
  free(c.partial);
  free(first);
}

/* -- AdamW -- */

typedef struct {
  float b1, b2, eps, decay, factor, lr;
  float a1, a2; /* 1 - b1, 1 - b2: of the doubles, for 1 - 0.999f is 1e-5 off */
  float c1, c2; /* bias corrections */
} Rates;

/* Rates of an update, and the step count after it. */
static Rates rates_of(const Launch *l, int t_at, double decay, float *t_out) {
  const float *t = l->inputs[t_at], *factor = l->inputs[t_at + 1];
  const float *lr = l->inputs[t_at + 2];
  double b1 = l->reals[0], b2 = l->reals[1], step = (double)*t + 1.0;
  Rates r = {(float)b1,  (float)b2, (float)l->reals[2],
             (float)decay, *factor, *lr,
             (float)(1.0 - b1), (float)(1.0 - b2),
             (float)(1.0 / (1.0 - pow(b1, step))),
             (float)(1.0 / (1.0 - pow(b2, step)))};
  *t_out = (float)step;
  return r;
}

static inline void adamw_span(Rates r, int64_t n, const float *p, const float *g,
                              const float *m, const float *v, float *p_out,
                              float *m_out, float *v_out) {
#pragma omp simd
  for (int64_t j = 0; j < n; ++j) {
    float x = g[j] * r.factor;
    float first = r.b1 * m[j] + r.a1 * x;
    float second = r.b2 * v[j] + r.a2 * x * x;
    float step = first * r.c1 / (sqrtf(second * r.c2) + r.eps);
    p_out[j] = p[j] - r.lr * (step + r.decay * p[j]);
    m_out[j] = first;
    v_out[j] = second;
  }
}

typedef struct {
  Rates rates;
  const float *p, *g, *m, *v;
  float *p_out, *m_out, *v_out;
  int64_t size;
  int moves;
} Update;

static void copy_span(float *to, const float *from, int64_t n) {
  if (to != from) memcpy(to, from, (size_t)n * sizeof *to);
}

static void update_chunk(void *context, int64_t i) {
  const Update *c = context;
  int64_t at = i * ADAMW_CHUNK, n = least(ADAMW_CHUNK, c->size - at);
  if (c->moves) {
    adamw_span(c->rates, n, c->p + at, c->g + at, c->m + at, c->v + at, c->p_out + at,
               c->m_out + at, c->v_out + at);
    return;
  }
  copy_span(c->p_out + at, c->p + at, n);
  copy_span(c->m_out + at, c->m + at, n);
  copy_span(c->v_out + at, c->v + at, n);
}

void adamw_update(const Launch *l) {
  const void *const *in = l->inputs;
  float t, *t_out = l->outputs[3];
  float before = *(const float *)in[4];
  Update c = {rates_of(l, 4, l->reals[3], &t), in[0], in[1], in[2], in[3],
              l->outputs[0], l->outputs[1], l->outputs[2], l->sizes[0],
              *(const uint8_t *)in[7]};
  l->parallel((c.size + ADAMW_CHUNK - 1) / ADAMW_CHUNK, update_chunk, &c);
  *t_out = c.moves ? t : before;
}

/* -- AdamW of some rows -- */

typedef struct {
  Rates rates;
  const float *g, *wanted;
  const int32_t *rows;
  float *p, *m, *v;
  int64_t width, count;
} Rows;

static void rows_chunk(void *context, int64_t i) {
  const Rows *c = context;
  int64_t end = least((i + 1) * ADAMW_ROWS, c->count), d = c->width;
  for (int64_t u = i * ADAMW_ROWS; u < end; ++u) {
    if (c->wanted[u] == 0.0f) continue;
    int64_t at = (c->rows ? c->rows[u] : u) * d;
    float *p = c->p + at, *m = c->m + at, *v = c->v + at;
    adamw_span(c->rates, d, p, c->g + u * d, m, v, p, m, v);
  }
}

typedef struct {
  const float *from[3];
  float *to[3];
  int64_t size;
} Tables;

static void copy_chunk(void *context, int64_t i) {
  const Tables *c = context;
  int64_t at = i * ADAMW_CHUNK, n = least(ADAMW_CHUNK, c->size - at);
  for (int a = 0; a < 3; ++a) copy_span(c->to[a] + at, c->from[a] + at, n);
}

void adamw_rows(const Launch *l) {
  const void *const *in = l->inputs;
  int64_t vocabulary = l->sizes[0], width = l->sizes[1], count = l->sizes[2];
  Tables whole = {{in[0], in[1], in[2]},
                  {l->outputs[0], l->outputs[1], l->outputs[2]},
                  vocabulary * width};
  int is_copy = 0;
  for (int a = 0; a < 3; ++a) is_copy |= whole.to[a] != whole.from[a];
  if (is_copy)
    l->parallel((whole.size + ADAMW_CHUNK - 1) / ADAMW_CHUNK, copy_chunk, &whole);
  float t, *t_out = l->outputs[3];
  float before = *(const float *)in[4];
  int moves = *(const uint8_t *)in[7];
  Rows c = {rates_of(l, 4, 0.0, &t), in[3], in[8], l->sizes[3] ? in[9] : 0,
            l->outputs[0], l->outputs[1], l->outputs[2], width, count};
  if (moves) l->parallel((count + ADAMW_ROWS - 1) / ADAMW_ROWS, rows_chunk, &c);
  *t_out = moves ? t : before;
}
