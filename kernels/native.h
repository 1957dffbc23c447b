/*
 * What a native CPU kernel is given: plain C, one `cpu.c` an operation.
 *
 * A kernel is a function `void NAME(const Launch *launch)`. Its arrays are contiguous
 * in row order, in the order they were passed; the caller has checked their shapes and
 * says the sizes in `sizes`. Outputs are not cleared first.
 */
#ifndef ENERGYFLOW_NATIVE_H
#define ENERGYFLOW_NATIVE_H

#include <stdint.h>

typedef struct Launch {
  const void *const *inputs;
  void *const *outputs;
  const int64_t *sizes; /* whole numbers of the launch */
  const double *reals;  /* real numbers of the launch */
  /* Call body(context, i) for every i < count, on the threads of the pool at once. */
  void (*parallel)(int64_t count, void (*body)(void *context, int64_t i),
                   void *context);
  int64_t threads; /* threads of the pool, the caller's included */
  /* C = alpha op(A) op(B) + beta C of float32, CBLAS convention; on all threads, but
   * inside `parallel` on the thread that calls it. */
  void (*sgemm)(int order, int transpose_a, int transpose_b, int m, int n, int k,
                float alpha, const float *a, int lda, const float *b, int ldb,
                float beta, float *c, int ldc);
} Launch;

enum { ROW_MAJOR = 101, NO_TRANSPOSE = 111, TRANSPOSE = 112 };

#endif
