"""The text lint: language Metal lacks, and pointers that would change memory."""

import pytest

from tests.metal_host.harness import LintFault
from tests.metal_host.harness.lint import check

TYPED = "inline float pick(const device float* p, uint i) { return p[i]; }\n"
BOTH = TYPED + "inline float pick(const constant float* p, uint i) { return p[i]; }\n"
TEMPLATED = "template <typename P>\ninline float pick(P p, uint i) { return p[i]; }\n"
READ = "out[0] = pick(data, 1);"


def lint(source: str, header: str = "") -> None:
    check("kernel", header, source, inputs=["data", "weight"], outputs=["out"])


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("double x = 1;", "no double"),
        ("goto done;", "no goto"),
        ("static int calls = 0;", "no static"),
        ("try { } catch (int) { }", "no exceptions"),
        ("throw 1;", "no exceptions"),
        ("int* p = new int[3];", "no heap"),
        ("auto f = [&](int i) { return i; };", "no lambdas"),
        ("out[0] = std::exp(1.0f);", "no std namespace"),
        ("out[0] = expf(1.0f);", "say metal::"),
        ("out[0] = rintf(1.0f);", "say metal::"),
        ("out[0] = erf(1.0f);", "not in Metal"),
        ("memcpy(out, data, 4);", "no C library"),
        ("long long n = 1;", "no long long"),
        ("struct S { virtual void f(); };", "no run-time types"),
        ("float* p = out;", "'p' needs an address space"),
        ("const T* p = data;", "'p' needs an address space"),
    ],
)
def test_language_is_refused(source: str, says: str) -> None:
    with pytest.raises(LintFault, match=says):
        lint("// first line\n" + source)


def test_message_names_the_line() -> None:
    with pytest.raises(LintFault, match=r"\[kernel\] lint: source line 3: `goto end;`"):
        lint("int x = 0;\n/* goto */\n  goto end;\n")


@pytest.mark.parametrize(
    "source",
    [
        "out[0] = static_cast<T>(data[0]);",
        "// no double, no goto, static, new\nout[0] = data[0];",
        "const int renewed = 1, doubled = 2, std = 3;",
        "out[0] = metal::exp(rint(data[0])) + round(weight[0]);",
        "const auto* row = data + 4; out[0] = row[0] * weight[0];",
        "device float* row = out + 4; row[0] = data[0];",
        "threadgroup float part[4]; threadgroup float* p = part; p[0] = 0.0f;",
        "float acc = a * b; int i = n * m; uint2 at = uint2(i * T(2), 0);",
        "((device float*)out)[0] = 1.0f;",
        "thread float& r = local; r = float(x & mask);",
    ],
)
def test_sound_text_passes(source: str) -> None:
    lint(source)


@pytest.mark.parametrize(
    "source",
    [
        "float4 v = ((const device float4*)data)[0];",
        "float4 v = *reinterpret_cast<const device float4*>(data + 4);",
        "const device float* row = data + 4;",
        "const constant float* row = &data[4];",
    ],
)
def test_input_cannot_be_tied_to_one_address_space(source: str) -> None:
    with pytest.raises(LintFault, match="constant when it has fewer than 8 elements"):
        lint(source)


@pytest.mark.parametrize(
    "source",
    [
        "threadgroup float part[4]; device float* p = part;",
        "threadgroup float part[4]; out[0] = ((device float*)part)[0];",
        "threadgroup float* p = out;",
    ],
)
def test_memory_cannot_change_its_address_space(source: str) -> None:
    with pytest.raises(LintFault, match="memory, not in"):
        lint(source)


def test_helper_for_device_pointers_breaks_on_small_inputs() -> None:
    with pytest.raises(LintFault, match="a helper with the pointer's type as template"):
        lint(READ, TYPED)


def test_static_is_refused_in_helpers_only() -> None:
    lint(READ, "static constant int WIDTH = 4;\n" + TEMPLATED)
    with pytest.raises(LintFault, match="header line 2: .*no static"):
        lint(READ, "inline int next() {\nstatic int calls; return calls++; }\n")


def test_helper_cannot_own_threadgroup_memory() -> None:
    with pytest.raises(LintFault, match="belong into the kernel itself"):
        lint("sum();", "inline float sum() { threadgroup float part[4]; return 0; }")


@pytest.mark.parametrize("header", [BOTH, TEMPLATED], ids=["overloads", "template"])
def test_helper_for_every_space_passes(header: str) -> None:
    lint(READ, header)


def test_helper_for_values_passes() -> None:
    lint("out[0] = twice(data[0]);", "inline float twice(float x) { return 2 * x; }")


def test_helper_for_device_pointers_takes_outputs() -> None:
    lint("put(out, 1.0f);", "inline void put(device float* p, float x) { p[0] = x; }")
    with pytest.raises(LintFault, match="'part' is in threadgroup memory"):
        lint(
            "threadgroup float part[2]; put(part, 1.0f);",
            "inline void put(device float* p, float x) { p[0] = x; }",
        )
