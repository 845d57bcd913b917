// What the sanitizers' callbacks ask the device and tell it.
#pragma once

#include <cstdint>
#include <string>

namespace emulation {

void find(const std::string& what, void* place);  // the launch fails with this
bool in_kernel();
bool is_own(uintptr_t address);       // of the running thread: its stack, its builtins
bool is_constant(uintptr_t address);  // a kernel's arguments, or part of a library
void abandon();                       // the block: its thread does not come back
void step();                          // counted against blocks that do not end

}  // namespace emulation
