// The seam between three parties: Python (through ctypes), the compiled kernel
// text, and the executor. Plain C layout; launcher.py mirrors the structures.
#pragma once
#include <cstddef>
#include <cstdint>

constexpr uint32_t kSimdWidth = 32;

// Values behind Metal's [[attributes]] and CUDA's threadIdx & co. for one thread.
struct HostThread {
  uint32_t position_in_grid[3];
  uint32_t position_in_group[3];
  uint32_t group_position[3];
  uint32_t group_size[3];           // actual size: smaller at Metal's grid edge
  uint32_t dispatch_group_size[3];  // requested size
  uint32_t groups[3];
  uint32_t grid[3];
  uint32_t index_in_group, lane, simdgroup;
  uint32_t simdgroups, dispatch_simdgroups;
};

struct HostBuffer {
  void* host;             // the Python side's storage
  uint64_t bytes;
  uint32_t element_bytes;
  uint32_t is_output;
  uint32_t is_filled;     // an output that starts with init_value
  uint32_t offset_bytes;  // misalignment of the base pointer
  const char* name;
};

enum HostSchedule : uint32_t { kForward = 0, kReverse = 1, kRandom = 2 };

struct HostFault {
  char kind[32];       // empty: no fault
  char text[512];
  char file[64];       // "source"/"header" when the shim knows the position
  uint32_t line;
  uint32_t has_offset;
  uint64_t offset;     // else: code offset in the kernel's shared object
};

typedef void (*HostEntry)(void** buffers, const HostThread* thread);

struct HostLaunch {
  HostEntry entry;
  uint32_t grid[3], group[3];
  uint32_t buffer_count;
  uint32_t schedule;
  uint32_t full_groups;         // CUDA: blocks at the edge are not cut to the grid
  uint32_t allow_unwritten;
  uint32_t lanes_may_return;    // before a simdgroup operation
  uint32_t group_memory_limit;  // bytes
  uint32_t dynamic_bytes;       // CUDA: extern __shared__
  uint32_t allow_unordered_atomics;  // loads and stores beside atomic updates
  uint64_t seed;
  uint64_t step_budget;         // accesses + basic blocks, against endless loops
  HostBuffer* buffers;
  HostFault fault;
  uint64_t steps, switches, float_atomics;  // what happened
};

// What every lane brought to one simdgroup operation.
struct HostLanes {
  uint32_t active;  // bit per lane
  uint8_t value[kSimdWidth][16];
};

enum HostMemory : uint32_t { kNoMemory = 0, kDeviceMemory = 1, kGroupMemory = 2 };
enum HostAtomic : uint32_t { kAtomicLoad = 0, kAtomicStore = 1, kAtomicUpdate = 2 };

extern "C" {
// Called by the kernel through the shim headers.
const HostThread* host_thread();
void host_group_barrier(uint32_t memory, const char* file, uint32_t line);
void host_simd_barrier(uint32_t memory, const char* file, uint32_t line);
const HostLanes* host_exchange(const void* value, uint32_t bytes, const char* operation,
                               const char* file, uint32_t line);
void* host_group_variable(uint32_t number, uint64_t bytes, uint32_t element_bytes,
                          const char* name);
void* host_dynamic_group_memory(uint32_t element_bytes, const char* name);
void host_atomic(const void* address, uint32_t bytes, uint32_t operation, int is_float,
                 const char* file, uint32_t line);
int host_in_group_memory(const void* address);
[[noreturn]] void host_fail(const char* kind, const char* text, const char* file,
                            uint32_t line);
// Called by Python; returns 1 on a fault.
int host_run(HostLaunch* launch);
}
