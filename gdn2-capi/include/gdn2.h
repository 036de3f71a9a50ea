/* Delta-rule linear-attention kernels from C: load the rules of a text on a device, call them on host memory.
 *
 * Every function that returns int gives 0 for success; otherwise gdn2_last_error() says what was wrong, on the thread
 * that called. Handles may be used from several threads at once. SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef GDN2_H
#define GDN2_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* GDN2_F64 is for host memory on the device cpu:f64, where every tensor of a call may be float64, states included. */
enum { GDN2_F32 = 0, GDN2_BF16 = 1, GDN2_F16 = 2, GDN2_F64 = 3 };

/* The kernels of one rule on one device. */
typedef struct gdn2_kernels gdn2_kernels;

/* A tensor in host memory, or on a GPU for calls on a stream. The last axis is contiguous; strides count elements; the
 * address is a multiple of an element's size. data NULL = absent. */
typedef struct {
  void *data;
  int32_t dtype; /* GDN2_F32, ... */
  int32_t rank;  /* 1 to 4 */
  int64_t shape[4];
  int64_t strides[4];
} gdn2_tensor;

/* Inputs of a call. B sequences of T tokens, H query and key heads, HV value heads. Gates that the rule does not have
 * stay absent; given ones are an error. Tensors of another dtype than the rule stores are converted on their way in. */
typedef struct {
  gdn2_tensor q;             /* [B,T,H,K] */
  gdn2_tensor k;             /* [B,T,H,K] */
  gdn2_tensor v;             /* [B,T,HV,V] */
  gdn2_tensor g;             /* natural-log decay, [B,T,HV] or [B,T,HV,K] */
  gdn2_tensor b;             /* erase gate (erase and write where tied), [B,T,HV] or [B,T,HV,K] */
  gdn2_tensor w;             /* write gate, [B,T,HV] or [B,T,HV,V] */
  gdn2_tensor initial_state; /* f32 [N,HV,K,V], [N,HV,V,K] for state: vk; absent = zeros; unused by gdn2_decode */
  const int64_t *cu_seqlens; /* N + 1 offsets of packed sequences; NULL = dense rows; unused by gdn2_decode */
  int64_t cu_seqlens_len;
  const int32_t *slots; /* gdn2_decode: state of the pool for each sequence, negative = skip; NULL = its index */
  int64_t slots_len;
  float scale;          /* factor on q; 0 = 1/sqrt(K) unless scale_given */
  int32_t scale_given;  /* not 0: scale is meant as it stands, 0 included */
  const gdn2_tensor *named; /* parameters f32 [HV] or [HV,channels], then logits of lets, as gdn2_named numbers them */
  int64_t named_len;
} gdn2_call;

/* Where gradients go, each shaped as what it is the gradient of, row-major; absent ones are not wanted. */
typedef struct {
  gdn2_tensor dq, dk, dv, dg, db, dw, d_initial_state;
  const gdn2_tensor *named; /* of what the rule names itself, as gdn2_named numbers it; NULL = none wanted */
  int64_t named_len;
} gdn2_gradients;

/* Loads one rule of a rule file's text. name NULL = the only one. device: "cpu", "cpu:f64", "vm",
 * "vm:ARCH" such as "vm:sm_90a", which runs the kernels that a GPU of that architecture would load, or "cuda:N". */
int gdn2_load(const char *rules, const char *name, const char *device, gdn2_kernels **kernels);
void gdn2_free(gdn2_kernels *kernels);

enum { GDN2_NONE = 0, GDN2_SCALAR = 1, GDN2_CHANNEL = 2, GDN2_TIED = 3 };

/* A rule as it was loaded: head dims, how finely each gate acts, what each tensor is stored in. States are f32. */
typedef struct {
  int32_t key_dim, value_dim, dtype;
  int32_t decay, decay_dtype; /* g: GDN2_NONE, GDN2_SCALAR or GDN2_CHANNEL */
  int32_t erase, erase_dtype; /* b */
  int32_t write, write_dtype; /* w; GDN2_TIED where b is both */
  int32_t state_vk;           /* 1 where states are [N,HV,V,K] */
} gdn2_rule;

int gdn2_rule_of(const gdn2_kernels *kernels, gdn2_rule *rule);

/* Tensors that a rule names itself: its parameters and then the logits of its lets, in the order of their declaration. The
 * name of one, NULL beyond the last; valid until the thread's next call. */
const char *gdn2_named(const gdn2_kernels *kernels, int32_t place);

/* The library's version, such as "0.1.0". */
const char *gdn2_version(void);

/* The chunked forward pass. o [B,T,HV,V] and final_state f32 are row-major and written; either may be absent. */
int gdn2_forward(const gdn2_kernels *kernels, const gdn2_call *call, const gdn2_tensor *o,
                 const gdn2_tensor *final_state);

/* The gradients of sum(o * d_o) + sum(final_state * d_final_state) for the inputs of a forward call. d_final_state may
 * be NULL or absent: zeros. */
int gdn2_backward(const gdn2_kernels *kernels, const gdn2_call *call, const gdn2_tensor *d_o,
                  const gdn2_tensor *d_final_state, const gdn2_gradients *gradients);

/* One token, or a short run of tokens, per sequence. state is f32, row-major, read and written in place. */
int gdn2_decode(const gdn2_kernels *kernels, const gdn2_call *call, const gdn2_tensor *state, const gdn2_tensor *o);

/* ---- Calls on a stream: every address of a struct (tensors, cu_seqlens, slots) is device memory. ----
 *
 * Shapes, dtypes, strides and alignment are checked, then the kernels are put on the stream: nothing is copied, converted
 * or waited for, so tensors must have the dtypes that the rule stores. The caller promises that the stream (a CUstream)
 * and the memory belong to the device's primary context, that memory lives until the stream has passed the call, that
 * cu_seqlens ascends from 0 to T, and that slots which are not negative differ and lie in the pool. */

/* scratch is device memory of as many bytes as gdn2_forward_scratch says; without it, 0 and 0, the built-in kernel runs
 * where the call's record has one that needs it. */
int gdn2_forward_on(const gdn2_kernels *kernels, void *stream, const gdn2_call *call, const gdn2_tensor *o,
                    const gdn2_tensor *final_state, uint64_t scratch, int64_t scratch_bytes);
int gdn2_decode_on(const gdn2_kernels *kernels, void *stream, const gdn2_call *call, const gdn2_tensor *state,
                   const gdn2_tensor *o);

/* Training: forward leaves in scratch what backward reads there. scratch is device memory of as many bytes as
 * gdn2_training_scratch says. */
int gdn2_forward_for_backward_on(const gdn2_kernels *kernels, void *stream, const gdn2_call *call, const gdn2_tensor *o,
                                 const gdn2_tensor *final_state, uint64_t scratch, int64_t scratch_bytes);
int gdn2_backward_on(const gdn2_kernels *kernels, void *stream, const gdn2_call *call, const gdn2_tensor *d_o,
                     const gdn2_tensor *d_final_state, const gdn2_gradients *gradients, uint64_t scratch,
                     int64_t scratch_bytes);

/* ---- Raw calls on a GPU: device addresses, a CUDA stream, no copies, no waiting, one driver call per kernel. ---- */

/* A token tensor in device memory. Strides count elements; the last axis is contiguous. With channels, address and
 * strides are multiples of 16 bytes. */
typedef struct {
  uint64_t address; /* 0 = absent */
  int64_t batch, token, head;
} gdn2_view;

enum { GDN2_MOST_NAMED = 16 };

/* Tensors in the dtypes that the rule stores them in. Must be zeroed before its fields are set. */
typedef struct {
  gdn2_view q, k, v, g, b, w, o;
  uint64_t initial_state; /* f32 pool [slots,HV,K,V] in the rule's layout; 0 = zeros */
  uint64_t final_state;   /* f32 pool, written; 0 = not asked for */
  uint64_t initial_slots; /* int32 [N], negative = none; 0 = sequence index */
  uint64_t final_slots;   /* int32 [N], negative = none; 0 = sequence index */
  uint64_t cu_seqlens;    /* [N+1] ascending offsets from 0; 0 = dense rows */
  int32_t cu_seqlens_is_64;
  int32_t sequences;   /* N: batch rows, or packed sequences */
  int32_t tokens;      /* T: tokens per dense row, or of all packed sequences together */
  int32_t key_heads;   /* H */
  int32_t value_heads; /* HV, a multiple of H */
  float scale;
  struct {
    gdn2_view d_o, dq, dk, dv, dg, db, dw;
    uint64_t d_final_state, d_initial_state;
  } gradients; /* gdn2_backward_raw: d_o and d_final_state are read, the others written */
  gdn2_view named[GDN2_MOST_NAMED];           /* as gdn2_named numbers them; parameters have no strides */
  gdn2_view named_gradients[GDN2_MOST_NAMED]; /* gdn2_backward_raw: written; 0 = not wanted */
} gdn2_arguments;

int gdn2_forward_raw(const gdn2_kernels *kernels, void *stream, const gdn2_arguments *call);
int gdn2_decode_raw(const gdn2_kernels *kernels, void *stream, const gdn2_arguments *call);

/* gdn2_forward_raw with the kernel of the call's record even where that needs scratch memory, in whose place
 * gdn2_forward_raw takes the built-in one. scratch is device memory of as many bytes as gdn2_forward_scratch says. */
int gdn2_forward_with_scratch_raw(const gdn2_kernels *kernels, void *stream, const gdn2_arguments *call,
                                  uint64_t scratch);

/* Training: forward leaves in the scratch memory what backward reads there, with the same call. scratch is device memory
 * of as many bytes as gdn2_training_scratch says. */
int gdn2_forward_for_backward_raw(const gdn2_kernels *kernels, void *stream, const gdn2_arguments *call,
                                  uint64_t scratch);
int gdn2_backward_raw(const gdn2_kernels *kernels, void *stream, const gdn2_arguments *call, uint64_t scratch);

/* The sizes of a call, by which its kernels are chosen: N batch rows or packed sequences, and all their tokens. */
typedef struct {
  int64_t sequences, total_tokens, key_heads, value_heads;
} gdn2_shape;

int gdn2_forward_scratch(const gdn2_kernels *kernels, gdn2_shape shape, int64_t *bytes);
int gdn2_training_scratch(const gdn2_kernels *kernels, gdn2_shape shape, int64_t *bytes);

/* Makes ready every kernel that calls of a shape get: after it, none of them compiles, loads or allocates anything. */
int gdn2_warmup(const gdn2_kernels *kernels, gdn2_shape shape);

/* Which kernel each pass of a shape gets, and why, a line each. Valid until the thread's next call; NULL: see the
 * error. */
const char *gdn2_explain(const gdn2_kernels *kernels, gdn2_shape shape);

/* Counts every call from now on, by pass and shape. A call costs a look at those before it. */
int gdn2_watch_shapes(const gdn2_kernels *kernels);

/* The calls since then, a line each: what `gdn2 tune --seen` takes. Valid until the thread's next call; NULL: see the
 * error. */
const char *gdn2_seen_shapes(const gdn2_kernels *kernels);

/* What was wrong with this thread's last failed call; "" before any. Valid until the thread's next call. */
const char *gdn2_last_error(void);

#ifdef __cplusplus
}
#endif
#endif
