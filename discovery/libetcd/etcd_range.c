/* etcd_range.c - reading keys, however many there are.
 *
 * One answer with everything would be one block of any size, so a range is read
 * in pages: each goes on behind the last key of the one before, at the revision
 * of the first, which makes them one consistent view.  If that revision is
 * compacted meanwhile, reading starts over. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "discovery/libetcd/etcd_build.h"
#include "discovery/libetcd/etcd_call.h"

#define PAGE_KEYS 1000
#define KEYS_MAX (1u << 20)
#define RESTARTS_MAX 5

typedef struct {
    etcd_call call; /* first: a call is a range_read */
    etcd_range asked;
    uint8_t *key;      /* asked.key, and what it was copied to */
    etcd_header first; /* of the first page */
    etcd_keys *pages;  /* [n_pages] what kvs point to */
    size_t n_pages;
    etcd_kv *kvs; /* [n] */
    size_t n, bytes;
    bool more;
    unsigned n_restarts;
    etcd_range_cb cb;
    void *ctx;
} range_read;

static void forget_pages(range_read *r) {
    for (size_t i = 0; i < r->n_pages; i++)
        etcd_keys_fini(&r->pages[i]);
    free(r->pages);
    free(r->kvs);
    r->pages = NULL;
    r->kvs = NULL;
    r->n_pages = r->n = r->bytes = 0;
    r->more = false;
    memset(&r->first, 0, sizeof(r->first));
}

static void drop(etcd_call *c) {
    range_read *r = (range_read *)c;
    forget_pages(r);
    free(r->key);
}

/* ---- asking ---- */

static int64_t page_limit(const range_read *r) {
    if (r->asked.limit == 0) return PAGE_KEYS;
    int64_t left = r->asked.limit - (int64_t)r->n;
    return left < PAGE_KEYS ? left : PAGE_KEYS;
}

/* The next page begins at the smallest key behind the last one: that key with a
 * zero byte at its end, which the memory has. */
static void build_next_page(range_read *r) {
    etcd_page p = {
        .key = r->key,
        .key_len = r->asked.key_len,
        .revision = r->asked.revision,
        .serializable = r->asked.serializable,
    };
    if (r->asked.prefix) {
        p.prefix = r->key;
        p.prefix_len = r->asked.key_len;
        p.limit = page_limit(r);
    }
    if (r->n > 0) {
        p.key = r->kvs[r->n - 1].key;
        p.key_len = r->kvs[r->n - 1].key_len + 1;
        if (p.revision == 0) p.revision = r->first.revision;
    }
    etcd_text_fini(&r->call.body);
    etcd_build_page(&r->call.body, &p);
}

/* ---- answers ---- */

static int compare_keys(const etcd_kv *a, const etcd_kv *b) {
    size_t n = a->key_len < b->key_len ? a->key_len : b->key_len;
    int order = memcmp(a->key, b->key, n);
    if (order != 0) return order;
    return (a->key_len > b->key_len) - (a->key_len < b->key_len);
}

static bool was_asked_for(const range_read *r, const etcd_kv *kv) {
    if (kv->key_len < r->asked.key_len) return false;
    if (!r->asked.prefix && kv->key_len != r->asked.key_len) return false;
    return memcmp(kv->key, r->key, r->asked.key_len) == 0;
}

/* NULL, or what is wrong with it. */
static const char *check_page(const range_read *r,
                              const etcd_parse_range_out *page) {
    const etcd_kv *last = r->n > 0 ? &r->kvs[r->n - 1] : NULL;
    size_t limit = r->asked.prefix ? (size_t)page_limit(r) : 1;
    if (page->n > limit) return "more keys than asked for";
    if (page->more && page->n == 0) return "more keys, but none of them";
    if (page->header.revision == 0) return "no revision";
    if (r->n_pages > 0 && page->header.cluster_id != r->first.cluster_id)
        return "another cluster than the page before";
    for (size_t i = 0; i < page->n; i++) {
        const etcd_kv *kv = &page->kvs[i];
        if (!was_asked_for(r, kv)) return "a key that was not asked for";
        if (last != NULL && compare_keys(last, kv) >= 0)
            return "keys out of order";
        last = kv;
    }
    return NULL;
}

static int append(range_read *r, etcd_parse_range_out *page) {
    etcd_keys *pages = realloc(r->pages, (r->n_pages + 1) * sizeof(*pages));
    if (pages == NULL) return -ENOMEM;
    r->pages = pages;
    etcd_kv *kvs = realloc(r->kvs, (r->n + page->n + 1) * sizeof(*kvs));
    if (kvs == NULL) return -ENOMEM;
    r->kvs = kvs;

    if (page->n > 0) memcpy(kvs + r->n, page->kvs, page->n * sizeof(*kvs));
    r->n += page->n;
    r->bytes += page->keys.used;
    r->more = page->more;
    if (r->n_pages == 0) r->first = page->header;
    pages[r->n_pages++] = page->keys;
    memset(&page->keys, 0, sizeof(page->keys)); /* ours now */
    return 0;
}

static etcd_code read_page(etcd_call *c, const char *body, size_t len,
                           etcd_why *why) {
    range_read *r = (range_read *)c;
    etcd_parse_range_out page;
    int rc = etcd_parse_range(body, len, &page, why);
    if (rc < 0) return rc == -ENOMEM ? ETCD_NO_MEMORY : ETCD_BAD_ANSWER;

    const char *wrong = check_page(r, &page);
    if (wrong == NULL && (r->n + page.n > KEYS_MAX ||
                          r->bytes + page.keys.used > c->etcd->max_body))
        wrong = "more keys than a range may have";
    if (wrong == NULL) {
        rc = append(r, &page);
    } else {
        snprintf(why->text, sizeof(why->text), "%s", wrong);
    }
    c->header = r->first;
    etcd_parse_range_fini(&page);
    if (wrong != NULL) return ETCD_BAD_ANSWER;
    return rc < 0 ? ETCD_NO_MEMORY : ETCD_OK;
}

/* Whether there is something to ask before the answer is whole. */
static bool goes_on(range_read *r, const etcd_answer *a) {
    if (a->code == ETCD_OK) {
        bool wants_more =
            r->asked.limit == 0 || r->n < (uint64_t)r->asked.limit;
        return r->asked.prefix && r->more && wants_more;
    }
    if (a->code != ETCD_REFUSED || !r->call.lacks_revision) return false;
    if (r->n_pages == 0 || r->asked.revision != 0) return false;
    if (r->n_restarts++ == RESTARTS_MAX) return false;
    forget_pages(r);
    return true;
}

static void on_page(etcd_call *c, const etcd_answer *a) {
    range_read *r = (range_read *)c;
    if (goes_on(r, a)) {
        build_next_page(r);
        int rc = etcd_call_again(c);
        if (rc == 0) return;
        etcd_answer end = *a;
        end.code = rc == -ENOMEM ? ETCD_NO_MEMORY : ETCD_AWAY;
        end.why = rc == -ENOMEM ? "no memory for the next page"
                                : "too many calls for the next page";
        r->cb(r->ctx, &end, NULL, 0, false);
        return;
    }
    if (a->code != ETCD_OK) {
        r->cb(r->ctx, a, NULL, 0, false);
        return;
    }
    r->cb(r->ctx, a, r->kvs, r->n, r->more);
}

int etcd_get(etcd *e, const etcd_range *asked, etcd_range_cb cb, void *ctx) {
    if (asked->key_len == 0 && !asked->prefix) return -EINVAL;
    if (asked->limit < 0 || asked->revision < 0) return -EINVAL;
    if (asked->key_len > ETCD_REQUEST_BYTES_MAX) return -E2BIG;

    range_read *r = calloc(1, sizeof(*r));
    if (r == NULL) return -ENOMEM;
    r->asked = *asked;
    r->cb = cb;
    r->ctx = ctx;
    r->key = malloc(asked->key_len + 1);
    if (r->key == NULL) {
        free(r);
        return -ENOMEM;
    }
    if (asked->key_len > 0) memcpy(r->key, asked->key, asked->key_len);
    r->call.path = "/v3/kv/range";
    r->call.read = read_page;
    r->call.done = on_page;
    r->call.drop = drop;
    build_next_page(r);
    return etcd_call_begin(e, &r->call);
}
