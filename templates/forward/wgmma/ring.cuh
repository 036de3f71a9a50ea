// The ring that chunks pass through, and the barriers that tell how far each of its buffers is:
//
//   load --full--> factors --ready--> state --empty--> load        a buffer's
//   load --values--> state --values_read--> load                   of the values, of which there is one buffer
#pragma once

#include "numbers.cuh"
#include "ptx/elements.cuh"
#include "ptx/shared.cuh"

// How many numbers a gate has: none, one per token, one per token and channel.
enum : int { ABSENT = 0, TOKEN = 1, CHANNEL = 2 };

// Blocks of 16 tokens.
enum : int { BLOCKS = CHUNK / 16 };

// A barrier in shared memory.
struct Barrier {
  int offset;

  METHOD void begin(int arrivals) const {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(offset)), "r"(arrivals) : "memory");
  }
  // A warp arrives, whose lanes have met since what they did.
  METHOD void arrive_alone() const {
    if (lane_index() == 0) {
      asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(offset)) : "memory");
    }
  }
  // A warp arrives: what its lanes have done is seen by whoever waits.
  METHOD void arrive() const {
    __syncwarp();
    arrive_alone();
  }
  // A thread arrives once its copies so far have landed.
  METHOD void arrive_copied() const {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(offset)) : "memory");
  }
  METHOD void wait(int parity) const {
    u32 done;
    do {
      asm volatile(
          "{ .reg .pred p;\n"
          "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
          "selp.u32 %0, 1, 0, p; }"
          : "=r"(done)
          : "r"(shared_address(offset)), "r"(parity)
          : "memory");
    } while (done == 0);
  }
};

// Where chunks of a sequence of `length` tokens begin, in the order that the scan takes them: first to last, or back.
enum : int { NEXT_CHUNK = BACK ? -CHUNK : CHUNK };
DEVICE int first_chunk(int length) { return BACK ? (length + CHUNK - 1) / CHUNK * CHUNK - CHUNK : 0; }
DEVICE bool is_chunk(int first, int length) { return BACK ? first >= 0 : first < length; }

// The threads of the factor warpgroup meet.
DEVICE void group_sync() { asm volatile("bar.sync 1, 128;" ::: "memory"); }

// A chunk's buffer of the ring, and the parity of the phases that its barriers are in.
struct Stage {
  int index = 0, parity = 0;

  METHOD void advance() {
    index = index + 1 == STAGES ? 0 : index + 1;
    if (index == 0) parity ^= 1;
  }
};

// What the buffer holds, as offsets: barriers, tiles, vectors over the chunk's tokens.
template <class Cfg>
struct Buffer {
  using Element = typename Cfg::Element;
  // Whether what is erased lacks a factor per token, which is in a vector of its own.
  enum : bool { RESIDUAL = Cfg::ERASE == TOKEN || (Cfg::ERASE == CHANNEL && Cfg::DECAY == TOKEN) };
  int index;
  METHOD explicit Buffer(const Stage& stage) : index(stage.index) {}

  METHOD Barrier full() const { return {Cfg::SMEM_FULL + index * 8}; }
  METHOD Barrier ready() const { return {Cfg::SMEM_READY + index * 8}; }
  METHOD Barrier empty() const { return {Cfg::SMEM_EMPTY + index * 8}; }

  template <typename T = Element>
  METHOD int tile(int first) const {
    return first + index * (CHUNK * KEY * static_cast<int>(sizeof(T)));
  }
  METHOD int queries() const {
    if constexpr (Cfg::OUTPUTS) return tile(Cfg::SMEM_Q);
    else return 0;
  }
  METHOD int keys() const { return tile(Cfg::SMEM_K); }
  METHOD int decays() const { return tile<typename Cfg::Decay>(Cfg::SMEM_G); }
  METHOD int gates() const { return tile<typename Cfg::Erase>(Cfg::SMEM_B); }
  // e = b k, scaled where channels decay: over b, in a tile of its own, or k itself where a token's gate scales it elsewhere.
  METHOD int erased() const {
    if constexpr (Cfg::OWN_ERASED) return tile(Cfg::SMEM_E);
    else if constexpr (Cfg::ERASE == CHANNEL) return tile(Cfg::SMEM_B);
    else return keys();
  }
  // P and M, over a channel-wise decay that is spent where it leaves them room. Without outputs there are no queries and no P.
  METHOD int p() const {
    if constexpr (!Cfg::OUTPUTS) return 0;
    else if constexpr (Cfg::OVER_DECAYS) return decays();
    else return Cfg::SMEM_P + index * SQUARE;
  }
  METHOD int m() const {
    if constexpr (Cfg::OVER_DECAYS) return decays() + SQUARE;
    else return Cfg::SMEM_M + index * SQUARE;
  }
  METHOD int vector(int first) const { return first + index * (CHUNK * 4); }
  // The decay over the chunk: one number, or one to a channel.
  METHOD int chunk_decay() const { return Cfg::SMEM_CHUNK_DECAY + index * (Cfg::DECAY == CHANNEL ? KEY * 4 : 16); }

 private:
  enum : int { SQUARE = CHUNK * CHUNK * 2 };
};

// By one thread, before any other looks.
template <class Cfg>
DEVICE void begin_barriers() {
  for (Stage stage; stage.parity == 0; stage.advance()) {
    const Buffer<Cfg> buffer(stage);
    buffer.full().begin(THREADS + WARPS);
    buffer.ready().begin(WARPS);
    buffer.empty().begin(STATE_WARPS);
  }
  Barrier{Cfg::SMEM_VALUES}.begin(THREADS);
  Barrier{Cfg::SMEM_VALUES_READ}.begin(STATE_WARPS);
}
