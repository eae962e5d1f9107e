/* hardware.cuh: whatever belongs to the machine and not to the language: shared memory, copies into it, tensor cores,
 * flags between blocks, clusters and their mbarriers. The emulator replaces this file by a header of the same name.
 *
 * Every wait for another block is bounded: a wrong barrier ends in an error, never in a hang.
 * Source: PTX ISA, "mbarrier", "mapa", "mma", "Memory consistency model".
 */
#pragma once

/* A block's shared memory: `name`, an array of a fixed size, or a pointer to as much as the launch asks for. */
#define SHARED(type, name, count) __shared__ type name[count]
#define DYNAMIC_SHARED(type, name)                          \
    extern __shared__ __align__(16) unsigned char name##_bytes[]; \
    type* name = reinterpret_cast<type*>(name##_bytes)

constexpr long long WAIT_CLOCKS = 4000000000;  // some two seconds

/* 1 / x for x in [1, 2^126], within 2 ulp (float) or rounded (double). */
__device__ __forceinline__ float reciprocal(float x) { return __fdividef(1.0f, x); }
__device__ __forceinline__ double reciprocal(double x) { return 1.0 / x; }

__device__ __forceinline__ unsigned shared_address(const void* shared) {
    return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

/* ---- Copies in the background: from compute capability 8.0 on; before, they are done at once ---- */

/* Starts copying a number, or four that are aligned, from global into shared memory. commit_copies closes a batch of
 * copies and wait_copies waits for batches. Then this thread may read what it has copied; others, after a barrier.
 */
template <class Number>
__device__ __forceinline__ void copy_async(Number* to, const Number* from) {
#if __CUDA_ARCH__ >= 800
    constexpr int PIECE = sizeof(Number) < 16 ? sizeof(Number) : 16;
#pragma unroll
    for (int at = 0; at < sizeof(Number); at += PIECE)
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared_address(to) + at),
                     "l"(reinterpret_cast<const char*>(from) + at), "n"(PIECE) : "memory");
#else
    *to = *from;
#endif
}
__device__ __forceinline__ void commit_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
/* Waits until all of this thread's batches but the last `Later` ones have come. */
template <int Later>
__device__ __forceinline__ void wait_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(Later) : "memory");
#endif
}

/* ---- Tensor cores: Fp16 from compute capability 7.5 on, Tf32 and Bf16 from 8.0 on; before, the launch traps ----
 *
 * `mma`, which a whole warp calls, does D [16,8] += A [16,K] * B [K,8]: operands in one of these precisions, sums in
 * float32, added in an order that is the machine's. Operands come in words of 32 bits: one Tf32, or two 16-bit numbers
 * that follow each other in k, the first in the low half. K is 8 words. A matrix lies in the registers of the warp as a
 * fragment: with quad = lane / 4 and member = lane % 4 a lane has
 *   A's words (row, word of k)      (quad, member) (quad+8, member) (quad, member+4) (quad+8, member+4)
 *   B's words (word of k, column)   (member, quad) (member+4, quad)
 *   D's numbers (row, column)       (quad, 2*member) (quad, 2*member+1) (quad+8, 2*member) (quad+8, 2*member+1)
 * PTX calls the quad groupID. `word` makes an operand's word of one or two numbers. It rounds to nearest: ties away
 * from zero for Tf32, to even for Bf16 and Fp16, which overflows to infinity.
 * Source: PTX ISA, "Matrix Fragments for mma.m16n8k8", "... for mma.m16n8k16", "cvt".
 */
#define MMA(shape, type)                                                                                          \
    asm volatile("mma.sync.aligned." shape ".row.col.f32." type "." type                                          \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                           \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                 \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

struct Tf32 {
    static constexpr int PER_WORD = 1;
    static __device__ __forceinline__ unsigned word(const float* numbers) {
        unsigned word = 0;
#if __CUDA_ARCH__ >= 800
        asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(word) : "f"(numbers[0]));
#endif
        return word;
    }
    static __device__ __forceinline__ void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if __CUDA_ARCH__ >= 800
        MMA("m16n8k8", "tf32");
#else
        __trap();
#endif
    }
};

struct Bf16 {
    static constexpr int PER_WORD = 2;
    static __device__ __forceinline__ unsigned word(const float* numbers) {
        unsigned word = 0;
#if __CUDA_ARCH__ >= 800
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(numbers[1]), "f"(numbers[0]));
#endif
        return word;
    }
    static __device__ __forceinline__ void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if __CUDA_ARCH__ >= 800
        MMA("m16n8k16", "bf16");
#else
        __trap();
#endif
    }
};

struct Fp16 {
    static constexpr int PER_WORD = 2;
    static __device__ __forceinline__ unsigned word(const float* numbers) {
        unsigned word;
#if __CUDA_ARCH__ >= 800
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(numbers[1]), "f"(numbers[0]));
#else
        asm("{\n\t.reg .b16 low, high;\n\tcvt.rn.f16.f32 low, %1;\n\tcvt.rn.f16.f32 high, %2;\n\t"
            "mov.b32 %0, {low, high};\n\t}" : "=r"(word) : "f"(numbers[0]), "f"(numbers[1]));
#endif
        return word;
    }
    static __device__ __forceinline__ void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if __CUDA_ARCH__ >= 800
        MMA("m16n8k16", "f16");
#elif __CUDA_ARCH__ >= 750
#pragma unroll
        for (int half = 0; half < 2; ++half)
            asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
                         "{%0, %1, %2, %3};" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                         : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
#else
        __trap();
#endif
    }
};

/* ---- Flags between the blocks of a cooperative launch: words in global memory that only grow ---- */

/* Adds to a flag. Whoever sees the sum through an acquire also sees what this thread has written before, and what
 * others had written before a barrier with it.
 */
__device__ __forceinline__ void add_release(unsigned* flag, unsigned value) {
    asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
__device__ __forceinline__ unsigned load_acquire(const unsigned* flag) {
    unsigned value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
    return value;
}
__device__ __forceinline__ unsigned load_relaxed(const unsigned* flag) {
    unsigned value;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
    return value;
}
/* Waits until *flag is at least `value`. Returns false if that takes more than WAIT_CLOCKS, or if another block has
 * given up waiting, which *stopped says by being more than 1. Every look is an acquire, which empties the
 * multiprocessor's L1 cache: on an H200 that costs less than one more look at the end. A call, since its registers are
 * needed for weights otherwise.
 */
__device__ __noinline__ bool wait_flag(const unsigned* flag, unsigned value, const unsigned* stopped) {
    const long long begin = clock64();
    for (unsigned polls = 1; load_acquire(flag) < value; ++polls)
        if (polls % 32 == 0 && (clock64() - begin > WAIT_CLOCKS || load_relaxed(stopped) > 1)) return false;
    return true;
}

/* ---- Clusters: only in code for compute capability 9.0 and up ---- */

/* This block's number in its cluster, and a barrier for all threads of the cluster. */
__device__ __forceinline__ unsigned cluster_rank() {
    unsigned rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}
__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
}

/* ---- Mbarriers: 64 bits of shared memory each, through which one block of a cluster sends to another ----
 *
 * A phase of a barrier is over once `arrivals` threads of its own block have called mbarrier_expect and all the bytes
 * that they expect have come. The next phase begins at once; phases are told apart by the parity of their number.
 * The bytes are released at the cluster's scope, and the memory model would have them acquired there too. mbarrier_wait
 * acquires at the block's scope, the default, as what was sent and the barrier both lie in its own shared memory: at
 * the cluster's scope the machine code (NVRTC 12.9, sm_90) would be the same, except that every look would also empty
 * the L1 cache of global memory.
 * Source: PTX ISA, "st.async", "mbarrier.try_wait".
 */

/* Makes a barrier ready. A cluster_sync must follow, which shows it to the other block. */
__device__ __forceinline__ void mbarrier_init(unsigned long long* barrier, unsigned arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;\n\tfence.mbarrier_init.release.cluster;" ::"r"(
                     shared_address(barrier)), "r"(arrivals) : "memory");
}
/* Arrives at the barrier, and has its phase wait for so many bytes more. */
__device__ __forceinline__ void mbarrier_expect(unsigned long long* barrier, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}
/* The address, in block `rank` of the cluster, of the variable that is `mine` in this block. */
__device__ __forceinline__ unsigned address_in(unsigned rank, const void* mine) {
    unsigned address;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(mine)), "r"(rank));
    return address;
}
/* Sends one or two numbers into block `rank`'s shared memory, whose barrier counts their bytes. `to` and `barrier` are
 * this block's own variables of the same name.
 */
__device__ __forceinline__ void send(float* to, unsigned rank, float value, unsigned long long* barrier) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(
                     address_in(rank, to)), "f"(value), "r"(address_in(rank, barrier)) : "memory");
}
__device__ __forceinline__ void send(float* to, unsigned rank, float first, float second, unsigned long long* barrier) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(
                     address_in(rank, to)), "f"(first), "f"(second), "r"(address_in(rank, barrier)) : "memory");
}
__device__ __forceinline__ void send(double* to, unsigned rank, double value, unsigned long long* barrier) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.f64 [%0], %1, [%2];" ::"r"(
                     address_in(rank, to)), "d"(value), "r"(address_in(rank, barrier)) : "memory");
}
__device__ __forceinline__ void send(
    double* to, unsigned rank, double first, double second, unsigned long long* barrier) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f64 [%0], {%1, %2}, [%3];" ::"r"(
                     address_in(rank, to)), "d"(first), "d"(second), "r"(address_in(rank, barrier)) : "memory");
}
__device__ __forceinline__ bool mbarrier_is_over(unsigned long long* barrier, unsigned parity) {
    unsigned over;
    asm volatile(
        "{\n\t.reg .pred p;\n\tmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\tselp.u32 %0, 1, 0, p;\n\t}"
        : "=r"(over) : "r"(shared_address(barrier)), "r"(parity) : "memory");
    return over;
}
/* Waits until the phase of this parity is over; what was sent in it can then be read. Traps after WAIT_CLOCKS. */
__device__ __forceinline__ void mbarrier_wait(unsigned long long* barrier, unsigned parity) {
    if (mbarrier_is_over(barrier, parity)) return;
    const long long begin = clock64();
    while (!mbarrier_is_over(barrier, parity))
        if (clock64() - begin > WAIT_CLOCKS) __trap();
}
