/*
 * Three BLAS entry points under their standard names, forwarded to the same
 * routines of the scipy-openblas32 wheel, which carries them with a prefix.
 *
 * MLX's CPU library looks up exactly these three. Loaded globally before MLX,
 * this file's symbols win over the reference BLAS that MLX is linked to.
 * Compiled once by energyflow_mlx/blas.py; int is the wheel's 32-bit integer.
 *
 * energyflow_blas_calls() counts the calls, so that a test and the doctor can
 * show that MLX really comes through here.
 */

static unsigned long calls;

static void count(void) { __atomic_fetch_add(&calls, 1UL, __ATOMIC_RELAXED); }

unsigned long energyflow_blas_calls(void) {
  return __atomic_load_n(&calls, __ATOMIC_RELAXED);
}

void scipy_cblas_sgemm(int order, int transpose_a, int transpose_b, int m, int n,
                       int k, float alpha, const float *a, int lda, const float *b,
                       int ldb, float beta, float *c, int ldc);
void scipy_cblas_dgemm(int order, int transpose_a, int transpose_b, int m, int n,
                       int k, double alpha, const double *a, int lda,
                       const double *b, int ldb, double beta, double *c, int ldc);
void scipy_cblas_cgemm(int order, int transpose_a, int transpose_b, int m, int n,
                       int k, const void *alpha, const void *a, int lda,
                       const void *b, int ldb, const void *beta, void *c, int ldc);

void cblas_sgemm(int order, int transpose_a, int transpose_b, int m, int n, int k,
                 float alpha, const float *a, int lda, const float *b, int ldb,
                 float beta, float *c, int ldc) {
  count();
  scipy_cblas_sgemm(order, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb,
                    beta, c, ldc);
}

void cblas_dgemm(int order, int transpose_a, int transpose_b, int m, int n, int k,
                 double alpha, const double *a, int lda, const double *b, int ldb,
                 double beta, double *c, int ldc) {
  count();
  scipy_cblas_dgemm(order, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb,
                    beta, c, ldc);
}

void cblas_cgemm(int order, int transpose_a, int transpose_b, int m, int n, int k,
                 const void *alpha, const void *a, int lda, const void *b, int ldb,
                 const void *beta, void *c, int ldc) {
  count();
  scipy_cblas_cgemm(order, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb,
                    beta, c, ldc);
}
