// A C function as an operation of the MLX graph on the CPU, and the threads it uses.
//
// The one primitive here is the CPU's counterpart of `mx.fast.metal_kernel`: Python
// names a function of the compiled `kernels/*/cpu.c`, the arrays and the sizes; the
// function runs when MLX evaluates the graph, on the stream's thread. Gradients are
// given in Python, by `mx.custom_function`.
//
// Compiled once by energyflow_mlx/runtime/native.py against the headers of the
// installed MLX; nanobind lets its arrays cross between the two modules.

#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "mlx/allocator.h"
#include "mlx/array.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/ops.h"
#include "mlx/primitives.h"
#include "mlx/utils.h"
#include "native.h"

extern "C" void cblas_sgemm(int, int, int, int, int, int, float, const float *, int,
                            const float *, int, float, float *, int);

namespace nb = nanobind;
namespace mx = mlx::core;

namespace {

using Body = void (*)(void *, int64_t);

// How many threads one matrix product takes; null where the library is not asked.
int (*get_blas_threads)() = nullptr;
void (*set_blas_threads)(int) = nullptr;

// In a parallel region each product runs on the thread that calls it: the region has
// the threads already, and OpenBLAS lets products run at once only so.
class OneBlasThread {
 public:
  OneBlasThread() {
    if (set_blas_threads == nullptr) return;
    before_ = get_blas_threads();
    set_blas_threads(1);
  }
  ~OneBlasThread() {
    if (set_blas_threads != nullptr) set_blas_threads(before_);
  }

 private:
  int before_ = 1;
};

// Threads that wait for parallel regions. A region that starts while another runs, on
// a second stream, is done by its caller alone.
class Pool {
 public:
  explicit Pool(int64_t threads) : threads_(threads) {
    for (int64_t i = 1; i < threads; ++i)
      std::thread([this] { wait(); }).detach();
  }

  int64_t threads() const { return threads_; }

  void run(int64_t count, Body body, void *context) {
    std::unique_lock<std::mutex> busy(region_, std::try_to_lock);
    if (!busy || threads_ == 1 || count < 2) {
      for (int64_t i = 0; i < count; ++i) body(context, i);
      return;
    }
    const OneBlasThread one;
    {
      std::lock_guard<std::mutex> hold(mutex_);
      body_ = body;
      context_ = context;
      count_ = count;
      next_ = 0;
      inside_ = threads_ - 1;
      ++round_;
    }
    start_.notify_all();
    work();
    std::unique_lock<std::mutex> hold(mutex_);
    done_.wait(hold, [this] { return inside_ == 0; });
  }

 private:
  void work() {
    for (int64_t i; (i = next_.fetch_add(1)) < count_;) body_(context_, i);
  }

  void wait() {
    int64_t seen = 0;
    for (;;) {
      {
        std::unique_lock<std::mutex> hold(mutex_);
        start_.wait(hold, [&] { return round_ != seen; });
        seen = round_;
      }
      work();
      std::lock_guard<std::mutex> hold(mutex_);
      if (--inside_ == 0) done_.notify_one();
    }
  }

  const int64_t threads_;
  std::mutex region_, mutex_;
  std::condition_variable start_, done_;
  Body body_ = nullptr;
  void *context_ = nullptr;
  std::atomic<int64_t> next_{0};
  int64_t count_ = 0, inside_ = 0, round_ = 0;
};

// Never destroyed: its threads may still wait when the process ends.
Pool *pool = nullptr;

void parallel(int64_t count, Body body, void *context) {
  pool->run(count, body, context);
}

void copy_run(char *to, const char *from, int64_t count, int64_t stride, size_t bytes) {
  if (stride == 1) {
    std::memcpy(to, from, count * bytes);
  } else if (bytes == 4) {
    for (int64_t i = 0; i < count; ++i)
      std::memcpy(to + 4 * i, from + 4 * i * stride, 4);
  } else {
    const auto step = stride * static_cast<int64_t>(bytes);
    for (int64_t i = 0; i < count; ++i)
      std::memcpy(to + bytes * i, from + step * i, bytes);
  }
}

// Copy of an array in row order. A node of the graph that made it would hold the memory
// of arrays that need none, and so keep outputs from reusing it.
mx::array row_order(const mx::array &x, mx::cpu::CommandEncoder &encoder) {
  mx::array y(x.shape(), x.dtype(), nullptr, {});
  y.set_data(mx::allocator::malloc(y.nbytes()));
  encoder.dispatch([from = x.data<char>(), to = y.data<char>(), shape = x.shape(),
                    strides = x.strides(), bytes = x.itemsize(), count = x.size()] {
    const int last = static_cast<int>(shape.size()) - 1;  // one number is in order
    std::vector<int> index(shape.size(), 0);
    const char *at = from;
    for (size_t done = 0; done < count; done += shape[last]) {
      copy_run(to + done * bytes, at, shape[last], strides[last], bytes);
      for (int axis = last - 1; axis >= 0; --axis) {
        const auto step = strides[axis] * static_cast<int64_t>(bytes);
        at += step;
        if (++index[axis] < shape[axis]) break;
        at -= step * shape[axis];
        index[axis] = 0;
      }
    }
  });
  return y;
}

using Kernel = void (*)(const Launch *);

// Whether somebody needs the last output of a kernel. A gradient says so while the
// graph is built, so before the kernel runs, unless the graph was evaluated early.
class Kept {
 public:
  // False when the kernel has already run without it.
  bool want() {
    if (!has_run_) is_wanted_ = true;
    return is_wanted_;
  }
  bool run() {
    has_run_ = true;
    return is_wanted_;
  }

 private:
  std::atomic<bool> is_wanted_{false}, has_run_{false};
};

class NativeKernel : public mx::Primitive {
 public:
  NativeKernel(mx::Stream stream, std::string name, uintptr_t address,
               std::vector<int64_t> sizes, std::vector<double> reals,
               std::vector<std::pair<int, int>> reuse, std::shared_ptr<Kept> last)
      : Primitive(stream),
        name_(std::move(name)),
        kernel_(reinterpret_cast<Kernel>(address)),
        sizes_(std::move(sizes)),
        reals_(std::move(reals)),
        reuse_(std::move(reuse)),
        last_(std::move(last)) {}

  void eval_cpu(const std::vector<mx::array> &inputs,
                std::vector<mx::array> &outputs) override {
    auto &encoder = mx::cpu::get_command_encoder(stream());
    std::vector<mx::array> kept;  // inputs in row order
    for (const auto &x : inputs)
      if (!x.flags().row_contiguous) kept.push_back(row_order(x, encoder));
    // Every output holds the inputs. One is enough, and nobody else's memory is reused.
    for (auto &y : outputs)
      if (&y.inputs() != &inputs) y.inputs().clear();
    for (auto [output, input] : reuse_) {
      const auto &from = inputs[input];
      if (from.flags().row_contiguous && from.is_donatable() &&
          from.nbytes() == outputs[output].nbytes())
        outputs[output].copy_shared_buffer(from);
    }
    std::vector<const void *> in;
    std::vector<void *> out;
    auto copy = kept.begin();
    for (const auto &x : inputs) {
      const auto &from = x.flags().row_contiguous ? x : *copy++;
      encoder.set_input_array(from);
      in.push_back(from.data<char>());
    }
    encoder.add_temporaries(std::move(kept));
    const bool leaves_last = last_ != nullptr && !last_->run();
    for (auto &y : outputs) {
      if (leaves_last && &y == &outputs.back()) {
        y.set_data(mx::allocator::malloc(1));
        out.push_back(nullptr);
        continue;
      }
      if (y.data_shared_ptr() == nullptr)
        y.set_data(mx::allocator::malloc(y.nbytes()));
      encoder.set_output_array(y);
      out.push_back(y.data<char>());
    }
    encoder.dispatch([kernel = kernel_, in = std::move(in), out = std::move(out),
                      sizes = sizes_, reals = reals_] {
      const Launch launch{in.data(),    out.data(), sizes.data(),    reals.data(),
                          parallel,     pool->threads(), cblas_sgemm};
      kernel(&launch);
    });
  }

  void eval_gpu(const std::vector<mx::array> &, std::vector<mx::array> &) override {
    throw std::runtime_error("[" + name_ + "] a native kernel runs on the CPU only.");
  }

  const char *name() const override { return name_.c_str(); }

  bool is_equivalent(const mx::Primitive &other) const override {
    const auto &o = static_cast<const NativeKernel &>(other);
    return kernel_ == o.kernel_ && sizes_ == o.sizes_ && reals_ == o.reals_ &&
           last_ == o.last_;
  }

 private:
  const std::string name_;
  const Kernel kernel_;
  const std::vector<int64_t> sizes_;
  const std::vector<double> reals_;
  const std::vector<std::pair<int, int>> reuse_;
  const std::shared_ptr<Kept> last_;
};

std::vector<mx::array> launch(
    const std::string &name, uintptr_t address, const std::vector<mx::array> &inputs,
    const std::vector<std::pair<std::vector<int>, mx::Dtype>> &outputs,
    const std::vector<int64_t> &sizes, const std::vector<double> &reals,
    const std::vector<std::pair<int, int>> &reuse, const std::shared_ptr<Kept> &last) {
  const auto stream = mx::default_stream(mx::Device::cpu);
  std::vector<mx::Shape> shapes;
  std::vector<mx::Dtype> dtypes;
  for (const auto &[shape, dtype] : outputs) {
    shapes.emplace_back(shape.begin(), shape.end());
    dtypes.push_back(dtype);
  }
  return mx::array::make_arrays(
      std::move(shapes), dtypes,
      std::make_shared<NativeKernel>(stream, name, address, sizes, reals, reuse,
                                     last),
      inputs);
}

}  // namespace

NB_MODULE(energyflow_bridge, m) {
  m.def("start", [](int64_t threads, uintptr_t get_blas, uintptr_t set_blas) {
    get_blas_threads = reinterpret_cast<int (*)()>(get_blas);
    set_blas_threads = reinterpret_cast<void (*)(int)>(set_blas);
    pool = new Pool(threads);
  });
  m.def("launch", &launch, nb::arg("name"), nb::arg("address"), nb::arg("inputs"),
        nb::arg("outputs"), nb::arg("sizes"), nb::arg("reals"), nb::arg("reuse"),
        nb::arg("last").none());
  nb::class_<Kept>(m, "Kept").def(nb::init<>()).def("want", &Kept::want);
}
