// The interface of the sanitizers' callbacks to the device.
#pragma once

#include <cstdint>
#include <string>

namespace emulation {

void find(const std::string& what, void* place);  // makes the launch fail with this message
bool in_kernel();
bool is_own(uintptr_t address);       // the stack or the builtins of the running thread
bool is_constant(uintptr_t address);  // a kernel's arguments, or part of a library
void abandon();                       // ends the block; does not return
void step();                          // counts steps, to find endless blocks

}  // namespace emulation
