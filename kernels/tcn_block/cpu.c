/*
 * A whole TCN block, on the real tokens only.
 *
 *   n = (x - mean) rstd * gamma + beta,  u = n (1 + scale) + shift
 *   c[t] = the K rows u[t + ahead - (K-1-k) dilation], zero outside the sentence
 *   p = c W1^T + b1,  y = mask (x + drop (gelu(p) W2^T + b2))
 *
 * ahead is 0 when causal; else (K-1)/2 dilation, and u is multiplied by the mask.
 * Places with mask 0 get no row of p and zeros in y; u is formed for those before the
 * last real token of a sentence, because later tokens read them.
 *
 * sizes: B, L, D, H, K, dilation, causal, tanh form, film, drop, keep; reals: eps
 *
 * tcn_block_forward:  x [B,L,D], mask [B,L], gamma, beta [D], W1 [H,K,D], b1 [H],
 *   W2 [D,H], b2 [D], (scale, shift [B,D]), (drop [B,L,D])
 *   -> y [B,L,D], and when keep: p [B*L,H] of which T rows are written,
 *   moments [B*L,2]: mean and rstd by place
 * tcn_block_backward: the same, then p, moments, gy [B,L,D]
 *   -> gx, ggamma, gbeta, gW1, gb1, gW2, gb2, (gscale, gshift), like their arrays
 *
 * A thread takes a tile of sentences through all steps while it is in its cache, with
 * matrix products of its own. The gradients of the weights sum over all tiles: they
 * follow as products over all rows, one thread a part of the result.
 *
 * Measured on a Xeon with AVX-512 (B 256, L 24, 3,748 real tokens, D 384, H 512, K 3;
 * forward and backward, milliseconds of both threads together): 183 with OpenBLAS in
 * each thread, 157 with native_gemm.h. Of OpenBLAS's 183 the products were 165; on two
 * threads of its own over the whole batch they took as long. Tiles of 256 or 512 rows
 * made no difference there, and share a batch of 64 sentences less evenly; vectors of
 * 512 bits for the elementwise work made none.
 */
#include <math.h>
#include <string.h>

#include "native.h"
#include "native_gemm.h"
#include "native_math.h"
#include "native_rows.h"

enum { TILE_ROWS = 128, LEAST_PART = 64, MOST_PART = 512 };

typedef struct {
  const Launch *launch;
  int64_t D, H, K, dilation, ahead;
  int64_t part; /* rows of W1 whose gradient is one thread's work at a time */
  int is_causal, is_tanh, keep;
  float eps;
  Rows rows;
  const float *x, *gamma, *beta, *w1, *b1, *w2, *b2, *scale, *shift, *drop;
  const float *const *saved; /* inputs after those of the forward pass */
  float *first, *second; /* W1 and W2 in panels, the way round the pass needs them */
  float *y, *pre, *moments;
  /* Backward only; of all rows: columns, masked gradient, activation, gradient of p. */
  const float *gy;
  float *columns, *branch, *h, *gpre, *partial;
  float *gx, *ggamma, *gbeta, *gw1, *gb1, *gw2, *gb2, *gscale, *gshift;
} Block;

static float *floats(int64_t count) { return malloc(sizeof(float) * (size_t)(count + 1)); }

/* Two parts for each thread, if they stay worth the packing. Bits do not depend on it. */
static int64_t part_of(int64_t H, int64_t K, int64_t threads) {
  int64_t part = H * (K + 1) / (2 * threads);
  part = part < LEAST_PART ? LEAST_PART : part;
  return part > MOST_PART ? MOST_PART : part;
}

static Block read_block(const Launch *l) {
  const int64_t *s = l->sizes;
  const float *const *in = (const float *const *)l->inputs;
  Block c = {.launch = l,     .D = s[2],         .H = s[3],       .K = s[4],
             .dilation = s[5], .is_causal = (int)s[6], .is_tanh = (int)s[7],
             .keep = (int)s[10], .eps = (float)l->reals[0]};
  c.part = part_of(c.H, c.K, l->threads);
  c.ahead = c.is_causal ? 0 : (c.K - 1) / 2 * c.dilation;
  c.rows = pack_rows(in[1], s[0], s[1], TILE_ROWS);
  c.x = in[0], c.gamma = in[2], c.beta = in[3];
  c.w1 = in[4], c.b1 = in[5], c.w2 = in[6], c.b2 = in[7];
  in += 8;
  if (s[8]) c.scale = in[0], c.shift = in[1], in += 2;
  if (s[9]) c.drop = *in++;
  c.saved = in;
  return c;
}

/* -- rows ------------------------------------------------------------------------- */

static void find_moments(const Block *c, const float *x, float *moments) {
  float sum = 0.0f, squares = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t d = 0; d < c->D; ++d) sum += x[d];
  float mean = sum / (float)c->D;
#pragma omp simd reduction(+ : squares)
  for (int64_t d = 0; d < c->D; ++d) squares += (x[d] - mean) * (x[d] - mean);
  moments[0] = mean;
  moments[1] = 1.0f / sqrtf(squares / (float)c->D + c->eps);
}

/* u of the place `at` of sentence b. */
static void modulate(const Block *c, int64_t b, int64_t at, const float *moments,
                     float *restrict u) {
  const float *x = c->x + at * c->D, m = c->rows.mask[at];
  const float mean = moments[0], rstd = moments[1];
  for (int64_t d = 0; d < c->D; ++d)
    u[d] = (x[d] - mean) * rstd * c->gamma[d] + c->beta[d];
  if (c->scale) {
    const float *scale = c->scale + b * c->D, *shift = c->shift + b * c->D;
    for (int64_t d = 0; d < c->D; ++d) u[d] = u[d] * (1.0f + scale[d]) + shift[d];
  }
  if (c->is_causal || m == 1.0f) return;
  for (int64_t d = 0; d < c->D; ++d) u[d] = m == 0.0f ? 0.0f : u[d] * m;
}

/* Place that tap k of place l reads, or -1 outside the sentence. */
static int64_t source(const Block *c, int64_t l, int64_t k, int64_t span) {
  int64_t from = l + c->ahead - (c->K - 1 - k) * c->dilation;
  return from < 0 || from >= span ? -1 : from;
}

/* Columns of a tile's real tokens, [rows, K*D]. Moments are found or, if given, used. */
static void fill_columns(const Block *c, const Tile *t, int has_moments,
                         float *columns) {
  const int64_t L = c->rows.length, D = c->D;
  const int64_t *at = c->rows.at + t->row, *end = at + t->rows;
  float *u = floats(t->spans * D), *base = u, own[2] = {0};
  for (int64_t b = t->sentence; b < t->end; ++b) {
    int64_t span = c->rows.span[b];
    for (int64_t l = 0; l < span; ++l) {
      float *moments = c->moments ? c->moments + 2 * (b * L + l) : own;
      if (!has_moments) find_moments(c, c->x + (b * L + l) * D, moments);
      modulate(c, b, b * L + l, moments, base + l * D);
    }
    for (; at < end && *at < (b + 1) * L; ++at)
      for (int64_t k = 0; k < c->K; ++k, columns += D) {
        int64_t from = source(c, *at - b * L, k, span);
        if (from < 0)
          memset(columns, 0, sizeof(float) * (size_t)D);
        else
          memcpy(columns, base + from * D, sizeof(float) * (size_t)D);
      }
    base += span * D;
  }
  free(u);
}

/* Zero rows of a tile's sentences: the masked places, or those past the spans. */
static void clear_places(const Block *c, const Tile *t, float *y, int past_spans) {
  const int64_t L = c->rows.length;
  for (int64_t b = t->sentence; b < t->end; ++b)
    for (int64_t l = past_spans ? c->rows.span[b] : 0; l < L; ++l)
      if (past_spans || c->rows.mask[b * L + l] == 0.0f)
        memset(y + (b * L + l) * c->D, 0, sizeof(float) * (size_t)c->D);
}

/* -- forward ---------------------------------------------------------------------- */

static void activate(const Block *c, float *restrict p, float *restrict h) {
  if (c->is_tanh)
    for (int64_t j = 0; j < c->H; ++j) p[j] += c->b1[j], h[j] = gelu_tanhf(p[j]);
  else
    for (int64_t j = 0; j < c->H; ++j) p[j] += c->b1[j], h[j] = gelu_exactf(p[j]);
}

static void finish_row(const Block *c, int64_t at, const float *restrict branch) {
  const float *x = c->x + at * c->D, m = c->rows.mask[at];
  float *restrict y = c->y + at * c->D;
  if (c->drop) {
    const float *drop = c->drop + at * c->D;
    for (int64_t d = 0; d < c->D; ++d)
      y[d] = m * (x[d] + (drop[d] == 0.0f ? 0.0f : drop[d] * (branch[d] + c->b2[d])));
  } else {
    for (int64_t d = 0; d < c->D; ++d) y[d] = m * (x[d] + (branch[d] + c->b2[d]));
  }
}

static void forward_tile(void *context, int64_t i) {
  const Block *c = context;
  const Tile *t = c->rows.tiles + i;
  const int64_t D = c->D, H = c->H, KD = c->K * D, rows = t->rows;
  float *columns = floats(rows * (KD + 2 * H + D));
  float *h = columns + rows * KD, *branch = h + rows * H;
  float *p = c->keep ? c->pre + t->row * H : branch + rows * D;
  fill_columns(c, t, 0, columns);
  multiply_panels(rows, H, KD, (Strided){columns, KD, 1}, c->first, p, H, 0);
  for (int64_t r = 0; r < rows; ++r) activate(c, p + r * H, h + r * H);
  multiply_panels(rows, D, H, (Strided){h, H, 1}, c->second, branch, D, 0);
  for (int64_t r = 0; r < rows; ++r)
    finish_row(c, c->rows.at[t->row + r], branch + r * D);
  clear_places(c, t, c->y, 0);
  free(columns);
}

void tcn_block_forward(const Launch *l) {
  Block c = read_block(l);
  c.y = l->outputs[0];
  c.pre = c.keep ? l->outputs[1] : 0;
  c.moments = c.keep ? l->outputs[2] : 0;
  const int64_t KD = c.K * c.D;
  c.first = packed_panels(l, (Strided){c.w1, 1, KD}, KD, c.H);
  c.second = packed_panels(l, (Strided){c.w2, 1, c.H}, c.H, c.D);
  l->parallel(c.rows.count, forward_tile, &c);
  free(c.first);
  free(c.second);
  free_rows(&c.rows);
}

/* -- backward --------------------------------------------------------------------- */

/* Gradient of the branch at a place, and its share of gb2. */
static void branch_gradient(const Block *c, int64_t at, float *restrict g,
                            float *restrict gb2) {
  const float *gy = c->gy + at * c->D, m = c->rows.mask[at];
  const float *drop = c->drop ? c->drop + at * c->D : 0;
  for (int64_t d = 0; d < c->D; ++d) g[d] = m * gy[d];
  if (drop)
    for (int64_t d = 0; d < c->D; ++d) g[d] *= drop[d];
  for (int64_t d = 0; d < c->D; ++d) gb2[d] += g[d];
}

/* From p and the gradient of h: h, the gradient of p, and its share of gb1. */
static void activation_gradient(const Block *c, const float *restrict p,
                                const float *restrict gh, float *restrict h,
                                float *restrict gp, float *restrict gb1) {
  if (c->is_tanh)
    for (int64_t j = 0; j < c->H; ++j)
      h[j] = gelu_tanhf(p[j]), gp[j] = gh[j] * gelu_tanh_slopef(p[j]);
  else
    for (int64_t j = 0; j < c->H; ++j)
      h[j] = gelu_exactf(p[j]), gp[j] = gh[j] * gelu_exact_slopef(p[j]);
  for (int64_t j = 0; j < c->H; ++j) gb1[j] += gp[j];
}

/* Gradients that pass through FiLM: gu becomes the gradient of n. */
static void film_gradient(const Block *c, int64_t b, int64_t at, float *restrict gu) {
  const float *x = c->x + at * c->D, *scale = c->scale + b * c->D;
  const float mean = c->moments[2 * at], rstd = c->moments[2 * at + 1];
  float *restrict gscale = c->gscale + b * c->D, *restrict gshift = c->gshift + b * c->D;
  for (int64_t d = 0; d < c->D; ++d) {
    float n = (x[d] - mean) * rstd * c->gamma[d] + c->beta[d];
    gscale[d] += gu[d] * n;
    gshift[d] += gu[d];
    gu[d] *= 1.0f + scale[d];
  }
}

/* gx = rstd (g - mean(g) - xhat mean(g xhat)) + mask gy, with g = gn gamma. */
static void norm_gradient(const Block *c, int64_t at, const float *restrict gn,
                          float *restrict ggamma, float *restrict gbeta) {
  const float *x = c->x + at * c->D, *gy = c->gy + at * c->D, m = c->rows.mask[at];
  const float mean = c->moments[2 * at], rstd = c->moments[2 * at + 1];
  const float share = 1.0f / (float)c->D;
  float *restrict gx = c->gx + at * c->D, sum = 0.0f, along = 0.0f;
#pragma omp simd reduction(+ : sum, along)
  for (int64_t d = 0; d < c->D; ++d) {
    float xhat = (x[d] - mean) * rstd, g = gn[d] * c->gamma[d];
    sum += g;
    along += g * xhat;
    gbeta[d] += gn[d];
    ggamma[d] += gn[d] * xhat;
  }
  sum *= share, along *= share;
  for (int64_t d = 0; d < c->D; ++d) {
    float xhat = (x[d] - mean) * rstd;
    float through = rstd * (gn[d] * c->gamma[d] - sum - xhat * along);
    gx[d] = m == 0.0f ? through : through + m * gy[d];
  }
}

/* Sum the columns' gradients back to u, and on to x, sentence by sentence. */
static void input_gradient(const Block *c, const Tile *t, const float *gcolumns,
                           float *ggamma, float *gbeta) {
  const int64_t L = c->rows.length, D = c->D;
  const int64_t *at = c->rows.at + t->row, *end = at + t->rows;
  float *gu = floats(L * D);
  for (int64_t b = t->sentence; b < t->end; ++b) {
    int64_t span = c->rows.span[b];
    memset(gu, 0, sizeof(float) * (size_t)(span * D));
    for (; at < end && *at < (b + 1) * L; ++at)
      for (int64_t k = 0; k < c->K; ++k, gcolumns += D) {
        int64_t from = source(c, *at - b * L, k, span);
        if (from < 0) continue;
        float *restrict row = gu + from * D;
        for (int64_t d = 0; d < D; ++d) row[d] += gcolumns[d];
      }
    if (c->gscale) {
      memset(c->gscale + b * D, 0, sizeof(float) * (size_t)D);
      memset(c->gshift + b * D, 0, sizeof(float) * (size_t)D);
    }
    for (int64_t l = 0; l < span; ++l) {
      float *row = gu + l * D, m = c->rows.mask[b * L + l];
      if (!c->is_causal)
        for (int64_t d = 0; d < D; ++d) row[d] *= m;
      if (c->gscale) film_gradient(c, b, b * L + l, row);
      norm_gradient(c, b * L + l, row, ggamma, gbeta);
    }
  }
  free(gu);
}

static void backward_tile(void *context, int64_t i) {
  const Block *c = context;
  const Tile *t = c->rows.tiles + i;
  const int64_t D = c->D, H = c->H, KD = c->K * D, rows = t->rows;
  float *g = c->branch + t->row * D, *gp = c->gpre + t->row * H;
  float *gb1 = c->partial + i * (H + 3 * D), *gb2 = gb1 + H;
  float *gcolumns = floats(rows * KD), *gh = floats(rows * H);
  memset(gb1, 0, sizeof(float) * (size_t)(H + 3 * D));
  fill_columns(c, t, 1, c->columns + t->row * KD);
  for (int64_t r = 0; r < rows; ++r)
    branch_gradient(c, c->rows.at[t->row + r], g + r * D, gb2);
  multiply_panels(rows, H, D, (Strided){g, D, 1}, c->second, gh, H, 0);
  for (int64_t r = 0; r < rows; ++r)
    activation_gradient(c, c->pre + (t->row + r) * H, gh + r * H,
                        c->h + (t->row + r) * H, gp + r * H, gb1);
  multiply_panels(rows, KD, H, (Strided){gp, H, 1}, c->first, gcolumns, KD, 0);
  input_gradient(c, t, gcolumns, gb2 + D, gb2 + 2 * D);
  clear_places(c, t, c->gx, 1);
  free(gh);
  free(gcolumns);
}

/* Part i of gW1: a tap and some of its rows; after those, the same rows of gW2^T. */
static void weight_part(void *context, int64_t i) {
  const Block *c = context;
  const int64_t D = c->D, H = c->H, KD = c->K * D, T = c->rows.rows;
  const int64_t k = i % (c->K + 1), start = i / (c->K + 1) * c->part;
  const int64_t n = H - start < c->part ? H - start : c->part;
  if (k < c->K)
    multiply_long(n, D, T, (Strided){c->gpre + start, 1, H},
                  (Strided){c->columns + k * D, KD, 1},
                  c->gw1 + start * KD + k * D, KD);
  else
    multiply_long(D, n, T, (Strided){c->branch, 1, D}, (Strided){c->h + start, H, 1},
                  c->gw2 + start, H);
}

static void add_partials(const Block *c, int64_t offset, int64_t count, float *total) {
  memset(total, 0, sizeof(float) * (size_t)count);
  for (int64_t i = 0; i < c->rows.count; ++i) {
    const float *part = c->partial + i * (c->H + 3 * c->D) + offset;
    for (int64_t j = 0; j < count; ++j) total[j] += part[j];
  }
}

static void weight_gradients(const Block *c) {
  const int64_t D = c->D, H = c->H;
  add_partials(c, 0, H, c->gb1);
  add_partials(c, H, D, c->gb2);
  add_partials(c, H + D, D, c->ggamma);
  add_partials(c, H + 2 * D, D, c->gbeta);
  if (c->rows.rows == 0) {
    memset(c->gw1, 0, sizeof(float) * (size_t)(H * c->K * D));
    memset(c->gw2, 0, sizeof(float) * (size_t)(D * H));
    return;
  }
  const int64_t parts = (H + c->part - 1) / c->part * (c->K + 1);
  c->launch->parallel(parts, weight_part, (void *)c);
}

void tcn_block_backward(const Launch *l) {
  Block c = read_block(l);
  float *const *out = (float *const *)l->outputs;
  c.pre = (float *)c.saved[0], c.moments = (float *)c.saved[1], c.gy = c.saved[2];
  c.gx = out[0], c.ggamma = out[1], c.gbeta = out[2], c.gw1 = out[3], c.gb1 = out[4];
  c.gw2 = out[5], c.gb2 = out[6];
  if (c.scale) c.gscale = out[7], c.gshift = out[8];
  const int64_t T = c.rows.rows, KD = c.K * c.D;
  c.columns = floats(T * (KD + c.D + 2 * c.H));
  c.branch = c.columns + T * KD;
  c.h = c.branch + T * c.D;
  c.gpre = c.h + T * c.H;
  c.partial = floats(c.rows.count * (c.H + 3 * c.D));
  c.first = packed_panels(l, (Strided){c.w1, KD, 1}, c.H, KD);
  c.second = packed_panels(l, (Strided){c.w2, c.H, 1}, c.D, c.H);
  l->parallel(c.rows.count, backward_tile, &c);
  free(c.first);
  free(c.second);
  weight_gradients(&c);
  free(c.columns);
  free(c.partial);
  free_rows(&c.rows);
}
