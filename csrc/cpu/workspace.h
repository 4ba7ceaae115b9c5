// Scratch memory of one thread.
#pragma once

#include <cstddef>
#include <cstring>
#include <new>

namespace geoloss::cpu {

// Zeroed and aligned to 64 bytes.
class Workspace {
 public:
  explicit Workspace(size_t bytes) : data_(::operator new(bytes, kAlignment)) {
    std::memset(data_, 0, bytes);
  }
  ~Workspace() { ::operator delete(data_, kAlignment); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  void* get() const { return data_; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  void* data_;
};

}  // namespace geoloss::cpu
