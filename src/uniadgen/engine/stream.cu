// Few rows times a large weight, as fast as the memory reads the weight: for Hopper and later, of x in bfloat16.
//
// out = (x / rms(x) * norm) weight' * scale + add, or silu of one half of that times the other half. Every warp takes
// 128 bytes of each of 16 outputs at once, straight into the registers from which the tensor cores multiply: inputs may
// be added up in any order, as long as weight and x agree. A team of warps shares 16 outputs, a tile, and the warp's
// next DEPTH pieces are under way while it multiplies, from one tile to the next without a pause. The first ones are
// asked for before the kernel ahead of this one has ended: weights are nobody's result.
//
// To be defined: SIZE inputs, OUTS outputs (rows of the weight), ROWS of x at most (a power of two), SPLITS parts of the
// inputs, each for other blocks, WARPS of a block, TEAM of them that share a tile, and, 0 or 1, EIGHT (weights in e4m3),
// NORM, GATED, ADDS.

constexpr int THREADS = 32 * WARPS, MATES = 32 * TEAM, TEAMS = WARPS / TEAM, DEPTH = 4;
constexpr int LINE = EIGHT ? 128 : 64;  // inputs in 128 bytes
constexpr int LINES = SIZE / LINE, PART = (LINES + SPLITS - 1) / SPLITS, WIDTH = PART * LINE;
constexpr int TURNS = (PART + TEAM * DEPTH - 1) / (TEAM * DEPTH) * DEPTH;  // of a warp in a tile
constexpr int TILES = OUTS / 16, RESULTS = GATED ? OUTS / 2 : OUTS;
constexpr int GROUPS = (ROWS + 7) / 8, SUMS = GROUPS * 128, MINE = (SUMS + MATES - 1) / MATES;  // of a tile; a thread's
constexpr int STRIDE = WIDTH + (EIGHT ? 8 : 32);  // so that the lanes of a warp find x in different banks
constexpr int SHARE = WARPS > ROWS ? WARPS / ROWS : 1;  // warps that look at a row together
constexpr int BUFFERS = ROWS > 16 ? 1 : 2;  // of a team's sums
constexpr bool EARLY = MINE <= 2;  // whether places have room in registers while the warp multiplies
static_assert(SIZE % LINE == 0 && OUTS % 16 == 0 && (ROWS & (ROWS - 1)) == 0 && WARPS % TEAM == 0);

struct Arguments {
  const u16 *x, *norm;
  const char *weight;
  const float *scale;
  const u16 *add;
  u16 *out;
  float *parts, *squares;  // of all splits: sums by tile, and squares by row
  int *arrived;            // blocks that have written their part, by tile
};

struct Memory {
  u16 x[ROWS * STRIDE], norm[NORM ? WIDTH : 8];
  float sums[TEAMS][BUFFERS][TEAM * SUMS];  // of a team's warps, of its tiles in turn
  float squares[ROWS * SHARE];              // of a row, by the warp that looked
  int last[TEAMS];
};

__device__ inline void copied(u16 *to, const u16 *from) {  // 16 bytes, which arrive later, and past the first cache
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(u32(__cvta_generic_to_shared(to))), "l"(from) : "memory");
}

__device__ inline u32 restored(u32 two) {  // numbers of e4m3, all of which bfloat16 has
  u32 pair = widened(two);
  float lower, upper;
  asm("{ .reg .b16 lo, hi; mov.b32 {lo, hi}, %2; cvt.f32.f16 %0, lo; cvt.f32.f16 %1, hi; }"
      : "=f"(lower), "=f"(upper)
      : "r"(pair));
  return in_bfloat16(lower, upper);
}

// The part of x that this block multiplies with, which is here already, times norm; its squares are added up.
__device__ inline void normalise(Memory &memory, int rows, int width) {
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, share = warp % SHARE;
  for (int row = warp / SHARE; row < rows; row += WARPS / SHARE) {
    float square = 0.0f;
    auto look = [&](u32 pair, u32 norm) {
      float lower = low(pair), upper = high(pair);
      square += lower * lower + upper * upper;
      return in_bfloat16(lower * low(norm), upper * high(norm));
    };
    for (int at = (share * 32 + lane) * 8; at < width; at += SHARE * 256) {
      Four &v = *(Four *)(memory.x + row * STRIDE + at), by = *(const Four *)(memory.norm + at);
      v = {look(v.x, by.x), look(v.y, by.y), look(v.z, by.z), look(v.w, by.w)};
    }
    for (int other = 16; other; other /= 2) square += __shfl_xor_sync(0xffffffffu, square, other);
    if (lane == 0) memory.squares[row * SHARE + share] = square;
  }
}

// 128 bytes of 16 outputs: `w` has this lane's of two outputs, and `x` its inputs in a row of the first group.
__device__ inline void take(const Four (&w)[4], const u16 *x, float (&total)[GROUPS][4]) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const Four &a = w[half], &b = w[2 + half];
#if EIGHT
    u32 left[4] = {a.x, a.y, a.z, a.w}, right[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
    for (int two = 0; two < 4; two += 2) {
      u32 a0 = restored(left[two]), a1 = restored(left[two] >> 16), b0 = restored(right[two]), b1 = restored(right[two] >> 16);
      u32 a2 = restored(left[two + 1]), a3 = restored(left[two + 1] >> 16);
      u32 b2 = restored(right[two + 1]), b3 = restored(right[two + 1] >> 16);
#pragma unroll
      for (int group = 0; group < GROUPS; group++) {
        Four v = *(const Four *)(x + group * 8 * STRIDE + half * 64 + two * 4);
        multiply<false>(total[group], a0, b0, a1, b1, v.x, v.y);
        multiply<false>(total[group], a2, b2, a3, b3, v.z, v.w);
      }
    }
#else
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
      Four v = *(const Four *)(x + group * 8 * STRIDE + half * 32);
      multiply<false>(total[group], a.x, b.x, a.y, b.y, v.x, v.y);
      multiply<false>(total[group], a.z, b.z, a.w, b.w, v.z, v.w);
    }
#endif
  }
}

// One number of a tile, which belongs to a row of x and an output, and what it is scaled with and added to.
struct Place {
  int row, output, partner;  // partner: 1 of what is gated
  bool there;
  float scale, add;

  __device__ void find(const Arguments &of, int tile, int at, int rows, int stride) {
    int lane = at / 4 % 32;
    row = at / 128 * 8 + 2 * (lane % 4) + at % 2, partner = at % 4 / 2;
    output = GATED ? tile * 8 + lane / 4 : tile * 16 + lane / 4 + 8 * partner;
    there = at < SUMS && row < rows;
    scale = EIGHT && there ? of.scale[output + (GATED ? partner * RESULTS : 0)] : 1.0f;
    add = ADDS && there ? made(of.add + (i64)row * stride + output) : 0.0f;
  }

  __device__ void write(const Arguments &of, float total, float squares, float eps) const {
    total *= scale;
    if (NORM) total *= rsqrtf(squares / SIZE + eps);
    if (GATED) total = total / (1.0f + __expf(-total)) * __shfl_xor_sync(0xffffffffu, total, 2);
    if (there && !(GATED && partner)) of.out[(i64)row * RESULTS + output] = u16(in_bfloat16(total + add, 0.0f));
  }
};

extern "C" __global__ void __launch_bounds__(THREADS, 16 / WARPS) product(Arguments of, int rows, int stride, float eps) {
  extern __shared__ __align__(16) char raw[];
  Memory &memory = *(Memory *)raw;
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int team = warp / TEAM, mate = warp % TEAM, thread = threadIdx.x % MATES;
  int first = blockIdx.y * PART, lines = min(PART, LINES - first), width = lines * LINE;
  asm volatile("griddepcontrol.launch_dependents;");

  Four held[DEPTH][4];
  constexpr i64 ROW = (i64)SIZE * (EIGHT ? 1 : 2), OTHER = (GATED ? RESULTS : 8) * ROW;
  const char *weight = of.weight + (lane / 4) * ROW + first * 128 + (lane % 4) * 16;
  int tile_first = blockIdx.x * TEAMS + team, tile_step = gridDim.x * TEAMS, tile_ahead = tile_first, turn_ahead = 0;
  auto fetch = [&](Four(&to)[4]) {
    int line = turn_ahead * TEAM + mate;
    if (tile_ahead < TILES && line < lines) {
      const char *from = weight + tile_ahead * ((GATED ? 8 : 16) * ROW) + line * 128;
      to[0] = streamed(from), to[1] = streamed(from + 64);
      to[2] = streamed(from + OTHER), to[3] = streamed(from + OTHER + 64);
    }
    if (++turn_ahead == TURNS) turn_ahead = 0, tile_ahead += tile_step;
  };
#pragma unroll
  for (int slot = 0; slot < DEPTH; slot++) fetch(held[slot]);
  if (NORM)
    for (int at = 8 * threadIdx.x; at < width; at += 8 * THREADS) copied(memory.norm + at, of.norm + first * LINE + at);

  asm volatile("griddepcontrol.wait;" ::: "memory");
  for (int row = 0; row < rows; row++)
    for (int at = 8 * threadIdx.x; at < width; at += 8 * THREADS)
      copied(memory.x + row * STRIDE + at, of.x + (i64)row * SIZE + first * LINE + at);
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncthreads();
  if (NORM) {
    normalise(memory, rows, width);
    __syncthreads();
  }

  // Of whole groups nobody looks at what stands in rows that are not there.
  const u16 *x = memory.x + (lane / 4 < rows ? lane / 4 : 0) * STRIDE + (lane % 4) * (EIGHT ? 16 : 8);
  auto together = [&] { asm volatile("bar.sync %0, %1;" ::"r"(team + 1), "n"(MATES) : "memory"); };
  auto squares_of = [&](int row) {
    float square = 0.0f;
    for (int share = 0; share < SHARE; share++) square += memory.squares[row * SHARE + share];
    return square;
  };
  if (NORM && SPLITS > 1)
    for (int row = threadIdx.x; row < rows; row += THREADS) of.squares[blockIdx.y * ROWS + row] = squares_of(row);

  int turn_of_sums = 0;
  for (int tile = tile_first; tile < TILES; tile += tile_step) {
    Place places[MINE];
    auto find = [&] {
#pragma unroll
      for (int i = 0; i < MINE; i++) places[i].find(of, tile, thread + i * MATES, rows, stride);
    };
    if (EARLY) find();
    float total[GROUPS][4] = {};
#pragma unroll 1
    for (int turn = 0; turn < TURNS; turn += DEPTH) {
#pragma unroll
      for (int slot = 0; slot < DEPTH; slot++) {
        int line = (turn + slot) * TEAM + mate;
        if (line < lines) take(held[slot], x + line * LINE, total);
        fetch(held[slot]);
      }
    }
    float *sums = memory.sums[team][turn_of_sums], *parts = of.parts + (i64)tile * SUMS;
    constexpr i64 APART = (i64)TILES * SUMS;
    if (BUFFERS == 1) together();  // whoever still adds up the last tile's is not disturbed
    turn_of_sums ^= BUFFERS - 1;
#pragma unroll
    for (int group = 0; group < GROUPS; group++)
      *(float4 *)(sums + mate * SUMS + group * 128 + lane * 4) =
          make_float4(total[group][0], total[group][1], total[group][2], total[group][3]);
    together();
    if (!EARLY) find();
#pragma unroll
    for (int i = 0; i < MINE; i++) {
      int at = thread + i * MATES;
      float found = 0.0f;
      if (at < SUMS)
        for (int other = 0; other < TEAM; other++) found += sums[other * SUMS + at];
      if (SPLITS == 1)
        places[i].write(of, found, NORM && places[i].there ? squares_of(places[i].row) : 0.0f, eps);
      else if (at < SUMS)
        parts[blockIdx.y * APART + at] = found;
    }
    if (SPLITS == 1) continue;
    __threadfence();
    together();
    if (thread == 0) memory.last[team] = atomicAdd(of.arrived + tile, 1) == SPLITS - 1;
    together();
    if (!memory.last[team]) continue;
    __threadfence();
#pragma unroll
    for (int i = 0; i < MINE; i++) {
      int at = thread + i * MATES;
      float found = 0.0f, squares = 0.0f;
      for (int split = 0; split < SPLITS; split++) {
        if (at < SUMS) found += made(parts + split * APART + at);
        if (NORM && places[i].there) squares += made(of.squares + split * ROWS + places[i].row);
      }
      places[i].write(of, found, squares, eps);
    }
    if (thread == 0) of.arrived[tile] = 0;
  }
}
