// Control flow: function pointers, virtual calls, switches, arrays indexed at run time, spin locks.
typedef unsigned u32;

__device__ __noinline__ int twice(int x) { return 2 * x; }
__device__ __noinline__ int square(int x) { return x * x; }
__device__ __noinline__ int negate(int x) { return -x; }
typedef int (*Function)(int);
__device__ Function table[3] = {twice, square, negate};

extern "C" __global__ void pointers(const int* x, int* y) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  y[i] = table[i % 3](x[i]);
}

struct Shape {
  __device__ virtual int area(int x) const = 0;
};
struct Square : Shape {
  __device__ int area(int x) const override { return x * x; }
};
struct Strip : Shape {
  int width;
  __device__ Strip(int width) : width(width) {}
  __device__ int area(int x) const override { return x * width; }
};

extern "C" __global__ void virtual_calls(const int* x, int* y) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  Square square;
  Strip strip(i);
  const Shape* shapes[2] = {&square, &strip};
  y[i] = shapes[x[i] & 1]->area(x[i]);
}

extern "C" __global__ void local_array(const int* x, int* y, int n) {
  int own[24], i = blockIdx.x * blockDim.x + threadIdx.x;
  for (int j = 0; j < 24; j++) own[j] = x[(i + j) % n];
  // Sort by insertion.
  for (int j = 1; j < 24; j++)
    for (int k = j; k > 0 && own[k - 1] > own[k]; k--) {
      int t = own[k];
      own[k] = own[k - 1];
      own[k - 1] = t;
    }
  y[i] = own[i % 24];
}

extern "C" __global__ void branches(const int* x, int* y) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, v = x[i], r = 0;
  switch (v % 9) {
    case 0: r = v + 7; break;
    case 1: r = v * 3; break;
    case 2: for (int k = 0; k < v; k++) r += k & 3; break;
    case 3: r = v ^ 85; break;
    case 4: r = __clz(v);
    case 5: r += 11; break;
    case 6: while (v > 1) { v = v % 2 ? 3 * v + 1 : v / 2; r++; } break;
    case 7: r = -v; break;
    default: r = 1 << v % 31;
  }
  y[i] = r;
}

// A lock that one lane of each warp takes, round a plain sum.
extern "C" __global__ void spin_lock(int* lock, int* sum) {
  if (threadIdx.x % 32 == 0) {
    while (atomicCAS(lock, 0, 1) != 0) __nanosleep(20);
    __threadfence();
    *reinterpret_cast<volatile int*>(sum) += threadIdx.x / 32 + 1;
    __threadfence();
    atomicExch(lock, 0);
  }
}
