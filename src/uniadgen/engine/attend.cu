// A row's attention to its own columns, as `attend_own` in kernels_cuda.py: for Hopper and later, in bfloat16.
//
// A block looks at some columns of one row in one head: each warp at 16 of them at a time, whose keys and values lie in
// registers as the tensor cores want them. The first ones are asked for before the kernel ahead of this one has ended:
// what is kept of earlier positions is not its result. New keys and values come from that kernel: they are rotated,
// written to where they are kept, and looked at as those are. The last block of a row to arrive makes one softmax of all.
//
// To be defined: GROUPS of 8 queries, and EIGHT: whether keys and values are kept in e4m3.

constexpr int SIZE = 128, WARPS = 4, THREADS = 32 * WARPS, QUERIES = 8 * GROUPS, NEW = 16, TABLE = 6;
constexpr int BYTES = EIGHT ? 1 : 2, ROW = SIZE * BYTES;  // of a column
constexpr int KEYS = ROW / 64, VALUES = ROW / 128;        // pieces of 16 bytes of one column that a lane takes
constexpr int STRIDE = SIZE + 8;                          // of queries, so that lanes find them in different banks
#define NOTHING __int_as_float(0xff800000)  // minus infinity

struct Arguments {
  const u16 *qkv, *cos, *sin;
  const i64 *position, *column, *seen, *table;  // as `FusedAttention` has them
  float *found, *sums;
  int *arrived;
  u16 *out;
};

struct Memory {
  __align__(16) u16 queries[QUERIES * STRIDE];
  __align__(16) char keys[NEW * ROW], values[NEW * ROW];
  float found[WARPS][QUERIES][SIZE + 1], most[WARPS][QUERIES], total[WARPS][QUERIES];
  int last;
};

__device__ inline u32 multiplied(float lower, float upper) {  // as the tensor cores take them
  return EIGHT ? in_float16(lower, upper) : in_bfloat16(lower, upper);
}

__device__ inline u16 narrowed(float lower, float upper) {  // what is too large becomes the largest
  u16 pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(upper), "f"(lower));
  return pair;
}

__device__ inline u32 transposed(u32 pair) {
  u32 to;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(to) : "r"(pair));
  return to;
}

__device__ inline u32 word(const Four &of, int number) {
  return number == 0 ? of.x : number == 1 ? of.y : number == 2 ? of.z : of.w;
}

__device__ inline Four fresh(const u16 *from) {  // of the kernel ahead: the first cache may hold what was there before
  Four v;
  asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from) : "memory");
  return v;
}

template <bool KEPT>
__device__ inline Four piece(const char *from) {
  if (!KEPT) return *(const Four *)from;
  Four v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from) : "memory");
  return v;
}

// 16 columns from `base` on; of those behind the last one, `end` - 1, that one again. Lane 4 g + t has pieces of the
// keys of columns g and g + 8, and of the values of columns 2 t, 2 t + 1, 2 t + 8 and 2 t + 9.
struct Held {
  Four keys[2][KEYS], values[4][VALUES];

  template <bool KEPT>
  __device__ void fetch_keys(const char *from, int base, int end) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const char *row = from + (i64)min(base + lane / 4 + 8 * i, end - 1) * ROW + lane % 4 * 16;
#pragma unroll
      for (int j = 0; j < KEYS; j++) keys[i][j] = piece<KEPT>(row + 64 * j);
    }
  }

  template <bool KEPT>
  __device__ void fetch_values(const char *from, int base, int end) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const char *row = from + (i64)min(base + 2 * (lane % 4) + i % 2 + i / 2 * 8, end - 1) * ROW + lane / 4 * 16;
#pragma unroll
      for (int j = 0; j < VALUES; j++) values[i][j] = piece<KEPT>(row + 128 * j);
    }
  }
};

// What a warp has found so far: lane 4 g + t of queries 2 t and 2 t + 1 of each group.
struct Found {
  float most[GROUPS][2], total[GROUPS][2], mean[GROUPS][8][4];

  __device__ void clear() {
    for (int group = 0; group < GROUPS; group++) {
      for (int i = 0; i < 2; i++) most[group][i] = NOTHING, total[group][i] = 0.0f;
      for (int i = 0; i < 8; i++)
        for (int j = 0; j < 4; j++) mean[group][i][j] = 0.0f;
    }
  }

  __device__ void score(const Held &held, const Memory &memory, float (&scores)[GROUPS][4]) const {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
      const u16 *query = memory.queries + (group * 8 + lane / 4) * STRIDE + lane % 4 * (EIGHT ? 16 : 8);
#pragma unroll
      for (int i = 0; i < 4; i++) scores[group][i] = 0.0f;
#pragma unroll
      for (int j = 0; j < KEYS; j++) {
        const Four &a = held.keys[0][j], &b = held.keys[1][j];
        Four q = *(const Four *)(query + j * (EIGHT ? 64 : 32));
#if EIGHT
        Four r = *(const Four *)(query + j * 64 + 8);
        multiply<EIGHT>(scores[group], widened(a.x), widened(b.x), widened(a.x >> 16), widened(b.x >> 16), q.x, q.y);
        multiply<EIGHT>(scores[group], widened(a.y), widened(b.y), widened(a.y >> 16), widened(b.y >> 16), q.z, q.w);
        multiply<EIGHT>(scores[group], widened(a.z), widened(b.z), widened(a.z >> 16), widened(b.z >> 16), r.x, r.y);
        multiply<EIGHT>(scores[group], widened(a.w), widened(b.w), widened(a.w >> 16), widened(b.w >> 16), r.z, r.w);
#else
        multiply<EIGHT>(scores[group], a.x, b.x, a.y, b.y, q.x, q.y);
        multiply<EIGHT>(scores[group], a.z, b.z, a.w, b.w, q.z, q.w);
#endif
      }
    }
  }

  // `sees(i, group, j)`: whether query 2 t + j of a group sees column g + 8 i.
  template <typename Sees>
  __device__ void weigh(float (&scores)[GROUPS][4], float scale, Sees sees, u32 (&chances)[GROUPS][2]) {
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
#pragma unroll
      for (int j = 0; j < 2; j++) {
        float &one = scores[group][j], &other = scores[group][2 + j];
        one = sees(0, group, j) ? one * scale : NOTHING, other = sees(1, group, j) ? other * scale : NOTHING;
        float higher = fmaxf(most[group][j], fmaxf(one, other));
        for (int lanes = 4; lanes < 32; lanes *= 2) higher = fmaxf(higher, __shfl_xor_sync(0xffffffffu, higher, lanes));
        float base = higher == NOTHING ? 0.0f : higher, fade = exp2f(most[group][j] - base);
        one = exp2f(one - base), other = exp2f(other - base);
        most[group][j] = higher, total[group][j] = total[group][j] * fade + one + other;
#pragma unroll
        for (int i = 0; i < 8; i++) mean[group][i][j] *= fade, mean[group][i][2 + j] *= fade;
      }
      chances[group][0] = transposed(multiplied(scores[group][0], scores[group][1]));
      chances[group][1] = transposed(multiplied(scores[group][2], scores[group][3]));
    }
  }

  __device__ void add(const Held &held, const u32 (&chances)[GROUPS][2]) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      u32 a[4];
#pragma unroll
      for (int part = 0; part < 4; part++) {  // halves of the numbers, of the first and the last columns
        int half = part % 2, first = part / 2 * 2;
#if EIGHT
        int shift = i % 4 / 2 * 16;
        u32 one = widened(word(held.values[first][0], half * 2 + i / 4) >> shift);
        u32 other = widened(word(held.values[first + 1][0], half * 2 + i / 4) >> shift);
#else
        u32 one = word(held.values[first][half], i / 2), other = word(held.values[first + 1][half], i / 2);
#endif
        a[part] = __byte_perm(one, other, i % 2 ? 0x7632 : 0x5410);
      }
#pragma unroll
      for (int group = 0; group < GROUPS; group++)
        multiply<EIGHT>(mean[group][i], a[0], a[1], a[2], a[3], chances[group][0], chances[group][1]);
    }
  }

  __device__ void write(Memory &memory) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int group = 0; group < GROUPS; group++) {
#pragma unroll
      for (int j = 0; j < 2; j++) {
        float sum = total[group][j];
        for (int lanes = 4; lanes < 32; lanes *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
        int query = group * 8 + lane % 4 * 2 + j;
        if (lane < 4) memory.most[warp][query] = most[group][j], memory.total[warp][query] = sum;
#pragma unroll
        for (int i = 0; i < 8; i++) {
          int at = EIGHT ? lane / 4 * 16 + i : lane / 4 * 8 + i;
          memory.found[warp][query][at] = mean[group][i][j];
          memory.found[warp][query][at + (EIGHT ? 8 : 64)] = mean[group][i][2 + j];
        }
      }
    }
  }
};

// 8 numbers of a head, in four pairs, rotated to where it stands; the first half of `sin` is negative.
__device__ inline void turn(const u16 *head, const u16 *cos, const u16 *sin, int at, float (&to)[8]) {
  Four straight = fresh(head + at), rolled = fresh(head + (at + SIZE / 2) % SIZE);
  Four c = *(const Four *)(cos + at), s = *(const Four *)(sin + at);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    u32 one = word(straight, i), other = word(rolled, i), by = word(c, i), with = word(s, i);
    to[2 * i] = low(one) * low(by) + low(other) * low(with);
    to[2 * i + 1] = high(one) * high(by) + high(other) * high(with);
  }
}

// 8 numbers as they are kept, here and in the cache.
__device__ inline void keep(const float (&numbers)[8], char *here, char *cache) {
#if EIGHT
  uint2 v = {u32(narrowed(numbers[0], numbers[1])) | u32(narrowed(numbers[2], numbers[3])) << 16,
             u32(narrowed(numbers[4], numbers[5])) | u32(narrowed(numbers[6], numbers[7])) << 16};
#else
  uint4 v = {in_bfloat16(numbers[0], numbers[1]), in_bfloat16(numbers[2], numbers[3]),
             in_bfloat16(numbers[4], numbers[5]), in_bfloat16(numbers[6], numbers[7])};
#endif
  *(decltype(v) *)here = v, *(decltype(v) *)cache = v;
}

extern "C" __global__ void __launch_bounds__(THREADS, GROUPS == 1 ? 3 : 2)
    attend(Arguments of, int number, int count, int heads, int splits, int parts, float scale) {
  __shared__ Memory memory;
  int row = blockIdx.x, head = blockIdx.y, split = blockIdx.z, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (number == 0) asm volatile("griddepcontrol.wait;" ::: "memory");  // what is before the first layer may be anything

  const i64 *mine = of.table + row * TABLE;
  i64 offset = (mine[2] * number + head * mine[3]) * BYTES;
  char *keys = (char *)mine[0] + offset, *values = (char *)mine[1] + offset;
  int skipped = mine[4], share = mine[5], own = int(of.column[(i64)row * count]) - skipped, length = 1;
  for (int i = lane; i < count; i += 32) length = max(length, int(of.seen[(i64)row * count + i]) - skipped);
  for (int lanes = 16; lanes; lanes /= 2) length = max(length, __shfl_xor_sync(0xffffffffu, length, lanes));
  int lo = split * share, hi = min(lo + share, length), end = min(hi, own);  // kept are those before `end`
  if (lo >= length) return;

  Held held;
  int base = lo + 16 * warp;
  if (base < end) held.fetch_keys<true>(keys, base, end), held.fetch_values<true>(values, base, end);
  if (number) asm volatile("griddepcontrol.wait;" ::: "memory");

  for (int i = threadIdx.x / 16; i < count; i += THREADS / 16) {
    int at = threadIdx.x % 16 * 8, column = own + i;
    i64 place = (i64)row * count + i, angle = of.position[place] * SIZE;
    const u16 *query = of.qkv + (place * 3 * heads + head) * SIZE, *key = query + heads * SIZE, *value = key + heads * SIZE;
    float turned[8];
    turn(query, of.cos + angle, of.sin + angle, at, turned);
    // rounded as the model rounds them, then as they are multiplied
    for (int j = 0; j < 8; j++) turned[j] = low(in_bfloat16(turned[j], 0.0f));
    *(Four *)(memory.queries + i * STRIDE + at) = {multiplied(turned[0], turned[1]), multiplied(turned[2], turned[3]),
                                                   multiplied(turned[4], turned[5]), multiplied(turned[6], turned[7])};
    if (column < lo || column >= hi) {  // another block's: here nobody looks at it, but multiplies with it
      for (int j = 0; j < BYTES; j++) *(uint2 *)(memory.values + i * ROW + at * BYTES + 8 * j) = {};
      continue;
    }
    i64 to = (i64)column * ROW + at * BYTES;
    turn(key, of.cos + angle, of.sin + angle, at, turned);
    for (int j = 0; j < 8; j++) turned[j] = low(in_bfloat16(turned[j], 0.0f));
    keep(turned, memory.keys + i * ROW + at * BYTES, keys + to);
    Four v = fresh(value + at);
    float same[8] = {low(v.x), high(v.x), low(v.y), high(v.y), low(v.z), high(v.z), low(v.w), high(v.w)};
    keep(same, memory.values + i * ROW + at * BYTES, values + to);
  }
  __syncthreads();

  Found found;
  found.clear();
  float scores[GROUPS][4];
  u32 chances[GROUPS][2];
  while (base < end) {
    int here = base;
    base += 16 * WARPS;
    if (base >= end) asm volatile("griddepcontrol.launch_dependents;");  // not before: whoever is behind takes room
    found.score(held, memory, scores);
    if (base < end) held.fetch_keys<true>(keys, base, end);
    found.weigh(scores, scale, [&](int i, int, int) { return here + lane / 4 + 8 * i < end; }, chances);
    found.add(held, chances);
    if (base < end) held.fetch_values<true>(values, base, end);
  }
  if (warp == WARPS - 1 && own < hi && own + count > lo) {
    int until[GROUPS][2];
    for (int group = 0; group < GROUPS; group++)
      for (int j = 0; j < 2; j++) {
        int query = group * 8 + lane % 4 * 2 + j;
        until[group][j] = query < count ? int(of.seen[(i64)row * count + query]) - skipped : 0;
      }
    held.fetch_keys<false>(memory.keys, 0, count), held.fetch_values<false>(memory.values, 0, count);
    found.score(held, memory, scores);
    auto sees = [&](int i, int group, int j) {
      int column = own + lane / 4 + 8 * i;
      return column >= lo && column < min(min(hi, own + count), until[group][j]);
    };
    found.weigh(scores, scale, sees, chances);
    found.add(held, chances);
  }
  found.write(memory);
  __syncthreads();

  int live = (length + share - 1) / share, at = threadIdx.x;
  for (int i = 0; i < count; i++) {
    i64 place = ((i64)row * count + i) * heads + head;
    float most = NOTHING, total = 0.0f, mean = 0.0f;
    for (int other = 0; other < WARPS; other++) most = fmaxf(most, memory.most[other][i]);
    for (int other = 0; other < WARPS; other++) {
      float chance = most == NOTHING ? 0.0f : exp2f(memory.most[other][i] - most);
      total += chance * memory.total[other][i], mean += chance * memory.found[other][i][at];
    }
    mean /= total > 0.0f ? total : 1.0f;
    if (parts == 1) {
      of.out[place * SIZE + at] = u16(in_bfloat16(mean, 0.0f));
      continue;
    }
    of.found[(place * parts + split) * SIZE + at] = mean;
    if (at == 0) of.sums[place * parts + split] = total > 0.0f ? most + log2f(total) : NOTHING;
  }
  if (parts == 1) return;
  __threadfence();
  __syncthreads();
  if (at == 0) memory.last = atomicAdd(of.arrived + row * heads + head, 1) == live - 1;
  __syncthreads();
  if (!memory.last) return;
  __threadfence();
  for (int i = 0; i < count; i++) {
    i64 place = ((i64)row * count + i) * heads + head;
    float most = NOTHING, total = 0.0f, mean = 0.0f;
    for (int part = 0; part < parts; part++)
      if (part < live || part >= splits) most = fmaxf(most, __ldcg(of.sums + place * parts + part));
#pragma unroll 4
    for (int part = 0; part < parts; part++) {
      if (part >= live && part < splits) continue;
      float chance = most == NOTHING ? 0.0f : exp2f(__ldcg(of.sums + place * parts + part) - most);
      total += chance, mean += chance * __ldcg(of.found + (place * parts + part) * SIZE + at);
    }
    of.out[place * SIZE + at] = u16(in_bfloat16(total > 0.0f ? mean / total : 0.0f, 0.0f));
  }
  if (at == 0) of.arrived[row * heads + head] = 0;
}
