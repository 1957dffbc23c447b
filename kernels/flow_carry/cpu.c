/*
 * One step of neuron and carrier for N flows, and its gradient; float32.
 *
 *   x = [neuron(position, energy), energy], every GRU layer on x, heads on the last.
 *
 * Flows go through it in tiles of rows small enough to stay in a core's cache between
 * the products; every thread multiplies for its own tiles.
 *
 * flow_carry_forward
 *   inputs:  position [N, 3]; energy [N]; memory [N, 15]; state of each layer [N, H],
 *            none where every state is zero; weights in the order of `Weight`
 *   outputs: out [N, 4]; new state of each layer [N, H]; on demand the tape
 *   sizes:   N, H, layers, neuron channels A, features, inner channels I, no states?
 *   reals:   epsilon of the layer norms
 * flow_carry_backward
 *   inputs:  gradients of out and of each new state, the new states and the tape, then
 *            the forward pass's inputs
 *   outputs: gradients of the forward pass's inputs, in their order
 *
 * The tape holds of each tile: the gates r, z, n and the candidate's hidden part of
 * each layer [rows, 4H], both of the heads' layers before their GELU [rows, H] and
 * [rows, I], and the output before it is made sane [rows, 4].
 */
#include "parts.h"

/* What a tile leaves for its gradient; see the tape. */
typedef struct {
  float *gates, *mixed, *inner, *raw;
  int64_t next; /* from one layer's gates to the next one's */
} Kept;

static Kept kept_on(const Carry *c, const float *tape, int64_t start, int64_t n) {
  int64_t layer = 4 * c->hidden * n, all = c->layers * layer;
  float *gates = (float *)tape + start * (all / n + c->hidden + c->inner + OUT);
  float *mixed = gates + all, *inner = mixed + c->hidden * n;
  return (Kept){gates, mixed, inner, inner + c->inner * n, layer};
}

static int64_t kept_size(const Carry *c) {
  return c->tile * (5 * c->hidden + c->inner + OUT) + 4 * 16;
}

/* In memory of the tile's own, where one layer's gates follow the other's. */
static Kept kept_nowhere(const Carry *c, float **m) {
  int64_t n = c->tile;
  return (Kept){take(m, 4 * n * c->hidden), take(m, n * c->hidden),
                take(m, n * c->inner), take(m, n * OUT), 0};
}

/* Both directions' other memory: the neuron, memory and ones [n, 16], heads' GELUs. */
typedef struct {
  Neuron neuron;
  float *past, *value, *narrow;
} Tile;

static int64_t tile_size(const Carry *c) {
  return c->tile * (PLACE + 6 * c->channels + 2 + 2 * (c->features + 1) + PAST + 1 +
                    c->hidden + c->inner) + 16 * 16;
}

static Tile tile_memory(const Carry *c, float **m) {
  int64_t n = c->tile;
  return (Tile){neuron_memory(c, m), take(m, n * (PAST + 1)), take(m, n * c->hidden),
                take(m, n * c->inner)};
}

static void carry_tile(const Carry *c, const Tile *t, const Kept *k, int64_t start,
                       int64_t n) {
  int64_t width = c->hidden, side = 4 * width, inner = c->inner;
  neuron_forward(c, &t->neuron, start, n);
  const float *x = t->neuron.x;
  for (int64_t layer = 0; layer < c->layers; ++layer) {
    const float *h = c->is_first ? 0 : c->flows[3 + layer] + width * start;
    const float *wh = cell(c, layer, WH);
    float *gates = k->gates + layer * k->next;
    float *state = c->outputs[1 + layer] + width * start;
    int64_t in = cell_input(c, layer);
    float none[width];
    memset(none, 0, sizeof none);
    if (!h) memset(gates, 0, n * side * sizeof *gates);
    times_rows(c, n, 3 * width, in, x, in, cell(c, layer, WX), 0, gates, side);
    if (h) {
      times_rows(c, n, 2 * width, width, h, width, wh, 1, gates, side);
      times_rows(c, n, width, width, h, width, wh + 2 * width * width, 0,
                 gates + 3 * width, side);
    }
    blend(gates, state, h ? h : none, h ? width : 0, cell(c, layer, BIAS),
          cell(c, layer, BHN), n, width);
    x = state;
  }
  past_of(c, t->past, start, n);
  times_rows(c, n, width, PAST + 1, t->past, PAST + 1, weight(c, MEMORY), 0, k->mixed,
             width);
  times_rows(c, n, width, width, x, width, weight(c, TOP), 1, k->mixed, width);
  gelu_values(t->value, k->mixed, n * width);
  times_rows(c, n, inner, width, t->value, width, weight(c, INNER), 0, k->inner, inner);
  add_bias(k->inner, weight(c, INNER_BIAS), n, inner, inner);
  gelu_values(t->narrow, k->inner, n * inner);
  times_rows(c, n, OUT, inner, t->narrow, inner, weight(c, LAST), 0, k->raw, OUT);
  add_bias(k->raw, weight(c, LAST_BIAS), n, OUT, OUT);
  float *out = c->outputs[0] + OUT * start;
  for (int64_t i = 0; i < OUT * n; ++i) out[i] = sane(k->raw[i]);
}

static void forward_tile(void *context, int64_t index) {
  const Carry *c = context;
  const float *tape = c->outputs[1 + c->layers];
  int64_t start = index * c->tile, left = c->rows - start;
  int64_t n = left < c->tile ? left : c->tile;
  float *m = scratch(tile_size(c) + kept_size(c));
  Tile t = tile_memory(c, &m);
  Kept k = tape ? kept_on(c, tape, start, n) : kept_nowhere(c, &m);
  carry_tile(c, &t, &k, start, n);
}

void flow_carry_forward(const Launch *l) {
  Carry c = read_sizes(l);
  c.flows = (const float *const *)l->inputs;
  c.weights = c.flows + 3 + (c.is_first ? 0 : c.layers);
  c.outputs = (float *const *)l->outputs;
  l->parallel(c.tiles, forward_tile, &c);
}

/* -- backward -------------------------------------------------------------------- */

typedef struct {
  Tile t;
  Kept k;
  float *d_out, *d_narrow, *d_wide, *up, *d_x, *d_gates;
  float *const *dw; /* gradients of all weights */
} Backward;

/* The newest state of a layer. */
static const float *new_state(const Carry *c, int64_t layer, int64_t start) {
  return c->above[1 + c->layers + layer] + c->hidden * start;
}

static void heads_backward(const Carry *c, const Backward *b, int64_t start, int64_t n) {
  const Tile *t = &b->t;
  const Kept *k = &b->k;
  int64_t width = c->hidden, inner = c->inner;
  const float *d_out = c->above[0] + OUT * start;
  for (int64_t i = 0; i < OUT * n; ++i)
    b->d_out[i] = fabsf(k->raw[i]) <= LIMIT ? d_out[i] : 0.0f;
  gelu_values(t->narrow, k->inner, n * inner);
  outer(c, n, OUT, inner, b->d_out, OUT, t->narrow, inner, b->dw[LAST]);
  add_columns(b->dw[LAST_BIAS], b->d_out, n, OUT, OUT);
  times_columns(c, n, inner, OUT, b->d_out, OUT, weight(c, LAST), 0, b->d_narrow,
                inner);
  gelu_gradient(b->d_narrow, k->inner, n * inner);
  gelu_values(t->value, k->mixed, n * width);
  outer(c, n, inner, width, b->d_narrow, inner, t->value, width, b->dw[INNER]);
  add_columns(b->dw[INNER_BIAS], b->d_narrow, n, inner, inner);
  times_columns(c, n, width, inner, b->d_narrow, inner, weight(c, INNER), 0, b->d_wide,
                width);
  gelu_gradient(b->d_wide, k->mixed, n * width);
  const float *top = new_state(c, c->layers - 1, start);
  outer(c, n, width, width, b->d_wide, width, top, width, b->dw[TOP]);
  past_of(c, t->past, start, n);
  outer(c, n, width, PAST + 1, b->d_wide, width, t->past, PAST + 1, b->dw[MEMORY]);
  times_columns(c, n, PAST + 1, width, b->d_wide, width, weight(c, MEMORY), 0, t->past,
                PAST + 1);
  float *d_memory = c->outputs[2] + PAST * start;
  for (int64_t i = 0; i < n; ++i)
    memcpy(d_memory + PAST * i, t->past + (PAST + 1) * i, PAST * sizeof *d_memory);
  memcpy(b->up, c->above[c->layers] + width * start, n * width * sizeof *b->up);
  times_columns(c, n, width, width, b->d_wide, width, weight(c, TOP), 1, b->up, width);
}

/* From `up`, the gradient of the last layer's new state, to `d_x` of the first. */
static void cells_backward(const Carry *c, const Backward *b, int64_t start, int64_t n) {
  int64_t width = c->hidden, side = 4 * width, square = width * width;
  for (int64_t layer = c->layers - 1; layer >= 0; --layer) {
    const float *h = c->is_first ? 0 : c->flows[3 + layer] + width * start;
    float none[width], *d_h = h ? c->outputs[3 + layer] + width * start : b->d_wide;
    float *d = b->d_gates;
    float *const *dw = b->dw + CELLS + CELL_WEIGHTS * layer;
    const float *x = layer ? new_state(c, layer - 1, start) : b->t.neuron.x;
    const float *wh = cell(c, layer, WH);
    int64_t in = cell_input(c, layer);
    memset(none, 0, sizeof none);
    blend_gradient(d, d_h, b->up, b->k.gates + layer * b->k.next, h ? h : none,
                   h ? width : 0, n, width);
    outer(c, n, 3 * width, in, d, side, x, in, dw[WX]);
    add_columns(dw[BIAS], d, n, 3 * width, side);
    add_columns(dw[BHN], d + 3 * width, n, width, side);
    if (h) {
      outer(c, n, 2 * width, width, d, side, h, width, dw[WH]);
      outer(c, n, width, width, d + 3 * width, side, h, width, dw[WH] + 2 * square);
      times_columns(c, n, width, 2 * width, d, side, wh, 1, d_h, width);
      times_columns(c, n, width, width, d + 3 * width, side, wh + 2 * square, 1, d_h,
                    width);
    }
    if (layer)
      memcpy(b->up, c->above[layer] + width * start, n * width * sizeof *b->up);
    times_columns(c, n, in, 3 * width, d, side, cell(c, layer, WX), layer ? 1.0f : 0.0f,
                  layer ? b->up : b->d_x, in);
  }
}

static void neuron_backward(const Carry *c, const Backward *b, int64_t start,
                            int64_t n) {
  const Neuron *t = &b->t.neuron;
  float *const *dw = b->dw;
  int64_t a = c->channels, f = c->features, wide = f + 1;
  float *d_x = b->d_x, *d = b->d_wide, *d_position = c->outputs[0] + 3 * start;
  float *d_energy = c->outputs[1] + start;
  for (int64_t i = 0; i < n * wide; ++i)
    d_x[i] = fabsf(t->raw[i]) <= LIMIT ? d_x[i] : 0.0f;
  outer(c, n, f, a, d_x, wide, t->g_1, a, dw[LAYER_2]);
  add_columns(dw[LAYER_2_BIAS], d_x, n, f, wide);
  times_columns(c, n, a, f, d_x, wide, weight(c, LAYER_2), 0, d, a);
  gelu_gradient(d, t->y_1, n * a);
  norm_gradient(d, t->norm_1, t->scale_1, weight(c, NORM_1), dw[NORM_1],
                dw[NORM_1_BIAS], n, a);
  outer(c, n, a, a, d, a, t->g_0, a, dw[LAYER_1]);
  add_columns(dw[LAYER_1_BIAS], d, n, a, a);
  float *lower = t->g_1; /* no longer needed */
  times_columns(c, n, a, a, d, a, weight(c, LAYER_1), 0, lower, a);
  gelu_gradient(lower, t->y_0, n * a);
  norm_gradient(lower, t->norm_0, t->scale_0, weight(c, NORM_0), dw[NORM_0],
                dw[NORM_0_BIAS], n, a);
  outer(c, n, a, PLACE, lower, a, t->place, PLACE, dw[ENTRY]);
  add_columns(dw[ENTRY_BIAS], lower, n, a, a);
  times_columns(c, n, PLACE, a, lower, a, weight(c, ENTRY), 0, t->place, PLACE);
  for (int64_t i = 0; i < n; ++i) {
    for (int j = 0; j < 3; ++j) d_position[3 * i + j] = t->place[PLACE * i + j];
    d_energy[i] = t->place[PLACE * i + 3] + d_x[wide * i + f];
  }
}

/* The tiles of one part, one after the other; their sums are its own. */
static void backward_part(void *context, int64_t part) {
  const Carry *c = context;
  int64_t n = c->tile, width = c->hidden, in = c->features + 1, inner = c->inner;
  int64_t wide = width > c->channels ? width : c->channels;
  int64_t count = CELLS + CELL_WEIGHTS * c->layers;
  float *m = scratch(tile_size(c) + 6 * 16 +
                     n * (OUT + inner + wide + width + in + 4 * width));
  float *dw[count], *own = c->gradients + part * c->weight_size;
  Backward b = {.t = tile_memory(c, &m), .d_out = take(&m, n * OUT),
                .d_narrow = take(&m, n * inner), .d_wide = take(&m, n * wide),
                .up = take(&m, n * width), .d_x = take(&m, n * in),
                .d_gates = take(&m, 4 * n * width), .dw = dw};
  for (int64_t id = 0; id < count; ++id) {
    dw[id] = own;
    own += weight_size(c, id);
  }
  int64_t end = (part + 1) * c->tiles / c->parts;
  for (int64_t i = part * c->tiles / c->parts; i < end; ++i) {
    int64_t start = i * n, left = c->rows - start, rows = left < n ? left : n;
    b.k = kept_on(c, c->above[1 + 2 * c->layers], start, rows);
    neuron_forward(c, &b.t.neuron, start, rows);
    heads_backward(c, &b, start, rows);
    cells_backward(c, &b, start, rows);
    neuron_backward(c, &b, start, rows);
  }
}

/* Sum of all parts' gradients of one weight. */
static void sum_parts(void *context, int64_t id) {
  const Carry *c = context;
  float *total = c->outputs[3 + (c->is_first ? 0 : c->layers) + id];
  const float *first = c->gradients + weight_start(c, id);
  int64_t size = weight_size(c, id);
  memcpy(total, first, size * sizeof *total);
  for (int64_t part = 1; part < c->parts; ++part)
    for (int64_t i = 0; i < size; ++i) total[i] += first[part * c->weight_size + i];
}

void flow_carry_backward(const Launch *l) {
  Carry c = read_sizes(l);
  int64_t weights = CELLS + CELL_WEIGHTS * c.layers;
  c.above = (const float *const *)l->inputs;
  c.flows = c.above + 2 + 2 * c.layers;
  c.weights = c.flows + 3 + (c.is_first ? 0 : c.layers);
  c.outputs = (float *const *)l->outputs;
  /* The same number whatever the threads: so are the sums. */
  c.parts = c.tiles < PARTS ? c.tiles : PARTS;
  c.weight_size = weight_start(&c, weights);
  c.gradients = calloc((size_t)(c.parts * c.weight_size), sizeof *c.gradients);
  l->parallel(c.parts, backward_part, &c);
  l->parallel(weights, sum_parts, &c);
  free(c.gradients);
}
