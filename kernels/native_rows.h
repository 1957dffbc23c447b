/*
 * The tokens of a padded batch that need work, packed: sentences one after the other,
 * cut into tiles of whole sentences. A tile is one thread's work; where the cuts are
 * depends on the mask alone, so results do not depend on the number of threads.
 */
#ifndef ENERGYFLOW_NATIVE_ROWS_H
#define ENERGYFLOW_NATIVE_ROWS_H

#include <stdint.h>
#include <stdlib.h>

typedef struct {
  int64_t sentence, end;  /* sentences [sentence, end) */
  int64_t row, rows;      /* their real tokens among all packed rows */
  int64_t spans;          /* sum of their spans */
} Tile;

typedef struct {
  int64_t batch, length;
  const float *mask;
  int64_t *span;  /* [B] places up to the last real token, its own included */
  int64_t *at;    /* [T] place b * L + l of each packed row */
  Tile *tiles;
  int64_t count, rows; /* tiles; packed rows T */
} Rows;

/* Pack the rows whose mask is not 0; a tile is closed once it has `target` rows. */
static inline Rows pack_rows(const float *mask, int64_t batch, int64_t length,
                             int64_t target) {
  Rows r = {batch, length, mask, 0, 0, 0, 0, 0};
  r.span = malloc(sizeof(int64_t) * (size_t)(batch + batch * length + 1));
  r.at = r.span + batch;
  r.tiles = malloc(sizeof(Tile) * (size_t)(batch + 1));
  Tile tile = {0, 0, 0, 0, 0};
  for (int64_t b = 0; b < batch; ++b) {
    r.span[b] = 0;
    for (int64_t l = 0; l < length; ++l) {
      if (mask[b * length + l] == 0.0f) continue;
      r.at[r.rows++] = b * length + l;
      r.span[b] = l + 1;
    }
    tile.end = b + 1;
    tile.rows = r.rows - tile.row;
    tile.spans += r.span[b];
    if (tile.rows >= target || b + 1 == batch) {
      r.tiles[r.count++] = tile;
      tile = (Tile){b + 1, b + 1, r.rows, 0, 0};
    }
  }
  return r;
}

static inline void free_rows(Rows *r) {
  free(r->span);
  free(r->tiles);
}

#endif
