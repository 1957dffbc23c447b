/*
 * Cross entropy of linear logits, and its gradients, the logits never kept.
 *
 *   z = h W^T + b      loss = sum_t w_t (logsumexp(z_t) - sum_v y_tv z_tv)
 *   y_t = (1 - s) onehot(target_t) + s / V
 *
 * linear_cross_entropy: inputs  h [T, D], W [V, D], b [V], targets [T] int32, w [T]
 *                       outputs loss [], with gradients also dh [T, D], dW [V, D], db [V]
 *                       sizes   T, V, D, whether gradients are wanted;  reals s
 *
 * Rows of weight 0 are left out: they may hold anything, and their dh is 0. The rest is
 * packed and goes through in chunks of LCE_ROWS. The vocabulary is cut into parts; a
 * part's product, exponentials and gradients are the work of one thread, and what the
 * parts know of a row is added in their order. Equal shapes, weights and threads give
 * equal bits.
 */
#include <stdlib.h>

#include "native.h"
#include "native_math.h"

enum { LCE_ROWS = 512, LCE_PART = 1024 };

typedef struct {
  const Launch *l;
  const float *h, *weight, *bias, *row_weights;
  const int32_t *targets;
  float *dh, *dweight, *dbias;
  float smoothing;
  int64_t vocabulary, width, parts, part_width;
  /* the present chunk */
  int64_t first, count;
  const int64_t *rows; /* of a weight other than 0 */
  float *packed;       /* [LCE_ROWS, D] */
  float *logits;       /* parts of [LCE_ROWS, part_width] */
  float *partial;      /* parts of [LCE_ROWS, D] */
  float *peak, *total; /* [parts, LCE_ROWS] */
  float *sum;          /* [parts, LCE_ROWS], of the logits, for smoothing */
  float *chosen;       /* [LCE_ROWS], logit of the target */
  float *scale, *shift; /* [LCE_ROWS]: exp(z - peak of the part) -> weighted softmax */
} Lce;

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t part_size(const Lce *c, int64_t part) {
  return least(c->part_width, c->vocabulary - part * c->part_width);
}

static void pack_rows(void *context, int64_t i) {
  const Lce *c = context;
  int64_t end = least((i + 1) * 64, c->count), d = c->width;
  for (int64_t r = i * 64; r < end; ++r)
    memcpy(c->packed + r * d, c->h + c->rows[c->first + r] * d, (size_t)d * sizeof(float));
}

/* Logits of a part, then in their place exp(z - peak); peak and sums of each row. */
static void logits_of_part(void *context, int64_t part) {
  const Lce *c = context;
  int64_t start = part * c->part_width, n = part_size(c, part), d = c->width;
  float *z = c->logits + part * LCE_ROWS * c->part_width;
  c->l->sgemm(ROW_MAJOR, NO_TRANSPOSE, TRANSPOSE, (int)c->count, (int)n, (int)d, 1.0f,
              c->packed, (int)d, c->weight + start * d, (int)d, 0.0f, z, (int)n);
  const float *bias = c->bias + start;
  for (int64_t r = 0; r < c->count; ++r) {
    float *row = z + r * n, peak = -INFINITY, total = 0.0f, sum = 0.0f;
#pragma omp simd reduction(max : peak)
    for (int64_t j = 0; j < n; ++j) {
      row[j] += bias[j];
      peak = row[j] > peak ? row[j] : peak;
    }
    if (c->smoothing > 0.0f) {
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < n; ++j) sum += row[j];
    }
    int64_t target = c->targets[c->rows[c->first + r]] - start;
    if (target >= 0 && target < n) c->chosen[r] = row[target];
    float from = peak == -INFINITY ? 0.0f : peak;
#pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < n; ++j) {
      row[j] = fast_expf(row[j] - from);
      total += row[j];
    }
    c->peak[part * LCE_ROWS + r] = from;
    c->total[part * LCE_ROWS + r] = total;
    c->sum[part * LCE_ROWS + r] = sum;
  }
}

/* Loss of the chunk's rows from what the parts found; scale of each row's softmax. */
static double finish_rows(Lce *c) {
  double loss = 0.0, s = c->smoothing;
  for (int64_t r = 0; r < c->count; ++r) {
    float peak = -INFINITY;
    for (int64_t part = 0; part < c->parts; ++part) {
      float own = c->peak[part * LCE_ROWS + r];
      peak = own > peak ? own : peak;
    }
    double total = 0.0, sum = 0.0;
    for (int64_t part = 0; part < c->parts; ++part) {
      int64_t at = part * LCE_ROWS + r;
      total += (double)c->total[at] * exp((double)(c->peak[at] - peak));
      sum += c->sum[at];
    }
    double weight = c->row_weights[c->rows[c->first + r]];
    double log_total = log(total) + (double)peak;
    double row = log_total - (1.0 - s) * (double)c->chosen[r];
    if (s > 0.0) row -= s * sum / (double)c->vocabulary;
    loss += weight * row;
    c->scale[r] = (float)(weight / total);
    c->shift[r] = peak;
  }
  return loss;
}

/* dz = w (softmax - y) in place of the exponentials; dW, db and this part's dh. */
static void gradients_of_part(void *context, int64_t part) {
  const Lce *c = context;
  int64_t start = part * c->part_width, n = part_size(c, part), d = c->width;
  float *z = c->logits + part * LCE_ROWS * c->part_width, *db = c->dbias + start;
  for (int64_t r = 0; r < c->count; ++r) {
    float *row = z + r * n, weight = c->row_weights[c->rows[c->first + r]];
    float factor =
        c->scale[r] * expf(c->peak[part * LCE_ROWS + r] - c->shift[r]);
    float even = weight * c->smoothing / (float)c->vocabulary;
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) row[j] = row[j] * factor - even;
    int64_t target = c->targets[c->rows[c->first + r]] - start;
    if (target >= 0 && target < n) row[target] -= weight * (1.0f - c->smoothing);
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) db[j] += row[j];
  }
  c->l->sgemm(ROW_MAJOR, TRANSPOSE, NO_TRANSPOSE, (int)n, (int)d, (int)c->count, 1.0f, z,
              (int)n, c->packed, (int)d, c->first == 0 ? 0.0f : 1.0f,
              c->dweight + start * d, (int)d);
  c->l->sgemm(ROW_MAJOR, NO_TRANSPOSE, NO_TRANSPOSE, (int)c->count, (int)d, (int)n, 1.0f,
              z, (int)n, c->weight + start * d, (int)d, 0.0f,
              c->partial + part * LCE_ROWS * d, (int)d);
}

static void add_parts(void *context, int64_t i) {
  const Lce *c = context;
  int64_t end = least((i + 1) * 64, c->count), d = c->width;
  for (int64_t r = i * 64; r < end; ++r) {
    float *to = c->dh + c->rows[c->first + r] * d;
    memcpy(to, c->partial + r * d, (size_t)d * sizeof *to);
    for (int64_t part = 1; part < c->parts; ++part) {
      const float *from = c->partial + (part * LCE_ROWS + r) * d;
#pragma omp simd
      for (int64_t j = 0; j < d; ++j) to[j] += from[j];
    }
  }
}

static void clear_chunk(void *context, int64_t i) {
  const Lce *c = context;
  int64_t end = least((i + 1) * 64, c->count), d = c->width;
  for (int64_t r = i * 64; r < end; ++r)
    if (c->row_weights[r] == 0.0f) memset(c->dh + r * d, 0, (size_t)d * sizeof(float));
}

static int64_t blocks(int64_t rows) { return (rows + 63) / 64; }

void linear_cross_entropy(const Launch *l) {
  const void *const *in = l->inputs;
  int64_t tokens = l->sizes[0], vocabulary = l->sizes[1], width = l->sizes[2];
  int wants_gradients = l->sizes[3] != 0;
  int64_t rounds = (vocabulary + l->threads * LCE_PART - 1) / (l->threads * LCE_PART);
  int64_t part_width = (vocabulary + l->threads * rounds - 1) / (l->threads * rounds);
  int64_t parts = (vocabulary + part_width - 1) / part_width;

  int64_t *rows = malloc((size_t)(tokens + 1) * sizeof *rows), real = 0;
  const float *row_weights = in[4];
  for (int64_t t = 0; t < tokens; ++t)
    if (row_weights[t] != 0.0f) rows[real++] = t;

  int64_t numbers = LCE_ROWS * (width * (1 + parts) + parts * (part_width + 3) + 3);
  float *memory = malloc((size_t)numbers * sizeof *memory), *next = memory;
  Lce c = {.l = l, .h = in[0], .weight = in[1], .bias = in[2], .targets = in[3],
           .row_weights = row_weights, .smoothing = (float)l->reals[0],
           .vocabulary = vocabulary, .width = width, .parts = parts,
           .part_width = part_width, .rows = rows};
  c.packed = next, next += LCE_ROWS * width;
  c.partial = next, next += LCE_ROWS * width * parts;
  c.logits = next, next += LCE_ROWS * part_width * parts;
  c.peak = next, next += LCE_ROWS * parts;
  c.total = next, next += LCE_ROWS * parts;
  c.sum = next, next += LCE_ROWS * parts;
  c.chosen = next, next += LCE_ROWS;
  c.scale = next, next += LCE_ROWS;
  c.shift = next;
  if (wants_gradients) {
    c.dh = l->outputs[1], c.dweight = l->outputs[2], c.dbias = l->outputs[3];
    c.count = tokens;
    l->parallel(blocks(tokens), clear_chunk, &c);
    memset(c.dbias, 0, (size_t)vocabulary * sizeof(float));
    if (real == 0) memset(c.dweight, 0, (size_t)(vocabulary * width) * sizeof(float));
  }
  double loss = 0.0;
  for (c.first = 0; c.first < real; c.first += LCE_ROWS) {
    c.count = least(LCE_ROWS, real - c.first);
    l->parallel(blocks(c.count), pack_rows, &c);
    l->parallel(parts, logits_of_part, &c);
    loss += finish_rows(&c);
    if (!wants_gradients) continue;
    l->parallel(parts, gradients_of_part, &c);
    l->parallel(blocks(c.count), add_parts, &c);
  }
  *(float *)l->outputs[0] = (float)loss;
  free(memory);
  free(rows);
}
