// State of the one launch in progress, shared by the executor's translation units.
#pragma once
#include <string>
#include <vector>

#include "fiber.h"
#include "host_abi.h"

namespace host {

constexpr uint32_t kNobody = 0xffffffffu;
constexpr int kBufferRegions = 44;  // launch buffers; the rest hold group variables
constexpr int kRegions = 64;

enum class AccessKind { kRead, kWrite, kUpdate };

// One past access to one element, and how far synchronisation had come by then.
struct PastAccess {
  uint32_t thread = kNobody;  // global thread number
  uint32_t group_epoch = 0;   // group barriers passed that order this memory
  uint32_t simd_epoch = 0;    // simdgroup barriers passed that order this memory
  AccessKind kind = AccessKind::kRead;
  bool atomic = false;
};

// Per-element history. Two distinct readers are enough to see a write that conflicts
// with any reader: at least one of the two is not the writer itself.
struct ElementState {
  PastAccess write, read[2];
  bool written = false;
};

// A buffer or group variable. Regions lie 32 GB apart, so that a wild 32-bit index
// still lands beside the region it started from and is reported under its name.
struct Region {
  bool live = false, writable = false, in_group_memory = false;
  uintptr_t begin = 0, end = 0;
  size_t mapped_bytes = 0;
  uint32_t element_bytes = 4;
  std::string name;
  std::vector<ElementState> elements;  // only writable regions need a history
};

enum class ThreadState { kRunnable, kAtGroupBarrier, kAtSimdOperation, kFinished };

struct KernelThread {
  Fiber fiber;
  HostThread index;
  uint32_t number;  // global; groups differ in number / group capacity
  ThreadState state;
  // What it waits for:
  const char* operation;
  const char* file;
  uint32_t line;
  uint32_t memory;  // which memory the barrier orders
  uint32_t value_bytes;
  uint8_t value[16];
};

// Barrier counts of the group that runs, for one kind of memory.
struct Epochs {
  uint32_t group = 0;
  std::vector<uint32_t> simd;
};

struct Place {  // where a fault happened: a code address or a source position
  const void* code = nullptr;
  const char* file = nullptr;
  uint32_t line = 0;
};

struct Machine {
  HostLaunch* launch = nullptr;
  KernelThread* current = nullptr;  // null while the executor itself runs
  uint32_t group_capacity = 1;      // threads in a full group
  Epochs device_epochs, group_epochs;
  std::vector<KernelThread> threads;
  std::vector<HostLanes> lanes;  // per simdgroup: result of the last exchange
  uint64_t group_memory_used = 0;
  uint64_t random_state = 1;
  bool failed = false;
};
extern Machine machine;

// memory.cpp
bool reserve_arena();
void map_buffers(std::vector<void*>& bases);
void finish_buffers();
void forget_group_variables();
void check_access(uintptr_t address, size_t bytes, AccessKind kind, bool atomic, Place at);

// executor.cpp
[[gnu::format(printf, 3, 4)]] void report(const char* kind, Place at, const char* format,
                                          ...);
[[noreturn]] void abandon_thread();
void pause_thread();
uint64_t next_random();

inline void count_step(Place at) {
  if (++machine.launch->steps > machine.launch->step_budget) {
    report("endless-loop", at, "the budget of %llu steps is spent",
           (unsigned long long)machine.launch->step_budget);
    abandon_thread();
  }
}

}  // namespace host
