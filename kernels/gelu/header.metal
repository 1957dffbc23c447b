// erf(x / sqrt(2)) = x P(x^2) / Q(x^2), absolute error 4e-7; Metal has no erf.
inline float erf_of(float x) {
  const float u = metal::clamp(x, -5.6f, 5.6f);
  const float s = u * u;
  float p = 2.160452513655067e-10f;
  p = p * s - 4.399440995415293e-08f;
  p = p * s + 6.72345679006208e-06f;
  p = p * s + 0.0003649598276899267f;
  p = p * s + 0.009175261569137092f;
  p = p * s + 0.074227389707625f;
  p = p * s + 0.7978842519084369f;
  float q = 6.62520354e-05f;
  q = q * s + 0.00190154554f;
  q = q * s + 0.0297866766f;
  q = q * s + 0.259694358f;
  q = q * s + 1.0f;
  return u * p / q;
}

// Brought to |x| <= 10, where the tanh gate is already 0 or 1; NaN stays.
inline float
within_ten(float x) {
  return x > 10.0f ? 10.0f : (x < -10.0f ? -10.0f : x);
}

// (1 + tanh(u)) / 2 with u = sqrt(2 / pi) * (x + 0.044715 * x^3), for |x| <= 10.
inline float
tanh_gate(float x) {
  const float u = 0.79788456f * (x + 0.044715f * x * x * x);
  return 1.0f / (1.0f + metal::precise::exp(-2.0f * u));
}

// Derivative of x * tanh_gate(x), for |x| <= 10.
inline float
tanh_slope(float x) {
  const float gate = tanh_gate(x);
  const float du = 0.79788456f * (1.0f + 0.134145f * x * x);
  return gate + x * (2.0f * gate * (1.0f - gate) * du);
}
