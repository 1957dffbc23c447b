// erf(x / sqrt(2)) = x P(x^2) / Q(x^2), absolute error 2e-7; Metal has no erf.
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
