// Some dozens of rows times a large weight, both in eight bits, as fast as the memory reads the weight: for Hopper.
//
// out = (x weight') * scale * scales + add, or silu of one half of that times the other half; x as narrow.cu lays it out.
// Hopper's tensor cores multiply e4m3 for four warps at once, a squad: every warp has 16 outputs in its registers, where
// they go straight from memory, and x is in memory that the block shares. A warp's next DEPTH pieces, 128 bytes of each
// of its outputs, are under way while it multiplies; the first ones are asked for before the kernel ahead has ended.
// Where squads share outputs, each with its piece of the inputs, whoever is last adds up what all have found.
//
// To be defined: SIZE inputs, OUTS outputs (rows of the weight), ROWS of x at most (8, 16, 32 or 64), SPLITS parts of the
// inputs, each for other blocks, SQUADS of a block, TEAM of them that share the same outputs, and, 0 or 1, GATED.

constexpr int THREADS = 128 * SQUADS, TEAMS = SQUADS / TEAM, DEPTH = 4;
constexpr int LINES = SIZE / 128, PART = (LINES + SPLITS - 1) / SPLITS;  // lines: of 128 inputs
constexpr int TURNS = (PART + TEAM * DEPTH - 1) / (TEAM * DEPTH) * DEPTH;  // of a squad
constexpr int TILES = OUTS / 64, RESULTS = GATED ? OUTS / 2 : OUTS;  // tiles: outputs of a squad
constexpr int GROUPS = ROWS / 8, SUMS = GROUPS * 128, PIECES = SPLITS * TEAM;
static_assert(SIZE % 128 == 0 && OUTS % 64 == 0 && SQUADS % TEAM == 0);

struct Arguments {
  const char *x;
  const float *scales;
  const char *weight;
  const float *scale;
  const u16 *add;  // or nothing
  u16 *out;
  float *parts;  // sums of all pieces, by 16 outputs
  int *arrived;  // pieces that have been written, by 16 outputs
};

struct Memory {
  char x[PART * ROWS * 128];
  float scales[ROWS];
  u64 there;  // a barrier: x is
};

#define GROUP(g) "+f"(total[g][0]), "+f"(total[g][1]), "+f"(total[g][2]), "+f"(total[g][3])
#define LINE_OF_X "r"(w[0].x), "r"(w[2].x), "r"(w[0].y), "r"(w[2].y), "r"(w[0].z), "r"(w[2].z), "r"(w[0].w), "r"(w[2].w), \
    "r"(w[1].x), "r"(w[3].x), "r"(w[1].y), "r"(w[3].y), "r"(w[1].z), "r"(w[3].z), "r"(w[1].w), "r"(w[3].w), "l"(x), "l"(x + 2), "l"(x + 4), "l"(x + 6)
#define ONE(shape, sums, a, b, c, d, at) \
  "wgmma.mma_async.sync.aligned." shape ".f32.e4m3.e4m3 {" sums "}, {%" #a ", %" #b ", %" #c ", %" #d "}, %" #at ", p, 1, 1;\n"
#define BEGIN "{ .reg .pred p; setp.eq.u32 p, 0, 0; wgmma.fence.sync.aligned;\n"
#define END "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0; }"

// 128 bytes of 64 outputs times those of all rows: `w` has this lane's of two outputs, `x` says where the rows are.
__device__ inline void multiply(float (&total)[GROUPS][4], const Four (&w)[4], u64 x) {
#if ROWS == 8
#define SUMS_OF "%0, %1, %2, %3"
  asm volatile(BEGIN ONE("m64n8k32", SUMS_OF, 4, 5, 6, 7, 20) ONE("m64n8k32", SUMS_OF, 8, 9, 10, 11, 21)
               ONE("m64n8k32", SUMS_OF, 12, 13, 14, 15, 22) ONE("m64n8k32", SUMS_OF, 16, 17, 18, 19, 23) END
               : GROUP(0) : LINE_OF_X : "memory");
#elif ROWS == 16
#define SUMS_OF "%0, %1, %2, %3, %4, %5, %6, %7"
  asm volatile(BEGIN ONE("m64n16k32", SUMS_OF, 8, 9, 10, 11, 24) ONE("m64n16k32", SUMS_OF, 12, 13, 14, 15, 25)
               ONE("m64n16k32", SUMS_OF, 16, 17, 18, 19, 26) ONE("m64n16k32", SUMS_OF, 20, 21, 22, 23, 27) END
               : GROUP(0), GROUP(1) : LINE_OF_X : "memory");
#elif ROWS == 32
#define SUMS_OF "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
  asm volatile(BEGIN ONE("m64n32k32", SUMS_OF, 16, 17, 18, 19, 32) ONE("m64n32k32", SUMS_OF, 20, 21, 22, 23, 33)
               ONE("m64n32k32", SUMS_OF, 24, 25, 26, 27, 34) ONE("m64n32k32", SUMS_OF, 28, 29, 30, 31, 35) END
               : GROUP(0), GROUP(1), GROUP(2), GROUP(3) : LINE_OF_X : "memory");
#else
#define SUMS_OF "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
  asm volatile(BEGIN ONE("m64n64k32", SUMS_OF, 32, 33, 34, 35, 48) ONE("m64n64k32", SUMS_OF, 36, 37, 38, 39, 49)
               ONE("m64n64k32", SUMS_OF, 40, 41, 42, 43, 50) ONE("m64n64k32", SUMS_OF, 44, 45, 46, 47, 51) END
               : GROUP(0), GROUP(1), GROUP(2), GROUP(3), GROUP(4), GROUP(5), GROUP(6), GROUP(7) : LINE_OF_X : "memory");
#endif
}

__device__ inline u32 place_of(const void *here) { return u32(__cvta_generic_to_shared(here)); }

// All rows' part of x, which one thread asks for; the others wait for its bytes.
__device__ inline void fetch_x(char *to, const char *from, u32 bytes, u64 *barrier) {
  u32 at = place_of(barrier);
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(place_of(to)),
               "l"(from), "r"(bytes), "r"(at) : "memory");
}

__device__ inline void await(u64 *barrier) {
  for (u32 there = 0; !there;)
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, 0, p; }"
                 : "=r"(there) : "r"(place_of(barrier)) : "memory");
}

// 16 outputs of a warp, or 8 and those that they are gated with: this lane has two, and two rows of each group.
struct Sixteen {
  int number, output, other;
  float scale, scale_of_other;

  __device__ Sixteen(const Arguments &of, int number) : number(number) {
    output = number * (GATED ? 8 : 16) + threadIdx.x % 32 / 4, other = output + (GATED ? RESULTS : 8);
    scale = of.scale[output], scale_of_other = of.scale[other];
  }

  // Of all pieces, whoever is last: true, and the sums are complete.
  __device__ bool complete(const Arguments &of, float (&total)[GROUPS][4], int piece) const {
    constexpr i64 APART = (i64)TILES * 4 * SUMS;
    int lane = threadIdx.x % 32;
    float *parts = of.parts + (i64)number * SUMS + lane * 4;
#pragma unroll
    for (int group = 0; group < GROUPS; group++)
      *(float4 *)(parts + piece * APART + group * 128) =
          make_float4(total[group][0], total[group][1], total[group][2], total[group][3]);
    __threadfence();
    __syncwarp();
    int before = lane == 0 ? atomicAdd(of.arrived + number, 1) : 0;
    if (__shfl_sync(0xffffffffu, before, 0) != PIECES - 1) return false;
    __threadfence();
#pragma unroll
    for (int group = 0; group < GROUPS; group++) total[group][0] = total[group][1] = total[group][2] = total[group][3] = 0.0f;
    for (int other = 0; other < PIECES; other++)  // everybody in one order
#pragma unroll
      for (int group = 0; group < GROUPS; group++) {
        float4 part = made((const float4 *)(parts + other * APART + group * 128));
        total[group][0] += part.x, total[group][1] += part.y, total[group][2] += part.z, total[group][3] += part.w;
      }
    if (lane == 0) of.arrived[number] = 0;
    return true;
  }

  __device__ void write(const Arguments &of, const Memory &memory, float (&total)[GROUPS][4], int rows, int stride) const {
    int first = threadIdx.x % 4 * 2;
    float adds[GROUPS][4] = {};
    if (of.add)  // all are asked for before the first one is needed
#pragma unroll
      for (int group = 0; group < GROUPS; group++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          int row = group * 8 + first + i % 2;
          if (row < rows) adds[group][i] = made(of.add + (i64)row * stride + (i < 2 ? output : other));
        }
#pragma unroll
    for (int group = 0; group < GROUPS; group++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        int row = group * 8 + first + i;
        float by = memory.scales[row], found = total[group][i] * scale * by, second = total[group][2 + i] * scale_of_other * by;
        if (row >= rows) continue;
        if (GATED)
          found = found / (1.0f + __expf(-found)) * second;
        else
          of.out[(i64)row * RESULTS + other] = u16(in_bfloat16(second + adds[group][2 + i], 0.0f));
        of.out[(i64)row * RESULTS + output] = u16(in_bfloat16(found + adds[group][i], 0.0f));
      }
  }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) product(Arguments of, int rows, int stride) {
  extern __shared__ __align__(1024) char raw[];  // it begins with x, in places that count from a multiple of 1024
  Memory &memory = *(Memory *)raw;
  int squad = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  int team = squad / TEAM, mate = squad % TEAM;
  int first = blockIdx.y * PART, lines = min(PART, LINES - first);
  asm volatile("griddepcontrol.launch_dependents;");

  Four held[DEPTH][4];
  constexpr i64 OTHER = (i64)(GATED ? RESULTS : 8) * SIZE;
  int tile_first = blockIdx.x + gridDim.x * team, tile_step = gridDim.x * TEAMS, tile_ahead = tile_first, turn_ahead = 0;
  const char *weight = of.weight + (i64)(warp * (GATED ? 8 : 16) + lane / 4) * SIZE + first * 128 + lane % 4 * 16;
  auto fetch = [&](Four(&to)[4]) {
    int line = turn_ahead * TEAM + mate;
    if (tile_ahead < TILES && line < lines) {
      const char *from = weight + (i64)tile_ahead * ((GATED ? 32 : 64) * SIZE) + line * 128;
      to[0] = streamed(from), to[1] = streamed(from + 64);
      to[2] = streamed(from + OTHER), to[3] = streamed(from + OTHER + 64);
    }
    if (++turn_ahead == TURNS) turn_ahead = 0, tile_ahead += tile_step;
  };
#pragma unroll
  for (int slot = 0; slot < DEPTH; slot++) fetch(held[slot]);

  if (threadIdx.x == 0) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(place_of(&memory.there)) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  asm volatile("griddepcontrol.wait;" ::: "memory");
  if (threadIdx.x == 0) fetch_x(memory.x, of.x + (i64)first * ROWS * 128, lines * ROWS * 128, &memory.there);
  if (threadIdx.x < rows) memory.scales[threadIdx.x] = made(of.scales + threadIdx.x);
  __syncthreads();
  await(&memory.there);

  // Where x stands, as the tensor cores are told: 16 bytes count one; 8 rows every 1024 bytes, pieces in changed places.
  u64 x = u64(place_of(memory.x) >> 4) | u64(1) << 16 | u64(1024 >> 4) << 32 | u64(1) << 62;
  for (int tile = tile_first; tile < TILES; tile += tile_step) {
    Sixteen mine(of, tile * 4 + warp);
    float total[GROUPS][4] = {};
#pragma unroll 1
    for (int turn = 0; turn < TURNS; turn += DEPTH) {
#pragma unroll
      for (int slot = 0; slot < DEPTH; slot++) {
        int line = (turn + slot) * TEAM + mate;
        if (line < lines) multiply(total, held[slot], x + line * (ROWS * 128 / 16));
        fetch(held[slot]);
      }
    }
    if (PIECES == 1 || mine.complete(of, total, blockIdx.y * TEAM + mate)) mine.write(of, memory, total, rows, stride);
  }
}
