// AES-256-XTS in C intrinsics, and OpenSSL's, timed for comparison with
// disk/xts. Usage: xts check | time. Encryption only.
//
// It is the design of ../_asm/vaes512.go as far as C can say it: 32 blocks in
// flight, the tweaks of the next group computed from its first one with shifts,
// none behind the last group. The compiler orders the instructions and chooses
// the registers.
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// libcrypto's, declared here so that its headers need not be installed.
typedef struct evp_cipher_st EVP_CIPHER;
typedef struct evp_cipher_ctx_st EVP_CIPHER_CTX;
EVP_CIPHER_CTX *EVP_CIPHER_CTX_new(void);
const EVP_CIPHER *EVP_aes_256_xts(void);
int EVP_EncryptInit_ex(EVP_CIPHER_CTX *, const EVP_CIPHER *, void *, const unsigned char *, const unsigned char *);
int EVP_EncryptUpdate(EVP_CIPHER_CTX *, unsigned char *, int *, const unsigned char *, int);

#define INLINE static inline __attribute__((always_inline))
#define BATCH 64

struct keys {
	__m128i data[15], tweak[15];
};

INLINE __m128i spread(__m128i a, __m128i b)
{
	for (int i = 0; i < 3; i++)
		a = _mm_xor_si128(a, _mm_slli_si128(a, 4));
	return _mm_xor_si128(a, b);
}

static void expand(__m128i *k, const uint8_t *key)
{
	k[0] = _mm_loadu_si128((const void *)key);
	k[1] = _mm_loadu_si128((const void *)(key + 16));
#define STEP(i, rcon)                                                                              \
	k[i] = spread(k[i - 2], _mm_shuffle_epi32(_mm_aeskeygenassist_si128(k[i - 1], rcon), 0xff)); \
	if (i < 14)                                                                                    \
		k[i + 1] = spread(k[i - 1], _mm_shuffle_epi32(_mm_aeskeygenassist_si128(k[i], 0), 0xaa));
	STEP(2, 1) STEP(4, 2) STEP(6, 4) STEP(8, 8) STEP(10, 16) STEP(12, 32) STEP(14, 64)
}

// numbers enciphers 4*n sector numbers.
INLINE void numbers(const struct keys *c, __m128i *out, uint64_t first, uint64_t step, int n)
{
	__m512i a[4], k = _mm512_broadcast_i32x4(c->tweak[0]);
	for (int j = 0; j < n; j++) {
		uint64_t f = first + 4 * j * step;
		a[j] = _mm512_xor_si512(_mm512_set_epi64(0, f + 3 * step, 0, f + 2 * step, 0, f + step, 0, f), k);
	}
#pragma GCC unroll 13
	for (int r = 1; r < 14; r++) {
		k = _mm512_broadcast_i32x4(c->tweak[r]);
		for (int j = 0; j < n; j++)
			a[j] = _mm512_aesenc_epi128(a[j], k);
	}
	k = _mm512_broadcast_i32x4(c->tweak[14]);
	for (int j = 0; j < n; j++)
		_mm512_store_si512(out + 4 * j, _mm512_aesenclast_epi128(a[j], k));
}

// first_tweaks enciphers n sector numbers, rounded up to 4 or a multiple of 16.
INLINE void first_tweaks(const struct keys *c, __m128i *out, uint64_t first, uint64_t step, int n)
{
	if (n <= 4)
		numbers(c, out, first, step, 1);
	else
		for (int i = 0; i < n; i += 16)
			numbers(c, out + i, first + i * step, step, 4);
}

// fold adds what fell out at the top, times x^7+x^2+x+1 where it left a tweak.
INLINE __m512i fold(__m512i v, __m512i out)
{
	const __mmask8 low = 0x55;
	v = _mm512_ternarylogic_epi64(v, out, _mm512_maskz_slli_epi64(low, out, 1), 0x96);
	return _mm512_ternarylogic_epi64(v, _mm512_maskz_slli_epi64(low, out, 2), _mm512_maskz_slli_epi64(low, out, 7), 0x96);
}

INLINE __m512i first_four(__m128i t)
{
	const __m512i left = _mm512_set_epi64(3, 3, 2, 2, 1, 1, 0, 0), right = _mm512_set_epi64(61, 61, 62, 62, 63, 63, 64, 64);
	__m512i v = _mm512_broadcast_i32x4(t);
	return fold(_mm512_sllv_epi64(v, left), _mm512_srlv_epi64(_mm512_shuffle_epi32(v, 0x4e), right));
}

// TWEAK is tweak vector j of the group whose first four tweaks are a, s swapped.
#define TWEAK(j) v[j] = fold(_mm512_slli_epi64(a, 4 * (j)), _mm512_srli_epi64(s, 64 - 4 * (j)))

__attribute__((noinline)) static void encrypt(const struct keys *c, uint8_t *dst, const uint8_t *src, size_t sector, size_t n, uint64_t first, uint64_t step)
{
	__m128i tweaks[BATCH + 1] __attribute__((aligned(64)));
	__m512i k[15], v[8], d[8], w[8], a, s;
	for (int i = 0; i < 15; i++)
		k[i] = _mm512_broadcast_i32x4(c->data[i]);
	while (n > 0) {
		size_t m = n < BATCH ? n : BATCH;
		first_tweaks(c, tweaks, first, step, m);
		const __m128i *t = tweaks;
		__m128i base = *t++;
		size_t left = sector / 512;
#define NEXT_GROUP(a, s)                                                                                               \
	v[0] = a = first_four(base);                                                                                       \
	s = _mm512_shuffle_epi32(a, 0x4e);
		NEXT_GROUP(a, s)
		TWEAK(1); TWEAK(2); TWEAK(3); TWEAK(4); TWEAK(5); TWEAK(6); TWEAK(7);
#define LOAD                                                                                                           \
	for (int j = 0; j < 8; j++)                                                                                        \
		d[j] = _mm512_ternarylogic_epi64(_mm512_loadu_si512(src + 64 * j), v[j], k[0], 0x96);
#define KEEP(j) w[j] = _mm512_xor_si512(v[j], k[14]);
#define ROUND(r)                                                                                                       \
	for (int j = 0; j < 8; j++)                                                                                        \
		d[j] = _mm512_aesenc_epi128(d[j], k[r]);
#define STORE                                                                                                          \
	for (int j = 0; j < 8; j++)                                                                                        \
		_mm512_storeu_si512(dst + 64 * j, _mm512_aesenclast_epi128(d[j], w[j]));                                       \
	src += 512;                                                                                                        \
	dst += 512;
		for (size_t g = m * (sector / 512); g > 1; g--) {
			if (--left == 0) {
				base = *t++;
				left = sector / 512;
			} else {
				__m128i out = _mm_srli_si128(base, 12);
				base = _mm_xor_si128(_mm_slli_si128(base, 4), out);
				base = _mm_ternarylogic_epi64(base, _mm_slli_epi64(out, 1), _mm_slli_epi64(out, 2), 0x96);
				base = _mm_xor_si128(base, _mm_slli_epi64(out, 7));
			}
			LOAD
			ROUND(1) KEEP(0) NEXT_GROUP(a, s)
			ROUND(2) KEEP(1) TWEAK(1);
			ROUND(3) KEEP(2) TWEAK(2);
			ROUND(4) KEEP(3) TWEAK(3);
			ROUND(5) KEEP(4) TWEAK(4);
			ROUND(6) KEEP(5) TWEAK(5);
			ROUND(7) KEEP(6) TWEAK(6);
			ROUND(8) KEEP(7) TWEAK(7);
			ROUND(9) ROUND(10) ROUND(11) ROUND(12) ROUND(13)
			STORE
		}
		LOAD
		ROUND(1) KEEP(0) ROUND(2) KEEP(1) ROUND(3) KEEP(2) ROUND(4) KEEP(3) ROUND(5) KEEP(4) ROUND(6) KEEP(5)
		ROUND(7) KEEP(6) ROUND(8) KEEP(7) ROUND(9) ROUND(10) ROUND(11) ROUND(12) ROUND(13)
		STORE
		first += m * step;
		n -= m;
	}
}

static void openssl(EVP_CIPHER_CTX *c, uint8_t *dst, const uint8_t *src, size_t sector, size_t n, uint64_t first, uint64_t step)
{
	for (size_t i = 0; i < n; i++) {
		uint64_t iv[2] = {first + i * step, 0};
		int done;
		EVP_EncryptInit_ex(c, NULL, NULL, NULL, (unsigned char *)iv);
		EVP_EncryptUpdate(c, dst + i * sector, &done, src + i * sector, sector);
	}
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

// clock_rate returns cycles per nanosecond now: a multiplication takes 3 cycles.
static double clock_rate(void)
{
	uint64_t x = 3;
	double start = now();
	for (int i = 0; i < 20000; i++)
		__asm__ volatile("imul %0,%0\n imul %0,%0\n imul %0,%0\n imul %0,%0\n" : "+r"(x));
	return 20000 * 12 / (now() - start);
}

// aes_limit returns nanoseconds per byte if the AES units did 14 rounds on
// independent data and there were nothing else to do.
static double aes_limit(void)
{
	double start = now();
	for (int i = 0; i < 2000; i++) {
#define A(n) "vaesenc %%zmm31, %%zmm" #n ", %%zmm" #n "\n"
		__asm__ volatile(".rept 14\n" A(0) A(1) A(2) A(3) A(4) A(5) A(6) A(7) A(8) A(9) A(10) A(11) A(12) A(13) A(14) A(15) ".endr\n"
				 ::: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
				     "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
	}
	return (now() - start) / 2000 / (16 * 64);
}

static struct keys keys;
static EVP_CIPHER_CTX *evp;

static void run(int ours, uint8_t *dst, const uint8_t *src, size_t sector, size_t n, uint64_t first)
{
	if (ours)
		encrypt(&keys, dst, src, sector, n, first, sector / 512);
	else
		openssl(evp, dst, src, sector, n, first, sector / 512);
}

int main(int argc, char **argv)
{
	enum { size = 1 << 20 };
	uint8_t key[64], *a = aligned_alloc(4096, size), *b = aligned_alloc(4096, size), *plain = aligned_alloc(4096, size);
	for (int i = 0; i < 64; i++)
		key[i] = i * 5 + 1;
	for (int i = 0; i < size; i++)
		plain[i] = i * 7 + (i >> 9);
	expand(keys.data, key);
	expand(keys.tweak, key + 32);
	evp = EVP_CIPHER_CTX_new();
	if (!evp || !EVP_EncryptInit_ex(evp, EVP_aes_256_xts(), NULL, key, NULL))
		return 2;
	for (size_t sector = 512; sector <= 4096; sector *= 8)
		for (size_t n = 1; n <= size / sector; n = n * 2 + 1) {
			run(1, a, plain, sector, n, 1000);
			run(0, b, plain, sector, n, 1000);
			if (memcmp(a, b, n * sector)) {
				fprintf(stderr, "%zu sectors of %zu differ from OpenSSL's\n", n, sector);
				return 1;
			}
		}
	if (argc < 2 || strcmp(argv[1], "time"))
		return 0;

	// The best of short bursts, since other programs use this machine as well.
	double clock = 0, limit = 1e18;
	for (int i = 0; i < 50; i++) {
		double c = clock_rate(), l = aes_limit();
		clock = c > clock ? c : clock;
		limit = l < limit ? l : limit;
	}
	printf("clock %.4f\nlimit 4096 1048576 %.6f\n", clock, limit);
	for (int ours = 0; ours < 2; ours++)
		for (size_t sector = 512; sector <= 4096; sector *= 8)
			for (size_t call = 4096; call <= size; call *= 16) {
				double best = 1e18;
				size_t calls = (256 << 10) / call + (call > 256 << 10);
				for (int i = 0; i < 150; i++) {
					double start = now();
					for (size_t j = 0; j < calls; j++)
						run(ours, a, a, sector, call / sector, j);
					double t = (now() - start) / (calls * call);
					best = t < best ? t : best;
				}
				printf("%s %zu %zu %.6f\n", ours ? "c" : "libcrypto", sector, call, best);
			}
	return 0;
}
