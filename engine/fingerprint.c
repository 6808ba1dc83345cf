/* fingerprint.c - see fingerprint.h.
 *
 * Everything variable is preceded by its length, so that no two models give the
 * same stream of bytes. */
#include "engine/fingerprint.h"

#include <openssl/evp.h>
#include <string.h>
#include "engine/err.h"

/* Changing what is digested is a new version. */
static const char domain[] = "roster model fingerprint 2";

static bool add_u64(EVP_MD_CTX *digest, uint64_t value) {
    return EVP_DigestUpdate(digest, &value, sizeof(value)) == 1;
}

static bool add_heads(EVP_MD_CTX *digest, const gguf *g) {
    size_t n_files = gguf_n_files(g);
    bool good = add_u64(digest, n_files);
    for (size_t i = 0; i < n_files && good; i++) {
        size_t bytes;
        const void *head = gguf_head(g, i, &bytes);
        good = add_u64(digest, bytes) &&
               EVP_DigestUpdate(digest, head, bytes) == 1;
    }
    return good;
}

static bool add_manifest(EVP_MD_CTX *digest, const manifest *m) {
    size_t n;
    const uint64_t *sums = manifest_sums(m, &n);
    return add_u64(digest, n) &&
           EVP_DigestUpdate(digest, sums, n * sizeof(*sums)) == 1;
}

int fingerprint_of(const gguf *g, const manifest *m, fingerprint *out) {
    EVP_MD_CTX *digest = EVP_MD_CTX_new();
    bool good = digest != NULL &&
                EVP_DigestInit_ex(digest, EVP_sha256(), NULL) == 1 &&
                EVP_DigestUpdate(digest, domain, sizeof(domain)) == 1 &&
                add_heads(digest, g) && add_manifest(digest, m) &&
                EVP_DigestFinal_ex(digest, out->bytes, NULL) == 1;
    EVP_MD_CTX_free(digest);
    return good ? 0 : ERR_INTERNAL;
}

bool fingerprint_equal(const fingerprint *a, const fingerprint *b) {
    return memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

char *fingerprint_hex(const fingerprint *f, char out[FINGERPRINT_HEX_SIZE]) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < sizeof(f->bytes); i++) {
        out[2 * i] = digits[f->bytes[i] >> 4];
        out[2 * i + 1] = digits[f->bytes[i] & 15];
    }
    out[2 * sizeof(f->bytes)] = '\0';
    return out;
}
