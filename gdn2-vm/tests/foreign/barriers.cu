// Barriers, pipelines and asynchronous copies of the standard library and of cooperative groups.
#include <cooperative_groups.h>
#include <cooperative_groups/memcpy_async.h>
#include <cuda/atomic>
#include <cuda/barrier>
#include <cuda/pipeline>
namespace cg = cooperative_groups;

// Sums of each thread's numbers, fetched two tiles ahead through a pipeline of the whole block.
extern "C" __global__ void pipelined(const int* x, int* y, int tiles) {
  __shared__ int stage[2][128];
  __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, 2> state;
  auto block = cg::this_thread_block();
  auto pipe = cuda::make_pipeline(block, &state);
  int sum = 0, fetched = 0;
  for (int tile = 0; tile < tiles; tile++) {
    for (; fetched < tiles && fetched < tile + 2; fetched++) {
      pipe.producer_acquire();
      cuda::memcpy_async(block, stage[fetched % 2], x + fetched * 128, sizeof stage[0], pipe);
      pipe.producer_commit();
    }
    pipe.consumer_wait();
    sum += stage[tile % 2][127 - threadIdx.x];
    pipe.consumer_release();
  }
  y[threadIdx.x] = sum;
}

// The same, one tile at a time, on a barrier.
extern "C" __global__ void on_barrier(const int* x, int* y, int tiles) {
  __shared__ int stage[128];
  __shared__ cuda::barrier<cuda::thread_scope_block> bar;
  auto block = cg::this_thread_block();
  if (threadIdx.x == 0) init(&bar, blockDim.x);
  block.sync();
  int sum = 0;
  for (int tile = 0; tile < tiles; tile++) {
    cuda::memcpy_async(block, stage, x + tile * 128, sizeof stage, bar);
    bar.arrive_and_wait();
    sum += stage[127 - threadIdx.x];
    block.sync();
  }
  y[threadIdx.x] = sum;
}

// The same by a group's own copies.
extern "C" __global__ void in_groups(const int* x, int* y, int tiles) {
  __shared__ int stage[2][128];
  auto block = cg::this_thread_block();
  cg::memcpy_async(block, stage[0], x, sizeof stage[0]);
  int sum = 0;
  for (int tile = 0; tile < tiles; tile++) {
    if (tile + 1 < tiles) {
      cg::memcpy_async(block, stage[(tile + 1) % 2], x + (tile + 1) * 128, sizeof stage[0]);
      cg::wait_prior<1>(block);
    } else {
      cg::wait(block);
    }
    sum += stage[tile % 2][127 - threadIdx.x];
    block.sync();
  }
  y[threadIdx.x] = sum;
}

// Tickets of a counter, and one block's hand-over to the next through a flag that is released and acquired.
extern "C" __global__ void relay(int* counter, int* tickets, int* sums, int* flags) {
  cuda::atomic_ref<int, cuda::thread_scope_device> count(*counter);
  tickets[blockIdx.x * blockDim.x + threadIdx.x] = count.fetch_add(1, cuda::memory_order_relaxed);
  if (threadIdx.x != 0) return;
  int before = 0;
  if (blockIdx.x > 0) {
    cuda::atomic_ref<int, cuda::thread_scope_device> flag(flags[blockIdx.x - 1]);
    while (flag.load(cuda::memory_order_acquire) == 0) {}
    before = sums[blockIdx.x - 1];
  }
  sums[blockIdx.x] = before + static_cast<int>(blockIdx.x) + 1;
  cuda::atomic_ref<int, cuda::thread_scope_device>(flags[blockIdx.x]).store(1, cuda::memory_order_release);
}
