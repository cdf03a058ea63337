// Every row of x in e4m3, with a scale of its own, laid out as eight.cu multiplies it: for Hopper.
//
// x = out * scale, or x / rms(x) * norm. Of each 128 inputs all rows stand together, 128 bytes a row, in the order in
// which a warp has the weight's bytes in its registers: of the 16 that a lane reads at once, 4 go to each of 4 pieces.
// Pieces of 16 bytes change places as the tensor cores expect it of memory that has no conflicts between banks.
//
// To be defined: SIZE inputs, ROWS that there is place for (a multiple of 8), and, 0 or 1, NORM.

constexpr int THREADS = 256, UNITS = SIZE / 16, MINE = (UNITS + THREADS - 1) / THREADS;  // of 16 inputs; a thread's
static_assert(SIZE % 128 == 0 && ROWS % 8 == 0);

struct Arguments {
  const u16 *x, *norm;
  char *out;
  float *scales;
};

struct Eight {  // numbers in bfloat16
  Four at;

  __device__ float operator[](int number) const {
    u32 pair = (&at.x)[number / 2];
    return number % 2 ? high(pair) : low(pair);
  }
};

__device__ inline u32 narrowed(float first, float second, float third, float fourth) {
  u16 lower, upper;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(lower) : "f"(second), "f"(first));
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(upper) : "f"(fourth), "f"(third));
  return u32(lower) | u32(upper) << 16;
}

extern "C" __global__ void __launch_bounds__(THREADS) narrow(Arguments of, float eps) {
  __shared__ float squares[THREADS / 32], mosts[THREADS / 32];
  int row = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  asm volatile("griddepcontrol.launch_dependents;");
  float v[MINE][16];
  if (NORM)
#pragma unroll
    for (int i = 0; i < MINE; i++) {
      int unit = threadIdx.x + i * THREADS;
      if (unit < UNITS)
        for (int half = 0; half < 2; half++) {
          Eight norm{*(const Four *)(of.norm + 16 * unit + 8 * half)};
          for (int j = 0; j < 8; j++) v[i][8 * half + j] = norm[j];
        }
    }
  asm volatile("griddepcontrol.wait;" ::: "memory");
  float square = 0.0f, most = 0.0f;
#pragma unroll
  for (int i = 0; i < MINE; i++) {
    int unit = threadIdx.x + i * THREADS;
    if (unit < UNITS)
      for (int half = 0; half < 2; half++) {
        Eight x{made((const Four *)(of.x + (i64)row * SIZE + 16 * unit + 8 * half))};
        for (int j = 0; j < 8; j++) {
          float &number = v[i][8 * half + j];
          square += x[j] * x[j];
          number = NORM ? x[j] * number : x[j];
          most = fmaxf(most, fabsf(number));
        }
      }
  }
  for (int other = 16; other; other /= 2) {
    square += __shfl_xor_sync(0xffffffffu, square, other);
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, other));
  }
  if (lane == 0) squares[warp] = square, mosts[warp] = most;
  __syncthreads();
  square = most = 0.0f;
  for (int other = 0; other < THREADS / 32; other++) square += squares[other], most = fmaxf(most, mosts[other]);
  most = fmaxf(most, 1e-12f);
  if (threadIdx.x == 0) of.scales[row] = most / 448.0f * (NORM ? rsqrtf(square / SIZE + eps) : 1.0f);
  float to = 448.0f / most;
#pragma unroll
  for (int i = 0; i < MINE; i++) {
    int unit = threadIdx.x + i * THREADS;
    if (unit >= UNITS) break;
    int line = unit / 8, half = unit % 8 / 4, quarter = unit % 4;
    char *at = of.out + ((i64)line * ROWS + row) * 128 + 4 * quarter;
    for (int word = 0; word < 4; word++) {
      const float *four = v[i] + 4 * word;
      *(u32 *)(at + 16 * ((4 * half + word) ^ (row % 8))) =
          narrowed(four[0] * to, four[1] * to, four[2] * to, four[3] * to);
    }
  }
}
