// Enciphers sectors with OpenSSL's AES-XTS, for openssl_test.go. The openssl
// command refuses XTS ciphers.
//
// Standard input has cases: key length (32 or 64), sector size, sectors (32-bit
// words), step and first (64-bit words), all of this machine's byte order, then
// the key and the data. Standard output has the ciphertext of each.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

// libcrypto's, declared here so that its headers need not be installed.
typedef struct evp_cipher_st EVP_CIPHER;
typedef struct evp_cipher_ctx_st EVP_CIPHER_CTX;
EVP_CIPHER_CTX *EVP_CIPHER_CTX_new(void);
void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX *);
const EVP_CIPHER *EVP_aes_128_xts(void);
const EVP_CIPHER *EVP_aes_256_xts(void);
int EVP_EncryptInit_ex(EVP_CIPHER_CTX *, const EVP_CIPHER *, void *, const unsigned char *, const unsigned char *);
int EVP_EncryptUpdate(EVP_CIPHER_CTX *, unsigned char *, int *, const unsigned char *, int);

struct header {
	uint32_t key, sector, sectors, unused;
	uint64_t step, first;
};

static int encipher(const struct header *h, const unsigned char *key, unsigned char *data)
{
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	int ok = c && EVP_EncryptInit_ex(c, h->key == 64 ? EVP_aes_256_xts() : EVP_aes_128_xts(), NULL, key, NULL);
	for (uint32_t i = 0; ok && i < h->sectors; i++) {
		uint64_t iv[2] = {h->first + i * h->step, 0}; // little-endian machines only
		int n;
		unsigned char *p = data + (size_t)i * h->sector;
		ok = EVP_EncryptInit_ex(c, NULL, NULL, NULL, (unsigned char *)iv) &&
		     EVP_EncryptUpdate(c, p, &n, p, h->sector) && n == (int)h->sector;
	}
	EVP_CIPHER_CTX_free(c);
	return ok;
}

int main(void)
{
	struct header h;
	while (fread(&h, sizeof h, 1, stdin) == 1) {
		unsigned char key[64];
		size_t n = (size_t)h.sector * h.sectors;
		unsigned char *data = malloc(n);
		if (!data || h.key > sizeof key || fread(key, h.key, 1, stdin) != 1 || fread(data, n, 1, stdin) != 1)
			return 2;
		if (!encipher(&h, key, data))
			return 3;
		if (fwrite(data, n, 1, stdout) != 1 || fflush(stdout))
			return 4;
		free(data);
	}
	return 0;
}
