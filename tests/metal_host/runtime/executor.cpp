// Runs a launch: group after group, every thread a fiber that stops at barriers and
// simdgroup operations. The order is one of three schedules.
#include <dlfcn.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <numeric>

#include "machine.h"

namespace host {

Machine machine;

namespace {

std::vector<void*> buffer_bases;

void thread_body() {
  KernelThread& me = *machine.current;
  machine.launch->entry(buffer_bases.data(), &me.index);
  me.state = ThreadState::kFinished;
  abandon_thread();
}

void shuffle(std::vector<uint32_t>& order) {
  for (size_t left = order.size(); left > 1; --left)
    std::swap(order[left - 1], order[next_random() % left]);
}

std::vector<uint32_t> scheduled(uint32_t count) {
  std::vector<uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  if (machine.launch->schedule == kReverse) std::reverse(order.begin(), order.end());
  if (machine.launch->schedule == kRandom) shuffle(order);
  return order;
}

void describe_current(char* text, size_t room) {
  if (!machine.current) return;
  const HostThread& t = machine.current->index;
  snprintf(text, room, " [thread (%u,%u,%u) of the grid, (%u,%u,%u) of group (%u,%u,%u)]",
           t.position_in_grid[0], t.position_in_grid[1], t.position_in_grid[2],
           t.position_in_group[0], t.position_in_group[1], t.position_in_group[2],
           t.group_position[0], t.group_position[1], t.group_position[2]);
}

void start_group(uint32_t group) {
  const HostLaunch& launch = *machine.launch;
  HostThread base{};
  uint32_t count = 1, capacity = machine.group_capacity;
  for (int axis = 0, rest = group; axis < 3; ++axis) {
    uint32_t groups = (launch.grid[axis] + launch.group[axis] - 1) / launch.group[axis];
    base.groups[axis] = groups;
    base.grid[axis] = launch.grid[axis];
    base.dispatch_group_size[axis] = launch.group[axis];
    base.group_position[axis] = rest % groups;
    rest /= groups;
    uint32_t left = launch.grid[axis] - base.group_position[axis] * launch.group[axis];
    base.group_size[axis] =
        launch.full_groups ? launch.group[axis] : std::min(launch.group[axis], left);
    count *= base.group_size[axis];
  }
  base.simdgroups = (count + kSimdWidth - 1) / kSimdWidth;
  base.dispatch_simdgroups = (capacity + kSimdWidth - 1) / kSimdWidth;

  machine.device_epochs = {0, std::vector<uint32_t>(base.simdgroups)};
  machine.group_epochs = machine.device_epochs;
  machine.lanes.assign(base.simdgroups, HostLanes());
  forget_group_variables();
  machine.threads.resize(std::max<size_t>(machine.threads.size(), count));
  for (uint32_t t = 0; t < count; ++t) {
    KernelThread& thread = machine.threads[t];
    HostThread& index = thread.index = base;
    for (int axis = 0, rest = t; axis < 3; ++axis) {
      index.position_in_group[axis] = rest % base.group_size[axis];
      rest /= base.group_size[axis];
      index.position_in_grid[axis] = index.position_in_group[axis] +
                                     base.group_position[axis] * launch.group[axis];
    }
    index.index_in_group = t;
    index.lane = t % kSimdWidth;
    index.simdgroup = t / kSimdWidth;
    thread.number = group * capacity + t;
    thread.state = ThreadState::kRunnable;
    if (!thread.fiber.stack && !allocate_stack(thread.fiber)) {
      report("limit", Place(), "no memory for the stacks of %u threads", count);
      return;
    }
    prepare(thread.fiber, thread_body);
  }
}

// Everything that moves a group forward; `threads` are those of this group.
struct Group {
  KernelThread* threads;
  uint32_t count;

  uint32_t how_many(ThreadState state) const {
    return std::count_if(threads, threads + count,
                         [&](const KernelThread& t) { return t.state == state; });
  }

  void run_threads() {
    for (uint32_t t : scheduled(count)) {
      if (threads[t].state != ThreadState::kRunnable || machine.failed) continue;
      machine.current = &threads[t];
      enter(threads[t].fiber);
      machine.current = nullptr;
    }
  }

  // Lets one simdgroup past the operation its lanes wait at. Lanes that went elsewhere
  // are an error; so are lanes that returned, unless the launch allows it: an early
  // return and a condition that skips the operation look the same from here.
  bool release_simdgroup(uint32_t simdgroup) {
    uint32_t begin = simdgroup * kSimdWidth, end = std::min(count, begin + kSimdWidth);
    HostLanes lanes{};
    KernelThread* first = nullptr;
    uint32_t waiting = 0, elsewhere = 0;
    for (uint32_t t = begin; t < end; ++t) {
      KernelThread& thread = threads[t];
      if (thread.state == ThreadState::kFinished && machine.launch->lanes_may_return)
        continue;
      bool here = thread.state == ThreadState::kAtSimdOperation;
      if (here && !first) first = &thread;
      bool together = here && thread.line == first->line &&
                      !strcmp(thread.operation, first->operation);
      together ? ++waiting : ++elsewhere;
      lanes.active |= uint32_t(together) << (t - begin);
      memcpy(lanes.value[t - begin], thread.value, sizeof thread.value);
    }
    if (!first) return false;
    if (elsewhere) {
      report("divergence", {nullptr, first->file, first->line},
             "%s is reached by %u of %u lanes, the others returned or are elsewhere",
             first->operation, waiting, end - begin);
      return false;
    }
    machine.lanes[simdgroup] = lanes;
    if (first->memory & kDeviceMemory) ++machine.device_epochs.simd[simdgroup];
    if (first->memory & kGroupMemory) ++machine.group_epochs.simd[simdgroup];
    for (uint32_t t = begin; t < end; ++t)
      if (threads[t].state == ThreadState::kAtSimdOperation)
        threads[t].state = ThreadState::kRunnable;
    return true;
  }

  bool release_simdgroups() {
    bool released = false;
    uint32_t simdgroups = (count + kSimdWidth - 1) / kSimdWidth;
    for (uint32_t s = 0; s < simdgroups && !machine.failed; ++s)
      released |= release_simdgroup(s);
    return released;
  }

  void release_barrier() {
    auto waits = [](const KernelThread& t) {
      return t.state == ThreadState::kAtGroupBarrier;
    };
    KernelThread* first = std::find_if(threads, threads + count, waits);
    uint32_t here = std::count_if(threads, threads + count, [&](const KernelThread& t) {
      return waits(t) && t.line == first->line;
    });
    if (here < count) {
      uint32_t returned = how_many(ThreadState::kFinished);
      report("divergence", {nullptr, first->file, first->line},
             "barrier reached by %u of %u threads; %u returned, %u wait at another",
             here, count, returned, count - here - returned);
      return;
    }
    if (first->memory & kDeviceMemory) ++machine.device_epochs.group;
    if (first->memory & kGroupMemory) ++machine.group_epochs.group;
    for (uint32_t t = 0; t < count; ++t) threads[t].state = ThreadState::kRunnable;
  }

  void run() {
    while (!machine.failed) {
      run_threads();
      if (machine.failed || how_many(ThreadState::kFinished) == count) return;
      if (how_many(ThreadState::kRunnable)) continue;  // paused at an atomic
      if (!release_simdgroups() && !machine.failed) release_barrier();
    }
  }
};

void run_groups() {
  const HostLaunch& launch = *machine.launch;
  uint32_t groups = 1;
  machine.group_capacity = 1;
  for (int axis = 0; axis < 3; ++axis) {
    groups *= (launch.grid[axis] + launch.group[axis] - 1) / launch.group[axis];
    machine.group_capacity *= launch.group[axis];
  }
  for (uint32_t group : scheduled(groups)) {
    start_group(group);
    if (machine.failed) return;
    const uint32_t* size = machine.threads[0].index.group_size;
    Group{machine.threads.data(), size[0] * size[1] * size[2]}.run();
    if (machine.failed) return;
  }
}

void wait_at(ThreadState state, const char* operation, uint32_t memory, const char* file,
             uint32_t line) {
  KernelThread& me = *machine.current;
  me.state = state;
  me.operation = operation;
  me.memory = memory;
  me.file = file;
  me.line = line;
  pause_thread();
}

}  // namespace

uint64_t next_random() {
  uint64_t& x = machine.random_state;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return x;
}

void pause_thread() {
  ++machine.launch->switches;
  leave(machine.current->fiber);
}

[[noreturn]] void abandon_thread() {
  for (;;) leave(machine.current->fiber);
}

void report(const char* kind, Place at, const char* format, ...) {
  if (machine.failed) return;
  machine.failed = true;
  HostFault& fault = machine.launch->fault;
  snprintf(fault.kind, sizeof fault.kind, "%s", kind);
  va_list arguments;
  va_start(arguments, format);
  int used = vsnprintf(fault.text, sizeof fault.text, format, arguments);
  va_end(arguments);
  describe_current(fault.text + std::min<size_t>(used, sizeof fault.text - 1),
                   sizeof fault.text - std::min<size_t>(used, sizeof fault.text - 1));
  if (at.file) {
    snprintf(fault.file, sizeof fault.file, "%s", at.file);
    fault.line = at.line;
  }
  Dl_info object;
  if (at.code && dladdr(at.code, &object)) {
    fault.has_offset = 1;  // -1: a return address points behind the call
    fault.offset = uintptr_t(at.code) - uintptr_t(object.dli_fbase) - 1;
  }
}

}  // namespace host

using namespace host;

extern "C" {

const HostThread* host_thread() { return &machine.current->index; }

void host_group_barrier(uint32_t memory, const char* file, uint32_t line) {
  wait_at(ThreadState::kAtGroupBarrier, "barrier", memory, file, line);
}

void host_simd_barrier(uint32_t memory, const char* file, uint32_t line) {
  wait_at(ThreadState::kAtSimdOperation, "simdgroup barrier", memory, file, line);
}

const HostLanes* host_exchange(const void* value, uint32_t bytes, const char* operation,
                               const char* file, uint32_t line) {
  memcpy(machine.current->value, value, bytes);
  wait_at(ThreadState::kAtSimdOperation, operation, kNoMemory, file, line);
  return &machine.lanes[machine.current->index.simdgroup];
}

void host_atomic(const void* address, uint32_t bytes, uint32_t operation, int is_float,
                 const char* file, uint32_t line) {
  constexpr AccessKind kinds[] = {AccessKind::kRead, AccessKind::kWrite,
                                  AccessKind::kUpdate};
  // A stop here shows "atomics" that are a load followed by a store.
  if (machine.launch->schedule == kRandom && (next_random() & 1)) pause_thread();
  if (is_float && operation == kAtomicUpdate) ++machine.launch->float_atomics;
  check_access(reinterpret_cast<uintptr_t>(address), bytes, kinds[operation], true,
               {nullptr, file, line});
}

void host_fail(const char* kind, const char* text, const char* file, uint32_t line) {
  report(kind, {nullptr, file, line}, "%s", text);
  abandon_thread();
}

int host_run(HostLaunch* launch) {
  machine.launch = launch;
  machine.current = nullptr;
  machine.failed = false;
  machine.random_state = launch->seed * 2654435761u + 88172645463325252ull;
  buffer_bases.clear();
  if (!reserve_arena()) {
    report("limit", Place(), "cannot reserve address space for the buffers");
    return 1;
  }
  map_buffers(buffer_bases);
  run_groups();
  finish_buffers();
  return machine.failed;
}
}
