// Few rows times a large weight, as fast as the memory reads the weight: for Hopper and later, in bfloat16.
//
// out = (x / rms(x) * norm) weight' * scale + add, or silu of one half of that times the other half. Every warp takes
// 128 bytes of each of 16 outputs at once, straight into the registers from which the tensor cores multiply: inputs may
// be added up in any order, as long as weight and x agree. Some warps share 16 outputs, a tile, and the warp's next
// DEPTH pieces are under way while it multiplies, from one tile to the next without a pause. The first ones are asked
// for before the kernel ahead of this one has ended: weights are nobody's result.
//
// To be defined: SIZE inputs, OUTS outputs (rows of the weight), ROWS of x at most (a power of two), SPLITS parts of the
// inputs, each for other blocks, and, 0 or 1, EIGHT (weights in e4m3), NORM, GATED, ADDS.

typedef unsigned int u32;
typedef unsigned short u16;

constexpr int WARPS = 8, THREADS = 32 * WARPS, DEPTH = 4, BLOCKS = 2;
constexpr int LINE = EIGHT ? 128 : 64;  // inputs in 128 bytes
constexpr int LINES = SIZE / LINE, PART = (LINES + SPLITS - 1) / SPLITS, WIDTH = PART * LINE;
constexpr int TURNS = (PART + WARPS * DEPTH - 1) / (WARPS * DEPTH) * DEPTH;  // of a warp in a tile
constexpr int TILES = OUTS / 16, RESULTS = GATED ? OUTS / 2 : OUTS;
constexpr int GROUPS = (ROWS + 7) / 8, SUMS = GROUPS * 128;  // of a tile
constexpr int STRIDE = WIDTH + (EIGHT ? 8 : 32);  // so that the lanes of a warp find x in different banks
constexpr int SHARE = WARPS > ROWS ? WARPS / ROWS : 1;  // warps that lay out a row together
static_assert(SIZE % LINE == 0 && OUTS % 16 == 0 && (ROWS & (ROWS - 1)) == 0);

struct __align__(16) Four {
  u32 x, y, z, w;
};

__device__ inline Four streamed(const char *from) {  // read once: not kept in the first cache
  Four v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
  return v;
}

__device__ inline Four made(const u16 *from) {  // by the kernels ahead: the first cache may hold what was there before
  Four v;
  asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from) : "memory");
  return v;
}

__device__ inline u16 made_one(const u16 *from) {
  u16 v;
  asm volatile("ld.global.cg.u16 %0, [%1];" : "=h"(v) : "l"(from) : "memory");
  return v;
}

__device__ inline float made_one(const float *from) {
  float v;
  asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(v) : "l"(from) : "memory");
  return v;
}

__device__ inline float low(u32 pair) { return __uint_as_float(pair << 16); }
__device__ inline float high(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

__device__ inline u32 pair_of(float lower, float upper) {
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(upper), "f"(lower));
  return pair;
}

__device__ inline u16 narrow(float v) { return u16(pair_of(v, 0.0f)); }

__device__ inline u32 widened(u16 two) {  // numbers of e4m3, all of which bfloat16 has
  float lower, upper;
  asm("{ .reg .b32 both; .reg .b16 lo, hi; cvt.rn.f16x2.e4m3x2 both, %2; mov.b32 {lo, hi}, both;"
      " cvt.f32.f16 %0, lo; cvt.f32.f16 %1, hi; }" : "=f"(lower), "=f"(upper) : "h"(two));
  return pair_of(lower, upper);
}

__device__ inline void multiply(float (&total)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(total[0]), "+f"(total[1]), "+f"(total[2]), "+f"(total[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// x times norm, a pair of numbers; their squares are added up.
__device__ inline u32 normed(u32 x, u32 norm, float &square) {
  float lower = low(x), upper = high(x);
  square += lower * lower + upper * upper;
  return pair_of(lower * low(norm), upper * high(norm));
}

struct Arguments {
  const u16 *x, *norm;
  const char *weight;
  const float *scale;
  const u16 *add;
  u16 *out;
  float *parts, *squares;  // of all splits: sums by tile, and squares by row
  int *arrived;            // blocks that have written their part, by tile
};

// Places of the shared memory: x, sums of all warps (two tiles in turn), squares of x.
struct Memory {
  u16 x[ROWS * STRIDE];
  float sums[2][WARPS * SUMS];
  float squares[ROWS * SHARE];
  int last;
};

// The part of x that this block multiplies with, times norm, and its squares.
__device__ inline void lay_out(const Arguments &of, Memory &memory, int rows, int first, int width) {
  constexpr int STEP = 32 * SHARE, AT_ONCE = 4;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int row = warp / SHARE; row < rows; row += WARPS / SHARE) {
    const u16 *from = of.x + (long long)row * SIZE + first;
    float square = 0.0f;
    for (int begin = (warp % SHARE) * 32 + lane; begin < width / 8; begin += AT_ONCE * STEP) {
      Four held[AT_ONCE], norm[AT_ONCE];
#pragma unroll
      for (int i = 0; i < AT_ONCE; i++) {
        int at = 8 * (begin + i * STEP);
        if (at < width) {
          held[i] = made(from + at);
          if (NORM) norm[i] = *(const Four *)(of.norm + first + at);
        }
      }
#pragma unroll
      for (int i = 0; i < AT_ONCE; i++) {
        int at = 8 * (begin + i * STEP);
        if (at < width) {
          Four v = held[i];
          if (NORM)
            v = {normed(v.x, norm[i].x, square), normed(v.y, norm[i].y, square), normed(v.z, norm[i].z, square),
                 normed(v.w, norm[i].w, square)};
          *(Four *)(memory.x + row * STRIDE + at) = v;
        }
      }
    }
    if (NORM) {
      for (int other = 16; other; other /= 2) square += __shfl_xor_sync(0xffffffffu, square, other);
      if (lane == 0) memory.squares[row * SHARE + warp % SHARE] = square;
    }
  }
}

// 128 bytes of 16 outputs: `w` has this lane's of two outputs, and `x` points to its inputs in the first row.
__device__ inline void take(const Four (&w)[4], const u16 *const (&x)[GROUPS], int at, float (&total)[GROUPS][4]) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const Four &a = w[half], &b = w[2 + half];
    if (EIGHT) {
      u32 left[4] = {a.x, a.y, a.z, a.w}, right[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int two = 0; two < 2; two++) {
        u32 a_low[2], a_high[2], b_low[2], b_high[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
          a_low[i] = widened(u16(left[2 * two + i])), a_high[i] = widened(u16(left[2 * two + i] >> 16));
          b_low[i] = widened(u16(right[2 * two + i])), b_high[i] = widened(u16(right[2 * two + i] >> 16));
        }
#pragma unroll
        for (int group = 0; group < GROUPS; group++) {
          Four v = *(const Four *)(x[group] + at + half * 64 + two * 8);
          multiply(total[group], a_low[0], b_low[0], a_high[0], b_high[0], v.x, v.y);
          multiply(total[group], a_low[1], b_low[1], a_high[1], b_high[1], v.z, v.w);
        }
      }
    } else {
#pragma unroll
      for (int group = 0; group < GROUPS; group++) {
        Four v = *(const Four *)(x[group] + at + half * 32);
        multiply(total[group], a.x, b.x, a.y, b.y, v.x, v.y);
        multiply(total[group], a.z, b.z, a.w, b.w, v.z, v.w);
      }
    }
  }
}

// One number of a tile: number `at` of its sums belongs to this row of x and this output.
struct Place {
  int row, output, partner;  // partner: 1 of what is gated

  __device__ Place(int tile, int at) {
    int lane = at / 4 % 32;
    row = at / 128 * 8 + 2 * (lane % 4) + at % 2;
    partner = at % 4 / 2;
    output = GATED ? tile * 8 + lane / 4 : tile * 16 + lane / 4 + 8 * partner;
  }
};

__device__ inline void write(const Arguments &of, const Place &place, float total, float squares, int rows, int stride, float eps) {
  if (EIGHT) total *= of.scale[place.output + (GATED ? place.partner * RESULTS : 0)];
  if (NORM) total *= rsqrtf(squares / SIZE + eps);
  if (GATED) {
    float up = __shfl_xor_sync(0xffffffffu, total, 2);
    total = total / (1.0f + __expf(-total)) * up;
    if (place.partner) return;
  }
  if (place.row >= rows) return;
  if (ADDS) total += low(made_one(of.add + (long long)place.row * stride + place.output));
  of.out[(long long)place.row * RESULTS + place.output] = narrow(total);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    product(Arguments of, int rows, int stride, float eps) {
  extern __shared__ __align__(16) char raw[];
  Memory &memory = *(Memory *)raw;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int first = blockIdx.y * PART, lines = min(PART, LINES - first);
  asm volatile("griddepcontrol.launch_dependents;");

  Four held[DEPTH][4];
  constexpr long long ROW = (long long)SIZE * (EIGHT ? 1 : 2), OTHER = (GATED ? RESULTS : 8) * ROW;
  const char *weight = of.weight + (lane / 4) * ROW + first * 128 + (lane % 4) * 16;
  int tile_ahead = blockIdx.x, turn_ahead = 0;
  auto fetch = [&](Four(&to)[4]) {
    int line = turn_ahead * WARPS + warp;
    if (tile_ahead < TILES && line < lines) {
      const char *from = weight + tile_ahead * ((GATED ? 8 : 16) * ROW) + line * 128;
      to[0] = streamed(from), to[1] = streamed(from + 64);
      to[2] = streamed(from + OTHER), to[3] = streamed(from + OTHER + 64);
    }
    if (++turn_ahead == TURNS) turn_ahead = 0, tile_ahead += gridDim.x;
  };
#pragma unroll
  for (int slot = 0; slot < DEPTH; slot++) fetch(held[slot]);

  asm volatile("griddepcontrol.wait;" ::: "memory");
  lay_out(of, memory, rows, first * LINE, lines * LINE);
  __syncthreads();
  const u16 *x[GROUPS];
#pragma unroll
  for (int group = 0; group < GROUPS; group++) {
    int row = group * 8 + lane / 4;
    x[group] = memory.x + (row < rows ? row : 0) * STRIDE + (lane % 4) * (EIGHT ? 16 : 8);
  }
  auto squares_of = [&](int row) {
    float square = 0.0f;
    for (int share = 0; share < SHARE; share++) square += memory.squares[row * SHARE + share];
    return square;
  };
  if (NORM && SPLITS > 1)
    for (int row = threadIdx.x; row < rows; row += THREADS) of.squares[blockIdx.y * ROWS + row] = squares_of(row);

  int turn_of_sums = 0;
  for (int tile = blockIdx.x; tile < TILES; tile += gridDim.x) {
    float total[GROUPS][4] = {};
#pragma unroll 1
    for (int turn = 0; turn < TURNS; turn += DEPTH) {
#pragma unroll
      for (int slot = 0; slot < DEPTH; slot++) {
        int line = (turn + slot) * WARPS + warp;
        if (line < lines) take(held[slot], x, line * LINE, total);
        fetch(held[slot]);
      }
    }
    float *sums = memory.sums[turn_of_sums];
    turn_of_sums ^= 1;  // whoever still adds up the last tile's is not disturbed
#pragma unroll
    for (int group = 0; group < GROUPS; group++)
      *(float4 *)(sums + warp * SUMS + group * 128 + lane * 4) =
          make_float4(total[group][0], total[group][1], total[group][2], total[group][3]);
    __syncthreads();
    auto sum = [&](int at) {
      float found = 0.0f;
      for (int other = 0; other < WARPS; other++) found += sums[other * SUMS + at];
      return found;
    };
    if (SPLITS == 1) {
      for (int at = threadIdx.x; at < SUMS; at += THREADS) {
        Place place(tile, at);
        write(of, place, sum(at), NORM && place.row < rows ? squares_of(place.row) : 0.0f, rows, stride, eps);
      }
      continue;
    }
    float *parts = of.parts + (long long)tile * SUMS;
    constexpr long long APART = (long long)TILES * SUMS;
    for (int at = threadIdx.x; at < SUMS; at += THREADS) parts[blockIdx.y * APART + at] = sum(at);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) memory.last = atomicAdd(of.arrived + tile, 1) == SPLITS - 1;
    __syncthreads();
    if (!memory.last) continue;
    __threadfence();
    for (int at = threadIdx.x; at < SUMS; at += THREADS) {
      Place place(tile, at);
      float found = 0.0f, squares = 0.0f;
      for (int split = 0; split < SPLITS; split++) {
        found += made_one(parts + split * APART + at);
        if (NORM && place.row < rows) squares += made_one(of.squares + split * ROWS + place.row);
      }
      write(of, place, found, squares, rows, stride, eps);
    }
    if (threadIdx.x == 0) of.arrived[tile] = 0;
  }
}
