/*
 * The registry of shared.h: one list of blocks, oldest first. Invariant: of the blocks of one
 * plugin and name that can be found, at most one has a given size and schema; `order` is 0 for
 * those that are pending, and the highest is the current one.
 */
#include "plugin/shared.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

struct block {
    struct list node;
    struct shared_key key;
    int fd;
    void *mem;
    unsigned users; /* versions that have it mapped */
    unsigned hopes; /* of them, those that may still be promoted */
    uint64_t order; /* 0: pending; else when it became current, or was adopted */
    bool lost;      /* cannot be found any more */
    bool kept;      /* the keeper has it */
};

struct shared_use {
    struct shared_use *next;
    struct block *block;
    bool old; /* only read: shared_previous */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct list blocks = { &blocks, &blocks }; /* protected by lock, as all that follows */
static uint64_t last_order;
static shared_keep_fn *keep;
static void *keep_arg;

/* ---- Blocks; all with the lock --------------------------------------------------------------- */

static bool is_named(const struct block *b, const char *plugin, const char *name)
{
    return !b->lost && strcmp(b->key.plugin, plugin) == 0 && strcmp(b->key.name, name) == 0;
}

static struct block *find(const char *plugin, const char *name, uint64_t size, uint32_t schema)
{
    list_each (it, &blocks) {
        struct block *b = list_entry(it, struct block, node);
        if (is_named(b, plugin, name) && b->key.size == size && b->key.schema == schema)
            return b;
    }
    return NULL;
}

static void block_free(struct block *b)
{
    list_del(&b->node);
    munmap(b->mem, b->key.size);
    close(b->fd);
    free(b);
}

/* Unmaps what nobody uses and nobody can find. */
static void look(struct block *b)
{
    if (b->order == 0 && b->hopes == 0)
        b->lost = true;
    if (b->lost && b->kept) {
        b->kept = false;
        if (keep != NULL)
            keep(keep_arg, &b->key, -1);
    }
    if (b->lost && b->users == 0)
        block_free(b);
}

static void block_keep(struct block *b)
{
    if (b->kept || b->lost || keep == NULL)
        return;
    b->kept = true;
    keep(keep_arg, &b->key, b->fd);
}

static bool name_is_valid(const char *name)
{
    size_t len = name != NULL ? strnlen(name, SHARED_NAME_MAX + 1) : 0;
    return len > 0 && len <= SHARED_NAME_MAX &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") == len;
}

static int check_limits(const struct shared_key *key, struct err *err)
{
    uint64_t n = 1, bytes = key->size;
    list_each (it, &blocks) {
        const struct block *b = list_entry(it, struct block, node);
        if (strcmp(b->key.plugin, key->plugin) != 0)
            continue;
        n++;
        bytes += b->key.size;
    }
    if (n > SHARED_BLOCKS_MAX)
        return err_set(err, "graft_shared: more than %d blocks: put more into each",
                       SHARED_BLOCKS_MAX);
    if (bytes > SHARED_BYTES_MAX)
        return err_set(err, "graft_shared: %" PRIu64 " bytes in all, at most %llu are allowed",
                       bytes, SHARED_BYTES_MAX);
    return 0;
}

/* Takes the descriptor over. NULL: why. */
static struct block *block_map(const struct shared_key *key, int fd, struct err *err)
{
    struct block *b = calloc(1, sizeof *b);
    void *mem = mmap(NULL, key->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (b == NULL || mem == MAP_FAILED) {
        err_set(err, "graft_shared: no memory for \"%s\" (%" PRIu64 " bytes)", key->name,
                key->size);
        if (mem != MAP_FAILED)
            munmap(mem, key->size);
        free(b);
        close(fd);
        return NULL;
    }
    b->key = *key;
    b->fd = fd;
    b->mem = mem;
    list_init(&b->node);
    list_add_tail(&blocks, &b->node);
    return b;
}

/* All of it is taken now: memory that is missing later would be a SIGBUS in the plugin. */
static int make_memfd(const struct shared_key *key, struct err *err)
{
    int fd = memfd_create(key->name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd >= 0 && ftruncate(fd, (off_t)key->size) == 0 &&
        fallocate(fd, 0, 0, (off_t)key->size) == 0 && fcntl(fd, F_ADD_SEALS, SEALS) == 0)
        return fd;
    err_set(err, "graft_shared: no memory for \"%s\" (%" PRIu64 " bytes): %s", key->name, key->size,
            strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

static struct block *block_new(const struct shared_key *key, struct err *err)
{
    if (check_limits(key, err) != 0)
        return NULL;
    int fd = make_memfd(key, err);
    return fd >= 0 ? block_map(key, fd, err) : NULL;
}

/* ---- What a version uses ---------------------------------------------------------------------- */

static struct shared_use *use_of(const struct shared_user *u, const struct block *b)
{
    for (struct shared_use *use = u->uses; use != NULL; use = use->next)
        if (use->block == b)
            return use;
    return NULL;
}

static int use(struct shared_user *u, struct block *b, bool old)
{
    struct shared_use *there = use_of(u, b), *made;
    if (there == NULL) {
        if ((made = calloc(1, sizeof *made)) == NULL)
            return -1;
        *made = (struct shared_use){ u->uses, b, old };
        u->uses = made;
        b->users++;
    } else if (there->old && !old) {
        there->old = false;
    } else {
        return 0;
    }
    b->hopes += !old;
    return 0;
}

static int make_key(struct shared_key *key, const char *plugin, const char *name, uint64_t size,
                    uint32_t schema, struct err *err)
{
    if (!name_is_valid(name) || strlen(plugin) > SHARED_NAME_MAX)
        return err_set(err,
                       "graft_shared: bad name of a block: expected letters, digits, '_', '-' and "
                       "'.', at most %d in all",
                       SHARED_NAME_MAX);
    if (size == 0 || size > SHARED_BYTES_MAX)
        return err_set(err,
                       "graft_shared: \"%s\" is to have %" PRIu64 " bytes: expected 1 to %llu", name,
                       size, SHARED_BYTES_MAX);
    *key = (struct shared_key){ .size = size, .schema = schema };
    memcpy(key->plugin, plugin, strlen(plugin));
    memcpy(key->name, name, strlen(name));
    return 0;
}

/* With the lock. */
static void *get(struct shared_user *u, const struct shared_key *key, bool *fresh, struct err *err)
{
    struct block *b = find(key->plugin, key->name, key->size, key->schema);
    *fresh = b == NULL;
    if (b == NULL && (b = block_new(key, err)) == NULL)
        return NULL;
    if (use(u, b, false) == 0)
        return b->mem;
    look(b);
    err_set(err, "graft_shared: out of memory");
    return NULL;
}

void *shared_get(struct shared_user *u, const char *plugin, const char *name, uint64_t size,
                 uint32_t schema, bool *fresh, struct err *err)
{
    struct shared_key key;
    bool made;
    if (make_key(&key, plugin, name, size, schema, err) != 0)
        return NULL;
    pthread_mutex_lock(&lock);
    void *mem = get(u, &key, &made, err);
    pthread_mutex_unlock(&lock);
    if (fresh != NULL)
        *fresh = mem != NULL && made;
    return mem;
}

/* With the lock: the newest of that name that was current and is not this version's own. */
static struct block *previous(const struct shared_user *u, const char *plugin, const char *name)
{
    struct block *found = NULL;
    list_each (it, &blocks) {
        struct block *b = list_entry(it, struct block, node);
        if (!is_named(b, plugin, name) || b->order == 0)
            continue;
        const struct shared_use *mine = use_of(u, b);
        if ((mine == NULL || mine->old) && (found == NULL || b->order > found->order))
            found = b;
    }
    return found;
}

const void *shared_previous(struct shared_user *u, const char *plugin, const char *name,
                            size_t *size, uint32_t *schema)
{
    const void *mem = NULL;
    if (name == NULL)
        return NULL;
    pthread_mutex_lock(&lock);
    struct block *b = u->promoted || u->abandoned ? NULL : previous(u, plugin, name);
    if (b != NULL && use(u, b, true) == 0) {
        mem = b->mem;
        if (size != NULL)
            *size = (size_t)b->key.size;
        if (schema != NULL)
            *schema = b->key.schema;
    }
    pthread_mutex_unlock(&lock);
    return mem;
}

/* ---- A version's life ------------------------------------------------------------------------- */

void shared_publish(struct shared_user *u)
{
    pthread_mutex_lock(&lock);
    for (struct shared_use *it = u->uses; it != NULL; it = it->next)
        if (!it->old)
            block_keep(it->block);
    pthread_mutex_unlock(&lock);
}

/* With the lock. All others of its name are lost. */
static void make_current(struct block *b)
{
    b->order = ++last_order;
    list_each_safe (it, &blocks) {
        struct block *other = list_entry(it, struct block, node);
        if (other == b || !is_named(other, b->key.plugin, b->key.name))
            continue;
        other->lost = true;
        look(other);
    }
}

void shared_promote(struct shared_user *u)
{
    pthread_mutex_lock(&lock);
    u->promoted = true;
    for (struct shared_use *it = u->uses; it != NULL; it = it->next) {
        if (it->old || it->block->lost)
            continue;
        block_keep(it->block);
        make_current(it->block);
    }
    pthread_mutex_unlock(&lock);
}

static void abandon(struct shared_user *u)
{
    if (u->abandoned)
        return;
    u->abandoned = true;
    for (struct shared_use *it = u->uses; it != NULL; it = it->next) {
        if (it->old)
            continue;
        it->block->hopes--;
        look(it->block); /* not freed: this version still uses it */
    }
}

void shared_abandon(struct shared_user *u)
{
    pthread_mutex_lock(&lock);
    abandon(u);
    pthread_mutex_unlock(&lock);
}

void shared_release(struct shared_user *u)
{
    pthread_mutex_lock(&lock);
    abandon(u);
    while (u->uses != NULL) {
        struct shared_use *it = u->uses;
        u->uses = it->next;
        it->block->users--;
        look(it->block);
        free(it);
    }
    pthread_mutex_unlock(&lock);
}

/* ---- The supervisor --------------------------------------------------------------------------- */

void shared_keep(shared_keep_fn *fn, void *arg)
{
    pthread_mutex_lock(&lock);
    keep = fn;
    keep_arg = arg;
    pthread_mutex_unlock(&lock);
}

static int check_memfd(const struct shared_key *key, int fd, struct err *err)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & SEALS) != SEALS || fstat(fd, &st) != 0 || st.st_size < 0)
        return err_set(err, "%s/%s: not a memfd that is sealed against shrinking and growing",
                       key->plugin, key->name);
    if ((uint64_t)st.st_size != key->size)
        return err_set(err, "%s/%s: the memfd has %lld bytes, expected %" PRIu64, key->plugin,
                       key->name, (long long)st.st_size, key->size);
    return 0;
}

/* With the lock. Takes the descriptor over. */
static int adopt(const struct shared_key *key, int fd, struct err *err)
{
    if (find(key->plugin, key->name, key->size, key->schema) != NULL) {
        close(fd);
        return err_set(err, "%s/%s: there is such a block already", key->plugin, key->name);
    }
    if (check_memfd(key, fd, err) != 0 || check_limits(key, err) != 0) {
        close(fd);
        return -1;
    }
    struct block *b = block_map(key, fd, err);
    if (b == NULL)
        return -1;
    b->order = ++last_order;
    b->kept = true;
    return 0;
}

int shared_adopt(const struct shared_key *from, int fd, struct err *err)
{
    struct shared_key key;
    char plugin[SHARED_NAME_MAX + 1], name[SHARED_NAME_MAX + 1]; /* perhaps without an end */
    memcpy(plugin, from->plugin, sizeof plugin);
    memcpy(name, from->name, sizeof name);
    plugin[SHARED_NAME_MAX] = name[SHARED_NAME_MAX] = '\0';
    if (make_key(&key, plugin, name, from->size, from->schema, err) != 0 ||
        !name_is_valid(plugin)) {
        close(fd);
        return err_set(err, "a block to adopt has a bad key");
    }
    pthread_mutex_lock(&lock);
    int rc = adopt(&key, fd, err);
    pthread_mutex_unlock(&lock);
    return rc;
}

void shared_close(void)
{
    pthread_mutex_lock(&lock);
    list_each_safe (it, &blocks) {
        struct block *b = list_entry(it, struct block, node);
        if (b->users == 0)
            block_free(b);
    }
    pthread_mutex_unlock(&lock);
}

void shared_figures(uint64_t *n, uint64_t *bytes)
{
    *n = *bytes = 0;
    pthread_mutex_lock(&lock);
    list_each (it, &blocks) {
        const struct block *b = list_entry(it, struct block, node);
        ++*n;
        *bytes += b->key.size;
    }
    pthread_mutex_unlock(&lock);
}
