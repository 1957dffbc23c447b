/*
 * Elementary functions in a form that compilers turn into vector instructions.
 *
 * Coefficients are weighted least-squares fits on Chebyshev nodes: degree 5 for 2^f;
 * in x^2 degree 6 over degree 4 for erf, and degree 4 over degree 4 for tanh.
 */
#ifndef ENERGYFLOW_NATIVE_MATH_H
#define ENERGYFLOW_NATIVE_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* NaN passes: every comparison with it is false. */
static inline float clampf(float x, float low, float high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

/* exp(x), relative error below 1e-6 for |x| <= 10; saturates at 2^-126 and 2^127. */
static inline float fast_expf(float x) {
  float t = clampf(x * 1.4426950408889634f, -126.0f, 127.0f);
  float n = floorf(t + 0.5f);
  float f = t - n;
  float p = 0.0013276460871979867f;
  p = p * f + 0.009675541246025265f;
  p = p * f + 0.05550713307900284f;
  p = p * f + 0.2402211972604147f;
  p = p * f + 0.6931469670436938f;
  p = p * f + 1.000000071654005f;
  int32_t bits = ((int32_t)n + 127) << 23;
  float scale;
  memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

/* erf(x / sqrt(2)), absolute error 4e-7. */
static inline float fast_erf_over_sqrt2f(float x) {
  float b = clampf(x, -5.6f, 5.6f), u = b * b;
  float p = 2.160452513655067e-10f;
  p = p * u + -4.399440995415293e-08f;
  p = p * u + 6.72345679006208e-06f;
  p = p * u + 0.0003649598276899267f;
  p = p * u + 0.009175261569137092f;
  p = p * u + 0.074227389707625f;
  p = p * u + 0.7978842519084369f;
  float q = 6.62520354e-05f;
  q = q * u + 0.00190154554f;
  q = q * u + 0.0297866766f;
  q = q * u + 0.259694358f;
  q = q * u + 1.0f;
  return b * p / q;
}

/* tanh(x), absolute error 4e-7. */
static inline float fast_tanhf(float x) {
  float b = clampf(x, -7.9f, 7.9f), u = b * b;
  float p = 1.5259801526400204e-08f;
  p = p * u + 2.1903505911915795e-05f;
  p = p * u + 0.0035717015871526967f;
  p = p * u + 0.13444456507914979f;
  p = p * u + 0.9999999735940515f;
  float q = 8.530597578930195e-07f;
  q = q * u + 0.0003411752051120514f;
  q = q * u + 0.0261644342987796f;
  q = q * u + 0.4677777869799196f;
  q = q * u + 1.0f;
  return b * p / q;
}

/* 1 / (1 + exp(-x)), absolute error 4e-7. */
static inline float fast_sigmoidf(float x) { return 0.5f + 0.5f * fast_tanhf(0.5f * x); }

/* The exact GELU and its derivative. */
static inline float gelu_exactf(float x) {
  return 0.5f * x * (1.0f + fast_erf_over_sqrt2f(x));
}

static inline float gelu_exact_slopef(float x) {
  float density = fast_expf(-0.5f * x * x) * 0.3989422804014327f;
  return 0.5f + 0.5f * fast_erf_over_sqrt2f(x) + x * density;
}

/* The tanh form: its gate (1 + tanh(u)) / 2, value and derivative. */
static inline float gelu_gatef(float b) {
  float u = 0.7978845608028654f * (b + 0.044715f * b * b * b);
  return 1.0f / (1.0f + fast_expf(-2.0f * u));
}

static inline float gelu_tanhf(float x) {
  return x * gelu_gatef(clampf(x, -10.0f, 10.0f));
}

static inline float gelu_tanh_slopef(float x) {
  float b = clampf(x, -10.0f, 10.0f), gate = gelu_gatef(b);
  float du = 0.7978845608028654f * (1.0f + 0.134145f * b * b);
  return gate + b * (2.0f * gate * (1.0f - gate) * du);
}

#endif
