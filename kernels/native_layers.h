/*
 * Parts of layers over rows of float32, for kernels that work on tiles of rows.
 */
#ifndef ENERGYFLOW_NATIVE_LAYERS_H
#define ENERGYFLOW_NATIVE_LAYERS_H

#include <stdint.h>

#include "native_math.h"

/* x[i, :] += bias, rows of `width` numbers that lie `stride` apart. */
static inline void add_bias(float *x, const float *bias, int64_t rows, int64_t width,
                            int64_t stride) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < width; ++j) x[i * stride + j] += bias[j];
}

/* total[j] += sum over the rows of x[:, j]. */
static inline void add_columns(float *restrict total, const float *restrict x,
                               int64_t rows, int64_t width, int64_t stride) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < width; ++j) total[j] += x[i * stride + j];
}

/* The exact GELU, y = gelu(x). */
static inline void gelu_values(float *restrict y, const float *restrict x,
                               int64_t size) {
  for (int64_t i = 0; i < size; ++i) y[i] = gelu_exactf(x[i]);
}

/* d *= gelu'(x). */
static inline void gelu_gradient(float *restrict d, const float *restrict x,
                                 int64_t size) {
  for (int64_t i = 0; i < size; ++i) d[i] *= gelu_exact_slopef(x[i]);
}

/*
 * Layer norm of rows: x becomes (x - mean) * inverse with
 * inverse = 1 / sqrt(variance + epsilon), and y = x * weight + bias.
 */
static inline void norm_rows(float *restrict x, float *restrict inverse,
                             float *restrict y, const float *restrict weight,
                             const float *restrict bias, int64_t rows, int64_t width,
                             float epsilon) {
  for (int64_t i = 0; i < rows; ++i) {
    float *row = x + i * width, mean = 0.0f, square = 0.0f;
#pragma omp simd reduction(+ : mean)
    for (int64_t j = 0; j < width; ++j) mean += row[j];
    mean /= (float)width;
#pragma omp simd reduction(+ : square)
    for (int64_t j = 0; j < width; ++j) {
      float off = row[j] - mean;
      square += off * off;
    }
    float scale = 1.0f / sqrtf(square / (float)width + epsilon);
    inverse[i] = scale;
    for (int64_t j = 0; j < width; ++j) {
      row[j] = (row[j] - mean) * scale;
      y[i * width + j] = row[j] * weight[j] + bias[j];
    }
  }
}

/*
 * Gradient of `norm_rows`: d, the gradient of y, becomes that of its input; those of
 * weight and bias are added. `x` and `inverse` are what `norm_rows` left.
 */
static inline void norm_gradient(float *restrict d, const float *restrict x,
                                 const float *restrict inverse,
                                 const float *restrict weight, float *restrict d_weight,
                                 float *restrict d_bias, int64_t rows, int64_t width) {
  for (int64_t i = 0; i < rows; ++i) {
    float *down = d + i * width, mean = 0.0f, along = 0.0f;
    const float *row = x + i * width;
#pragma omp simd reduction(+ : mean, along)
    for (int64_t j = 0; j < width; ++j) {
      float scaled = down[j] * weight[j];
      mean += scaled;
      along += scaled * row[j];
    }
    mean /= (float)width;
    along /= (float)width;
    for (int64_t j = 0; j < width; ++j) {
      float up = down[j];
      d_bias[j] += up;
      d_weight[j] += up * row[j];
      down[j] = inverse[i] * (up * weight[j] - mean - row[j] * along);
    }
  }
}

#endif
