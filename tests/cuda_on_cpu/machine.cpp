// The machine behind include/cuda_runtime.h: blocks one after another, the threads of a block as fibres (stacks of their own,
// switched by hand) on the calling thread.
//
// It is stricter than a GPU where that finds mistakes: shared memory is not-a-number before each block, writing behind it is
// noticed, a barrier that a thread does not reach is an error instead of a hang, and no two threads run in step.

#include <cuda_runtime.h>

#include <setjmp.h>
#include <ucontext.h>

#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace {

constexpr size_t kMostSharedBytes = 232448;  // of one block on an H200
constexpr size_t kUnaskedSharedBytes = 49152;
constexpr size_t kGuardBytes = 4096;
constexpr size_t kStackBytes = 256 << 10;
constexpr unsigned kWarp = 32;
constexpr unsigned char kNotANumber = 0xff;  // in every byte: of every floating type

}  // namespace

namespace manvatar {
alignas(1024) unsigned char shared_bytes[kMostSharedBytes + kGuardBytes];
}

namespace {

enum class State { kNotBegun, kReady, kAtBlockBarrier, kAtWarpBarrier, kDone };

using Together = void (*)(void**);

struct Fibre {
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  ucontext_t context;
  jmp_buf place;
  bool begun = false;
};

struct Thread {
  State state;
  Fibre* fibre;
  Together together;
  void* argument;
};

class Machine {
 public:
  int order = 0;  // 0: threads and blocks ascend, 1: they descend, else the seed of their order
  std::map<const void*, size_t> allowed_bytes;
  std::mutex mutex;

  void run(const cudaLaunchConfig_t& config, const std::function<void()>& body) {
    body_ = &body;
    gridDim = config.gridDim;
    blockDim = config.blockDim;
    random_.seed(order);
    for (unsigned block : permutation(gridDim.x * gridDim.y)) {
      blockIdx = dim3(block % gridDim.x, block / gridDim.x, 0);
      run_block(config.dynamicSmemBytes);
    }
  }

  void stop_from_thread(const char* what) {
    mistake_ = what;
    wait(State::kDone);
  }

  void wait(State state, Together together = nullptr, void* argument = nullptr) {
    Thread& thread = threads_[current_];
    thread.state = state;
    thread.together = together;
    thread.argument = argument;
    if (_setjmp(thread.fibre->place) == 0) _longjmp(scheduler_, 1);
  }

 private:
  std::vector<Thread> threads_;
  std::vector<unsigned> order_;  // of the lanes of the warp that takes turns
  size_t turn_ = 0;              // whose of them it is
  unsigned current_ = 0;         // which thread that is
  std::vector<std::unique_ptr<Fibre>> fibres_;
  std::vector<Fibre*> idle_;
  jmp_buf scheduler_;
  ucontext_t begin_;
  const std::function<void()>* body_ = nullptr;
  const char* mistake_ = nullptr;  // of a thread
  std::mt19937 random_;

  std::vector<unsigned> permutation(unsigned count) {
    std::vector<unsigned> numbers(count);
    std::iota(numbers.begin(), numbers.end(), 0u);
    if (order == 1) std::reverse(numbers.begin(), numbers.end());
    if (order > 1) std::shuffle(numbers.begin(), numbers.end(), random_);
    return numbers;
  }

  void run_block(size_t shared_bytes) {
    std::memset(manvatar::shared_bytes, kNotANumber, shared_bytes + kGuardBytes);
    threads_.assign(blockDim.x, {State::kNotBegun, nullptr, nullptr, nullptr});
    idle_.clear();
    for (auto& fibre : fibres_) idle_.push_back(fibre.get());
    while (count(State::kDone) < threads_.size()) {
      for (unsigned warp : permutation((blockDim.x + kWarp - 1) / kWarp)) run_warp(warp * kWarp);
      if (count(State::kDone) == threads_.size()) break;
      if (count(State::kAtBlockBarrier) < threads_.size()) stop("not all threads reach the same barrier");
      for (Thread& thread : threads_) thread.state = State::kReady;
    }
    for (size_t i = 0; i < kGuardBytes; ++i)
      if (manvatar::shared_bytes[shared_bytes + i] != kNotANumber) stop("a thread wrote behind the shared memory");
  }

  size_t count(State state) const {
    return std::count_if(threads_.begin(), threads_.end(), [&](const Thread& t) { return t.state == state; });
  }

  // Until its threads are done or wait for other warps.
  void run_warp(unsigned first) {
    const unsigned lanes = std::min(kWarp, static_cast<unsigned>(threads_.size()) - first);
    do {
      order_ = permutation(lanes);
      for (turn_ = 0; turn_ < lanes; ++turn_) {
        current_ = first + order_[turn_];
        const State state = threads_[current_].state;
        if (state == State::kNotBegun || state == State::kReady) give_turn();
        if (mistake_ != nullptr) stop(std::exchange(mistake_, nullptr));
      }
    } while (meet_in_warp(first, lanes));
  }

  // Whether all its threads wait for each other; they do not any longer.
  bool meet_in_warp(unsigned first, unsigned lanes) {
    void* arguments[kWarp];
    for (unsigned i = 0; i < lanes; ++i) {
      const Thread& thread = threads_[first + i];
      if (thread.state != State::kAtWarpBarrier || thread.together != threads_[first].together) return false;
      arguments[i] = thread.argument;
    }
    if (threads_[first].together != nullptr) threads_[first].together(arguments);
    for (unsigned i = 0; i < lanes; ++i) threads_[first + i].state = State::kReady;
    return true;
  }

  [[noreturn]] void stop(const char* what) {
    fibres_.clear();  // some are in the middle of a thread
    throw std::runtime_error(
        std::string("CUDA on the CPU: ") + what + " (block " + std::to_string(blockIdx.x) + ", " +
        std::to_string(blockIdx.y) + ")");
  }

  // Runs the current thread until it waits or is done. A fibre that is done with a thread goes on with those behind it that
  // have not begun: where nothing waits, one fibre runs them all.
  void give_turn() {
    Thread& thread = threads_[current_];
    threadIdx = dim3(current_, 0, 0);
    if (_setjmp(scheduler_) != 0) return;
    if (thread.state == State::kReady) _longjmp(thread.fibre->place, 1);
    if (idle_.empty()) {
      fibres_.push_back(std::make_unique<Fibre>());
      idle_.push_back(fibres_.back().get());
    }
    Fibre* fibre = idle_.back();
    idle_.pop_back();
    thread.fibre = fibre;
    if (fibre->begun) _longjmp(fibre->place, 1);
    fibre->begun = true;
    getcontext(&fibre->context);
    fibre->context.uc_stack.ss_sp = fibre->stack.get();
    fibre->context.uc_stack.ss_size = kStackBytes;
    fibre->context.uc_link = nullptr;
    makecontext(&fibre->context, enter, 0);
    swapcontext(&begin_, &fibre->context);
  }

  static void enter();

  void work() {
    for (;;) {
      Fibre* fibre = threads_[current_].fibre;
      (*body_)();
      threads_[current_].state = State::kDone;
      if (begin_next(fibre)) continue;
      idle_.push_back(fibre);
      if (_setjmp(fibre->place) == 0) _longjmp(scheduler_, 1);
    }
  }

  bool begin_next(Fibre* fibre) {
    const unsigned first = current_ - order_[turn_];
    if (turn_ + 1 == order_.size() || threads_[first + order_[turn_ + 1]].state != State::kNotBegun) return false;
    current_ = first + order_[++turn_];
    threads_[current_].fibre = fibre;
    threadIdx = dim3(current_, 0, 0);
    return true;
  }
};

Machine machine;

void Machine::enter() { machine.work(); }

}  // namespace

namespace cuda_on_cpu {

cudaError_t run(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& thread) {
  const std::lock_guard<std::mutex> lock(machine.mutex);
  const dim3 &grid = config.gridDim, &block = config.blockDim;
  if (grid.x == 0 || grid.y == 0 || grid.y > 65535 || block.x == 0 || block.x > 1024) return cudaErrorInvalidConfiguration;
  const auto allowed = machine.allowed_bytes.find(kernel);
  const size_t most = allowed == machine.allowed_bytes.end() ? kUnaskedSharedBytes : allowed->second;
  if (config.dynamicSmemBytes > most) return cudaErrorInvalidValue;
  machine.run(config, thread);
  return cudaSuccess;
}

void block_barrier() { machine.wait(State::kAtBlockBarrier); }

void stop(const char* what) { machine.stop_from_thread(what); }

void warp_barrier(void (*together)(void**), void* argument) {
  machine.wait(State::kAtWarpBarrier, together, argument);
}

cudaError_t allow_shared_memory(const void* kernel, size_t bytes) {
  if (bytes > kMostSharedBytes) return cudaErrorInvalidValue;
  size_t& allowed = machine.allowed_bytes[kernel];
  allowed = std::max(bytes, kUnaskedSharedBytes);
  return cudaSuccess;
}

}  // namespace cuda_on_cpu

// Few multiprocessors, so that blocks take many turns.
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr name, int) {
  switch (name) {
    case cudaDevAttrMultiProcessorCount: *value = 2; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = kMostSharedBytes; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}

// What csrc/include/launch.h asks of PyTorch about devices; its tensors are on the CPU here.
extern "C" {

__attribute__((visibility("default"))) void cuda_on_cpu_order(int order) { machine.order = order; }

int32_t aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}

int32_t aoti_torch_create_device_guard(int32_t, void** guard) {
  *guard = nullptr;
  return 0;
}

int32_t aoti_torch_delete_device_guard(void*) { return 0; }
}
