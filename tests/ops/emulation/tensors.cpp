// The interface to libtorch. Every tensor of the process comes from an allocator that tracks it. CUDA functions that a
// libtorch without GPU support lacks, and those that ask for a device, are defined here. The emulated library binds to
// them before libtorch's versions.
#include <c10/core/Allocator.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "device.h"
#include "memory.h"

namespace emulation {
namespace {

constexpr size_t kBetween = 2048;  // unused bytes around a tensor
constexpr size_t kAlign = 64;

void release(void* data) {
  if (data == nullptr) return;
  memory.remove(data);
  std::free(static_cast<char*>(data) - kBetween);
}

class Tracked final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    void* data = nullptr;
    if (bytes > 0) {
      const size_t whole = (bytes + 2 * kBetween + kAlign - 1) / kAlign * kAlign;
      data = static_cast<char*>(std::aligned_alloc(kAlign, whole)) + kBetween;
      memory.add(data, bytes);
    }
    return {data, data, &release, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { std::memcpy(to, from, bytes); }
};

Tracked tracked;
[[maybe_unused]] const bool installed = (c10::SetAllocator(c10::DeviceType::CPU, &tracked, 255), true);

template <typename F>
F* libtorchs(F*, const char* name) {
  return reinterpret_cast<F*>(dlsym(RTLD_NEXT, name));
}

}  // namespace
}  // namespace emulation

extern "C" {

int32_t aoti_torch_device_type_cuda() { return aoti_torch_device_type_cpu(); }

AOTITorchError aoti_torch_get_device_index(AtenTensorHandle, int32_t* index) { return *index = emulation::kDevice, 0; }

AOTITorchError aoti_torch_create_device_guard(int32_t device, DeviceGuardHandle* guard) {
  emulation::guard_device(device);
  return *guard = reinterpret_cast<DeviceGuardHandle>(&emulation::tracked), 0;  // not null, so that it is deleted
}

AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) { return emulation::release_device(), 0; }

AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream) {
  return *stream = emulation::current_stream(device), 0;
}

AOTITorchError aoti_torch_library_init_impl(const char* space, const char*, const char* file, uint32_t line,
                                            TorchLibraryHandle* library) {
  static const auto next = emulation::libtorchs(&aoti_torch_library_init_impl, "aoti_torch_library_init_impl");
  return next(space, "CPU", file, line, library);
}

// Tensors that the operator makes belong to the device and are not yet written.
AOTITorchError torch_call_dispatcher(const char* name, const char* overload, StableIValue* stack, uint64_t version) {
  static const auto next = emulation::libtorchs(&torch_call_dispatcher, "torch_call_dispatcher");
  const AOTITorchError error = next(name, overload, stack, version);
  if (error == 0 && std::strcmp(name, "aten::new_empty") == 0) {
    AtenTensorHandle made;
    std::memcpy(&made, stack, sizeof(made));
    void* data = nullptr;
    int32_t dtype = 0;
    aoti_torch_get_data_ptr(made, &data);
    aoti_torch_get_dtype(made, &dtype);
    if (data != nullptr) emulation::memory.make_output(data, aoti_torch_dtype_element_size(dtype));
  }
  return error;
}
}
