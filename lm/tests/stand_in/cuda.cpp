// A GPU that is none: what libtorch asks of its CUDA part, answered by the processor.
//
// Tests load it where there is no GPU, to see what would go wrong on one whatever its kernels do. As there:
// - memory of the device is at addresses that the processor can neither read nor write;
// - operations on tensors of both the device and the processor fail;
// - new memory holds what it happens to hold (here: NaN);
// - there is only so much of it ($STAND_IN_MEMORY bytes).
// Operations are those of the processor, on the same memory at its other address.

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <sys/mman.h>
#include <torch/library.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

namespace {

using c10::Device;
using c10::DeviceIndex;
using c10::DispatchKey;
using c10::DispatchKeySet;
using c10::IValue;

const Device GPU{c10::kCUDA, 0};

// ---- Memory: one file, at two addresses.

constexpr size_t SPACE = size_t{1} << 34;

size_t limit() {
  const char* bytes = std::getenv("STAND_IN_MEMORY");
  return bytes ? std::strtoull(bytes, nullptr, 10) : SPACE;
}

class Memory final : public c10::Allocator {
 public:
  Memory() {
    const int file = memfd_create("stand_in", 0);
    TORCH_CHECK(file >= 0 && ftruncate(file, SPACE) == 0, "no memory for the stand-in");
    auto map = [file](int access) {
      void* at = mmap(nullptr, SPACE, access, MAP_SHARED | MAP_NORESERVE, file, 0);
      TORCH_CHECK(at != MAP_FAILED, "no memory for the stand-in");
      return static_cast<char*>(at);
    };
    device_ = map(PROT_NONE);
    host_ = map(PROT_READ | PROT_WRITE);
  }

  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) {
      return {nullptr, nullptr, &release, GPU};
    }
    size_t size = 512;
    while (size < bytes) {
      size *= 2;
    }
    const std::lock_guard<std::mutex> guard(lock_);
    TORCH_CHECK_WITH(
        OutOfMemoryError, held_ + bytes <= limit(), "CUDA out of memory. Tried to allocate ", bytes, " bytes");
    auto& free = free_[size];
    char* at = device_ + end_;
    if (free.empty()) {
      TORCH_CHECK(end_ + size <= SPACE, "the stand-in has no more addresses");
      end_ += size;
    } else {
      at = free.back();
      free.pop_back();
    }
    taken_[at] = {size, bytes};
    held_ += bytes;
    std::memset(host(at), 0xff, bytes);
    return {at, at, &release, GPU};
  }

  c10::DeleterFnPtr raw_deleter() const override {
    return &release;
  }

  void copy_data(void* to, const void* from, size_t bytes) const override {
    std::memcpy(host(to), host(from), bytes);
  }

  // What the processor sees at this address of the device.
  char* host(const void* at) const {
    return host_ + (static_cast<const char*>(at) - device_);
  }

 private:
  static void release(void* at);

  char* device_;
  char* host_;
  std::mutex lock_;
  size_t end_ = 0;
  size_t held_ = 0;
  // By size.
  std::map<size_t, std::vector<char*>> free_;
  // Sizes that were reserved and asked for.
  std::map<char*, std::pair<size_t, size_t>> taken_;
};

Memory& memory() {
  // Tensors may outlive everything else.
  static auto* memory = new Memory();
  return *memory;
}

void Memory::release(void* at) {
  if (at != nullptr) {
    const std::lock_guard<std::mutex> guard(memory().lock_);
    const auto found = memory().taken_.find(static_cast<char*>(at));
    memory().free_[found->second.first].push_back(found->first);
    memory().held_ -= found->second.second;
    memory().taken_.erase(found);
  }
}

// ---- What libtorch asks of a device.

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override {
    return c10::kCUDA;
  }
  Device exchangeDevice(Device) const override {
    return GPU;
  }
  Device getDevice() const override {
    return GPU;
  }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  c10::Stream getStream(Device) const override {
    return c10::Stream(c10::Stream::DEFAULT, GPU);
  }
  c10::Stream exchangeStream(c10::Stream) const override {
    return c10::Stream(c10::Stream::DEFAULT, GPU);
  }
  DeviceIndex deviceCount() const noexcept override {
    return 1;
  }
};

C10_REGISTER_GUARD_IMPL(CUDA, Guard)

struct Hooks final : at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return true;
  }
  bool hasCUDA() const override {
    return true;
  }
  bool hasPrimaryContext(DeviceIndex) const override {
    return true;
  }
  DeviceIndex deviceCount() const override {
    return 1;
  }
  int getNumGPUs() const override {
    return 1;
  }
  DeviceIndex current_device() const override {
    return 0;
  }
};

// ---- Tensors.

at::Tensor empty(
    at::IntArrayRef size,
    std::optional<at::ScalarType> kind,
    std::optional<at::Layout>,
    std::optional<Device>,
    std::optional<bool>,
    std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(
      size, &memory(), DispatchKeySet(DispatchKey::CUDA), c10::dtype_or_default(kind), format);
}

at::Tensor empty_strided(
    at::IntArrayRef size,
    at::IntArrayRef stride,
    std::optional<at::ScalarType> kind,
    std::optional<at::Layout>,
    std::optional<Device>,
    std::optional<bool>) {
  return at::detail::empty_strided_generic(
      size, stride, &memory(), DispatchKeySet(DispatchKey::CUDA), c10::dtype_or_default(kind));
}

// The same numbers, in the same order in the same memory, as a tensor of the processor; itself if it is one.
at::Tensor on_host(const at::Tensor& tensor) {
  if (!tensor.is_cuda()) {
    return tensor;
  }
  const auto options = tensor.options().device(c10::kCPU);
  if (tensor.numel() == 0) {
    return at::empty_strided(tensor.sizes(), tensor.strides(), options);
  }
  void* data = memory().host(tensor.data_ptr());
  return at::from_blob(data, tensor.sizes(), tensor.strides(), [tensor](void*) {}, options);
}

at::Tensor on_device(const at::Tensor& tensor) {
  auto made = empty_strided(tensor.sizes(), tensor.strides(), tensor.scalar_type(), {}, {}, {});
  on_host(made).copy_(tensor);
  return made;
}

at::Tensor& copy(at::Tensor& to, const at::Tensor& from, bool) {
  on_host(to).copy_(on_host(from));
  return to;
}

at::Scalar scalar(const at::Tensor& tensor) {
  return on_host(tensor).item();
}

// ---- All other operations.

template <typename Act>
c10::List<at::Tensor> mapped(const c10::List<at::Tensor>& list, Act act) {
  c10::List<at::Tensor> found;
  for (const at::Tensor& tensor : list) {
    found.push_back(act(tensor));
  }
  return found;
}

void by_processor(const c10::OperatorHandle& op, DispatchKeySet, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto name = c10::toString(op.operator_name());
  const size_t count = schema.arguments().size();
  const size_t first = stack->size() - count;
  const std::vector<IValue> given(stack->end() - count, stack->end());

  auto host = [&](const at::Tensor& tensor) {
    TORCH_CHECK(
        !tensor.defined() || tensor.is_cuda() || tensor.dim() == 0,
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! (", name, ")");
    return tensor.defined() ? on_host(tensor) : tensor;
  };
  for (size_t i = 0; i < count; ++i) {
    IValue& value = (*stack)[first + i];
    if (value.isTensor()) {
      value = host(value.toTensor());
    } else if (value.isTensorList()) {
      value = mapped(value.toTensorList(), host);
    } else if (value.isOptionalTensorList()) {
      // Positions of numbers, which a device takes from the processor too.
      c10::List<std::optional<at::Tensor>> list;
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorList()) {
        list.push_back(tensor ? std::optional(on_host(*tensor)) : std::nullopt);
      }
      value = list;
    } else if (value.isDevice()) {
      value = Device(c10::kCPU);
    }
  }
  const std::vector<IValue> taken(stack->end() - count, stack->end());
  op.redispatchBoxed(DispatchKeySet(DispatchKey::CPU), stack);

  // What was written and had no room yet.
  auto written = [&](size_t i) {
    const at::Tensor tensor = given[i].toTensor();
    const at::Tensor found = taken[i].toTensor();
    if (tensor.numel() == 0 && found.numel() > 0) {
      tensor.unsafeGetTensorImpl()->set_storage_keep_dtype(on_device(found).storage());
      tensor.unsafeGetTensorImpl()->set_sizes_and_strides(found.sizes(), found.strides());
    }
    return tensor;
  };
  const size_t returned = schema.returns().size();
  for (size_t r = 0; r < returned; ++r) {
    IValue& value = (*stack)[stack->size() - returned + r];
    const auto* alias = schema.returns()[r].alias_info();
    if (alias != nullptr) {
      TORCH_CHECK(alias->isWrite(), "the stand-in does not know the view ", name);
      for (size_t i = 0; i < count; ++i) {
        const auto* other = schema.arguments()[i].alias_info();
        if (other != nullptr && *other == *alias) {
          value = written(i);
        }
      }
    } else if (value.isTensor() && value.toTensor().defined()) {
      value = on_device(value.toTensor());
    } else if (value.isTensorList()) {
      value = mapped(value.toTensorList(), on_device);
    }
  }
}

} // namespace

namespace at {
// Libtorch finds the hooks by this name.
using CUDAHooks = Hooks;
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, Hooks)
} // namespace at

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("copy_", copy);
  m.impl("_local_scalar_dense", scalar);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  m.impl("view", at::native::view);
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("unfold", at::native::unfold);
}

TORCH_LIBRARY_IMPL(_, CUDA, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&by_processor>());
}
