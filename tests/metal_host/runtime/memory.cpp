// Where buffers live, and the check behind every access of the kernel.
#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "machine.h"

namespace host {
namespace {

constexpr int kRegionShift = 35;
constexpr uint64_t kRegionSpan = 1ull << kRegionShift;  // 32 GB of address space
constexpr uint64_t kLead = 1ull << 33;                  // 8 GB below for -2^31 * 4
constexpr uint64_t kArenaSpan = kRegionSpan * kRegions;

Region regions[kRegions];
uintptr_t arena = 0;

struct Range {
  uintptr_t begin, end;
};
std::vector<Range> kernel_image;  // the kernel's own constants and tables

size_t page_round(size_t bytes) { return (bytes + 4095) & ~size_t(4095); }

uintptr_t map_pages(int region, size_t bytes) {
  uintptr_t begin = arena + region * kRegionSpan + kLead;
  mmap(reinterpret_cast<void*>(begin), page_round(bytes), PROT_READ | PROT_WRITE,
       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
  return begin;
}

void unmap_pages(Region& region, int number) {
  if (!region.mapped_bytes) return;
  mmap(reinterpret_cast<void*>(arena + number * kRegionSpan + kLead), region.mapped_bytes,
       PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
  region = Region();
}

int remember_image(dl_phdr_info* object, size_t, void* entry) {
  std::vector<Range> ranges;
  bool holds_entry = false;
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    const auto& part = object->dlpi_phdr[i];
    if (part.p_type != PT_LOAD) continue;
    uintptr_t begin = object->dlpi_addr + part.p_vaddr;
    ranges.push_back({begin, begin + part.p_memsz});
    uintptr_t address = reinterpret_cast<uintptr_t>(entry);
    holds_entry |= address >= begin && address < begin + part.p_memsz;
  }
  if (holds_entry) kernel_image = ranges;
  return holds_entry;
}

bool is_private(uintptr_t address, size_t bytes) {
  auto stack = reinterpret_cast<uintptr_t>(machine.current->fiber.stack);
  if (address >= stack && address + bytes <= stack + kStackBytes) return true;
  return std::any_of(kernel_image.begin(), kernel_image.end(), [&](const Range& range) {
    return address >= range.begin && address + bytes <= range.end;
  });
}

// Is a past access certain to come before what the current thread does now?
bool happened_before(const PastAccess& past, const Epochs& epochs) {
  const KernelThread& me = *machine.current;
  if (past.thread == kNobody || past.thread == me.number) return true;
  uint32_t capacity = machine.group_capacity;
  if (past.thread / capacity != me.number / capacity) return false;
  if (past.group_epoch < epochs.group) return true;
  bool same_simdgroup = (past.thread % capacity) / kSimdWidth == me.index.simdgroup;
  return same_simdgroup && past.simd_epoch < epochs.simd[me.index.simdgroup];
}

// Atomic updates (read-modify-write) may come in any order. An atomic load or store has
// no such licence: a kernel that reads a maximum before all have contributed, or clears
// it after some have, is wrong however atomic it is.
bool may_interleave(const PastAccess& past, AccessKind kind, bool atomic) {
  if (!atomic || !past.atomic) return false;
  bool updates = past.kind == AccessKind::kUpdate && kind == AccessKind::kUpdate;
  return updates || machine.launch->allow_unordered_atomics;
}

void report_race(const char* mine, const char* theirs, size_t element,
                 const Region& region, const PastAccess& past, Place at) {
  uint32_t capacity = machine.group_capacity;
  report("data-race", at, "%s of element %zu of '%s' conflicts with an unordered %s by "
         "thread %u of group %u", mine, element, region.name.c_str(), theirs,
         past.thread % capacity, past.thread / capacity);
  abandon_thread();
}

void check_element(Region& region, size_t element, AccessKind kind, bool atomic,
                   Place at) {
  ElementState& state = region.elements[element];
  const Epochs& epochs = region.in_group_memory ? machine.group_epochs
                                                : machine.device_epochs;
  const bool reads = kind != AccessKind::kWrite, writes = kind != AccessKind::kRead;
  const char* mine = writes ? "write" : "read";
  if (reads && !state.written) {
    report("uninitialised-read", at, "element %zu of '%s' is read before any write",
           element, region.name.c_str());
    abandon_thread();
  }
  auto conflicts = [&](const PastAccess& past) {
    return !happened_before(past, epochs) && !may_interleave(past, kind, atomic);
  };
  if (conflicts(state.write))
    report_race(mine, "write", element, region, state.write, at);
  PastAccess now{machine.current->number, epochs.group,
                 epochs.simd[machine.current->index.simdgroup], kind, atomic};
  if (writes) {
    for (const PastAccess& past : state.read)
      if (conflicts(past)) report_race(mine, "read", element, region, past, at);
    state.write = now;
    state.written = true;
  }
  if (reads) {
    if (state.read[0].thread != now.thread) state.read[1] = state.read[0];
    state.read[0] = now;
  }
}

void report_out_of_bounds(const Region& region, uintptr_t address, size_t bytes,
                          AccessKind kind, Place at) {
  auto distance = int64_t(address) - int64_t(region.begin);
  int64_t size = region.element_bytes;
  int64_t element = distance >= 0 ? distance / size : (distance - size + 1) / size;
  report("out-of-bounds", at, "%s of %zu bytes at element %lld of '%s' (size %lld)",
         kind == AccessKind::kRead ? "read" : "write", bytes, (long long)element,
         region.name.c_str(), (long long)((region.end - region.begin) / size));
  abandon_thread();
}

}  // namespace

bool reserve_arena() {
  if (arena) return true;
  void* area = mmap(nullptr, kArenaSpan + kRegionSpan, PROT_NONE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (area == MAP_FAILED) return false;
  arena = (reinterpret_cast<uintptr_t>(area) + kRegionSpan - 1) & ~(kRegionSpan - 1);
  return true;
}

void map_buffers(std::vector<void*>& bases) {
  dl_iterate_phdr(remember_image, reinterpret_cast<void*>(machine.launch->entry));
  for (uint32_t i = 0; i < machine.launch->buffer_count; ++i) {
    const HostBuffer& buffer = machine.launch->buffers[i];
    Region& region = regions[i];
    region.live = true;
    region.writable = buffer.is_output;
    region.element_bytes = buffer.element_bytes;
    region.name = buffer.name;
    region.mapped_bytes = page_round(buffer.bytes + buffer.offset_bytes + 1);
    region.begin = map_pages(i, region.mapped_bytes) + buffer.offset_bytes;
    region.end = region.begin + buffer.bytes;
    auto* base = reinterpret_cast<void*>(region.begin);
    if (!buffer.is_output || buffer.is_filled)
      memcpy(base, buffer.host, buffer.bytes);
    else
      memset(base, 0xFF, buffer.bytes);  // NaN in every float type
    if (buffer.is_output) {
      ElementState fresh;
      fresh.written = buffer.is_filled;
      region.elements.assign(buffer.bytes / buffer.element_bytes, fresh);
    }
    bases.push_back(base);
  }
}

void finish_buffers() {
  for (uint32_t i = 0; i < machine.launch->buffer_count; ++i) {
    Region& region = regions[i];
    HostBuffer& buffer = machine.launch->buffers[i];
    if (buffer.is_output) {
      const auto& elements = region.elements;
      auto unwritten = [](const ElementState& state) { return !state.written; };
      size_t missing = std::count_if(elements.begin(), elements.end(), unwritten);
      size_t first = std::find_if(elements.begin(), elements.end(), unwritten) -
                     elements.begin();
      if (missing && !machine.launch->allow_unwritten)
        report("unwritten-output", Place(), "%zu of %zu elements of '%s' are never "
               "written, the first is %zu", missing, elements.size(),
               region.name.c_str(), first);
      memcpy(buffer.host, reinterpret_cast<void*>(region.begin), buffer.bytes);
    }
  }
  for (int i = 0; i < kRegions; ++i) unmap_pages(regions[i], i);
}

void forget_group_variables() {
  machine.group_memory_used = 0;
  for (int i = kBufferRegions; i < kRegions; ++i) regions[i].live = false;
}

void check_access(uintptr_t address, size_t bytes, AccessKind kind, bool atomic, Place at) {
  if (!machine.current) return;
  count_step(at);
  if (address - arena >= kArenaSpan) {
    if (is_private(address, bytes)) return;
    report("wild-access", at, "%s of %zu bytes at %p lies outside every buffer",
           kind == AccessKind::kRead ? "read" : "write", bytes,
           reinterpret_cast<void*>(address));
    abandon_thread();
  }
  Region& region = regions[(address - arena) >> kRegionShift];
  if (!region.live || address < region.begin || address + bytes > region.end)
    report_out_of_bounds(region, address, bytes, kind, at);
  if (!region.writable) {
    if (kind == AccessKind::kRead) return;
    report("write-to-input", at, "'%s' is an input", region.name.c_str());
    abandon_thread();
  }
  size_t first = (address - region.begin) / region.element_bytes;
  size_t last = (address + bytes - 1 - region.begin) / region.element_bytes;
  for (size_t element = first; element <= last; ++element)
    check_element(region, element, kind, atomic, at);
}

}  // namespace host

using host::machine;

extern "C" void* host_group_variable(uint32_t number, uint64_t bytes,
                                     uint32_t element_bytes, const char* name) {
  using namespace host;
  if (kBufferRegions + number >= uint32_t(kRegions))
    host_fail("limit", "too many threadgroup variables", nullptr, 0);
  Region& region = regions[kBufferRegions + number];
  if (region.live) return reinterpret_cast<void*>(region.begin);
  if (!region.mapped_bytes) {
    region.mapped_bytes = page_round(bytes);
    region.begin = map_pages(kBufferRegions + number, bytes);
    region.end = region.begin + bytes;
    region.element_bytes = element_bytes;
    region.name = name;
  }
  region.live = region.writable = region.in_group_memory = true;
  region.elements.assign(bytes / element_bytes, ElementState());
  memset(reinterpret_cast<void*>(region.begin), 0xFF, bytes);
  machine.group_memory_used += (bytes + 15) & ~uint64_t(15);
  if (machine.group_memory_used > machine.launch->group_memory_limit) {
    report("limit", {__builtin_return_address(0)}, "'%s' takes threadgroup memory to %llu "
           "bytes, the limit is %u", name, (unsigned long long)machine.group_memory_used,
           machine.launch->group_memory_limit);
    abandon_thread();
  }
  return reinterpret_cast<void*>(region.begin);
}

extern "C" int host_in_group_memory(const void* address) {
  using namespace host;
  auto offset = reinterpret_cast<uintptr_t>(address) - arena;
  return offset < kArenaSpan && regions[offset >> kRegionShift].in_group_memory;
}

extern "C" void* host_dynamic_group_memory(uint32_t element_bytes, const char* name) {
  uint64_t bytes = machine.launch->dynamic_bytes;
  if (!bytes) host_fail("limit", "dynamic shared memory was not requested", nullptr, 0);
  return host_group_variable(host::kRegions - host::kBufferRegions - 1, bytes,
                             element_bytes, name);
}
