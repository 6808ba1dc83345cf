/* peers.c - see peers.h. */
#include "expert_node/peers.h"

#include <errno.h>
#include <string.h>
#include "engine/err.h"

void peers_init(peers *p) {
    p->count = 0;
}

void peers_fini(peers *p) {
    for (size_t i = 0; i < p->count; i++)
        account_release(p->table[i].account);
    p->count = 0;
}

static peer *find_address(peers *p, const frames *from) {
    for (size_t i = 0; i < p->count; i++) {
        peer *known = &p->table[i];
        if (frames_has_address(from, known->address, known->address_bytes)) {
            return known;
        }
    }
    return NULL;
}

static bool is_known(const peers *p, uint64_t boot_id) {
    for (size_t i = 0; i < p->count; i++) {
        if (p->table[i].boot_id == boot_id) return true;
    }
    return false;
}

/* A free place: an unused one, or that of the longest silent idle peer. */
static peer *find_place(peers *p) {
    if (p->count < PEERS_MAX) return &p->table[p->count];

    peer *oldest = NULL;
    for (size_t i = 0; i < p->count; i++) {
        peer *candidate = &p->table[i];
        if (account_bytes(candidate->account) > 0) continue;
        if (oldest == NULL || candidate->seen_us < oldest->seen_us) {
            oldest = candidate;
        }
    }
    return oldest;
}

static int add(peers *p, const frames *from, uint64_t boot_id, peer **out) {
    peer *place = find_place(p);
    if (place == NULL) return ERR_OVERLOADED;
    account *a = account_new();
    if (a == NULL) return -ENOMEM;

    if (place == &p->table[p->count]) {
        p->count++;
    } else {
        account_release(place->account);
    }
    memcpy(place->address, from->address, from->address_bytes);
    place->address_bytes = from->address_bytes;
    place->boot_id = boot_id;
    place->account = a;
    *out = place;
    return 0;
}

int peers_find(peers *p, const frames *from, uint64_t boot_id, uint64_t now_us,
               peer **out, uint64_t *earlier_boot) {
    *earlier_boot = 0;
    *out = find_address(p, from);
    if (*out == NULL) {
        bool again = is_known(p, boot_id);
        int rc = add(p, from, boot_id, out);
        if (rc < 0) return rc;
        if (again) *earlier_boot = boot_id; /* its connection is another one */
    } else if ((*out)->boot_id != boot_id) {
        *earlier_boot = (*out)->boot_id;
        (*out)->boot_id = boot_id;
    }
    (*out)->seen_us = now_us;
    return 0;
}

uint64_t peers_reply_bytes(const peers *p) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < p->count; i++)
        bytes += account_bytes(p->table[i].account);
    return bytes;
}
