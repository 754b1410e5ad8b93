/*
 * Signatures of plugin files: minisign's format (base/minisign.h), libsodium's Ed25519 and BLAKE2b.
 * Without libsodium (GRAFT_SODIUM) nothing passes that is demanded: the configuration refuses such
 * demands already, this file refuses them again.
 */
#include "plugin/signature.h"

#include "base/escape.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sha2.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef GRAFT_SODIUM
#include <sodium.h>
#endif

#define SUFFIX ".minisig"

/* ---- Finding and reading --------------------------------------------------------------------- */

bool signature_takes(const char *name)
{
    static const char end[] = ".so" SUFFIX;
    size_t len = strlen(name);
    return name[0] != '.' && len >= sizeof end && strcmp(name + len - (sizeof end - 1), end) == 0;
}

/* "the.so.minisig" of a path, or -1: too long. */
static int add_suffix(char out[PATH_MAX], const char *path)
{
    int n = snprintf(out, PATH_MAX, "%s" SUFFIX, path);
    return n > 0 && n < PATH_MAX ? 0 : -1;
}

/* Beside what the file is once all links are resolved. */
static int resolved_place(char out[PATH_MAX], int dirfd, const char *file)
{
    char path[PATH_MAX], real[PATH_MAX];
    int n = dirfd == AT_FDCWD || file[0] == '/'
                ? snprintf(path, sizeof path, "%s", file)
                : snprintf(path, sizeof path, "/proc/self/fd/%d/%s", dirfd, file);
    if (n <= 0 || n >= PATH_MAX || realpath(path, real) == NULL)
        return -1;
    return add_suffix(out, real);
}

/* What cannot be read is known again by what the file system says of it. */
static void set_bad(struct signature *s, const struct stat *st)
{
    s->kind = SIGNATURE_BAD;
    if (st != NULL)
        snprintf(s->state, sizeof s->state, "bad %ju %o %u %u %jd.%ld", (uintmax_t)st->st_ino,
                 (unsigned)st->st_mode, (unsigned)st->st_uid, (unsigned)st->st_gid,
                 (intmax_t)st->st_ctim.tv_sec, st->st_ctim.tv_nsec);
    else
        snprintf(s->state, sizeof s->state, "bad");
}

static int judge(const struct stat *st, struct err *err)
{
    if (!S_ISREG(st->st_mode))
        return err_set(err,
                       "is %s, expected a regular file: put the file there that minisign -S "
                       "wrote",
                       S_ISDIR(st->st_mode) ? "a folder" : "a device, pipe or socket");
    if (st->st_size > (off_t)MINISIGN_FILE_MAX)
        return err_set(err,
                       "has %jd bytes, expected at most %u: it is no signature of minisign: sign "
                       "the plugin again (minisign -Sm)",
                       (intmax_t)st->st_size, MINISIGN_FILE_MAX);
    return 0;
}

/* All of it, at most one byte more than may be there. */
static int read_text(struct signature *s, int fd, struct err *err)
{
    s->text = malloc(MINISIGN_FILE_MAX + 1);
    if (s->text == NULL)
        return err_set(err, "cannot be read: out of memory");
    while (s->len <= MINISIGN_FILE_MAX) {
        ssize_t n = read(fd, s->text + s->len, MINISIGN_FILE_MAX + 1 - s->len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, "cannot be read: %s", strerror(errno));
        if (n == 0)
            return 0;
        s->len += (size_t)n;
    }
    return err_set(err,
                   "has more than the %u bytes that a signature may have: sign the plugin again "
                   "(minisign -Sm)",
                   MINISIGN_FILE_MAX);
}

static void read_open(struct signature *s, int fd)
{
    struct stat st;
    if (fstat(fd, &st) != 0) {
        err_set(&s->why, "cannot be read: %s", strerror(errno));
        set_bad(s, NULL);
    } else if (judge(&st, &s->why) != 0 || read_text(s, fd, &s->why) != 0) {
        set_bad(s, &st);
    } else {
        char hash[65];
        SHA256Data((const uint8_t *)s->text, s->len, hash);
        snprintf(s->state, sizeof s->state, "text %s", hash);
        s->kind = SIGNATURE_READ;
    }
}

/* False: none is there. Looked at before it is opened: a device may act on that. */
static bool read_at(struct signature *s, int dirfd, const char *path)
{
    struct stat st;
    int fd = -1;
    if (fstatat(dirfd, path, &st, 0) != 0) {
        int why = errno;
        if (why == ENOENT && fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW) != 0)
            return false;
        err_set(&s->why, "%s: mend the link or the rights of its folder",
                why == ENOENT ? "is a link to a file that is not there" : strerror(why));
        set_bad(s, why == ENOENT ? &st : NULL);
        return true;
    }
    if (S_ISREG(st.st_mode))
        fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd >= 0) {
        read_open(s, fd);
        close(fd);
        return true;
    }
    if (judge(&st, &s->why) == 0)
        err_set(&s->why, "cannot be opened: %s: let the user of graftd read it (chmod a+r)",
                strerror(errno));
    set_bad(s, &st);
    return true;
}

void signature_read(struct signature *s, int dirfd, const char *file)
{
    memset(s, 0, sizeof *s);
    if (resolved_place(s->path, dirfd, file) == 0 && read_at(s, AT_FDCWD, s->path))
        return;
    if (add_suffix(s->path, file) != 0) {
        err_set(&s->why, "has no path that can be used: give the plugin a shorter one");
        set_bad(s, NULL);
    } else if (!read_at(s, dirfd, s->path)) {
        s->kind = SIGNATURE_MISSING;
        snprintf(s->state, sizeof s->state, "none");
    }
}

void signature_fini(struct signature *s)
{
    free(s->text);
    s->text = NULL;
}

static void write_signer(const struct minisign_key *key, char out[SIGNER_SIZE])
{
    int n = snprintf(out, SIGNER_SIZE, "%016" PRIX64, key->id);
    for (size_t i = 0; i < sizeof key->key; i++)
        n += snprintf(out + n, SIGNER_SIZE - (size_t)n, "%02x", key->key[i]);
}

/* ---- Verifying ------------------------------------------------------------------------------- */

#ifdef GRAFT_SODIUM

/* A configuration has no two of one id. */
static const struct minisign_key *find_key(const struct config_signatures *demands, uint64_t id)
{
    for (size_t i = 0; i < demands->key_count; i++)
        if (demands->keys[i].known && demands->keys[i].key.id == id)
            return &demands->keys[i].key;
    return NULL;
}

static int refuse_key(const struct signature *s, const struct config_signatures *demands,
                      uint64_t id, struct err *err)
{
    struct err list = { "" };
    for (size_t i = 0; i < demands->key_count; i++)
        err_set(&list, "%.700s%s%016" PRIX64, list.text, i > 0 ? ", " : "",
                demands->keys[i].key.id);
    return err_set(err,
                   "signed with the key %016" PRIX64 " (%.300s), expected one of %.500s: sign it "
                   "with one of these, or add that public key to signatures.keys",
                   id, s->path, list.text);
}

static bool file_is_signed(const struct minisign *m, const struct minisign_key *key,
                           const unsigned char *data, size_t size)
{
    unsigned char hash[crypto_generichash_BYTES_MAX];
    if (m->hashed) {
        crypto_generichash(hash, sizeof hash, data, size, NULL, 0);
        data = hash;
        size = sizeof hash;
    }
    return crypto_sign_verify_detached(m->file, data, size, key->key) == 0;
}

static bool comment_is_signed(const struct minisign *m, const struct minisign_key *key)
{
    unsigned char text[sizeof m->file + MINISIGN_FILE_MAX];
    REQUIRE(m->trusted.len <= MINISIGN_FILE_MAX);
    memcpy(text, m->file, sizeof m->file);
    memcpy(text + sizeof m->file, m->trusted.ptr, m->trusted.len);
    return crypto_sign_verify_detached(m->comment, text, sizeof m->file + m->trusted.len,
                                       key->key) == 0;
}

static int verify_bytes(const struct signature *s, const struct minisign *m,
                        const struct minisign_key *key, const unsigned char *data, size_t size,
                        struct err *err)
{
    char shown[128];
    size_t used;
    if (!file_is_signed(m, key, data, size))
        return err_set(err,
                       "wrong signature: %.600s (key %016" PRIX64 ") is not of this file: it was "
                       "changed after signing, or that is the signature of another version: sign "
                       "it again (minisign -Sm), and put both there together",
                       s->path, m->id);
    if (comment_is_signed(m, key))
        return 0;
    shown[escape(shown, sizeof shown - 1, m->trusted, ESCAPE_LINE, &used)] = '\0';
    return err_set(err,
                   "the trusted comment in %.600s was changed after signing, found \"%s\": get the "
                   "signature again from who made it, or sign the plugin again (minisign -Sm)",
                   s->path, shown);
}

static int verify_file(const struct signature *s, const struct minisign *m,
                       const struct minisign_key *key, const char *copy, struct err *err)
{
    struct stat st;
    int fd = open(copy, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), rc = -1;
    if (fd < 0 || fstat(fd, &st) != 0 || st.st_size <= 0) {
        err_set(err, "cannot read the copy to verify its signature: %s: try it again",
                strerror(errno));
    } else {
        size_t size = (size_t)st.st_size;
        void *map = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED) {
            err_set(err, "cannot map the copy to verify its signature: %s: try it again",
                    strerror(errno));
        } else {
            rc = verify_bytes(s, m, key, map, size, err);
            munmap(map, size);
        }
    }
    if (fd >= 0)
        close(fd);
    return rc;
}

static int verify(struct signature *s, const struct config_signatures *demands, const char *copy,
                  struct err *err)
{
    struct minisign m;
    struct err why;
    if (sodium_init() < 0)
        return err_set(err, "cannot verify signatures: libsodium cannot be used here: is "
                            "/dev/urandom there?");
    if (minisign_read(&m, (struct str){ s->text, s->len }, &why) != 0)
        return err_set(err, "malformed signature: %.500s: %s: sign the plugin again (minisign -Sm)",
                       s->path, why.text);
    const struct minisign_key *key = find_key(demands, m.id);
    if (key == NULL)
        return refuse_key(s, demands, m.id, err);
    if (verify_file(s, &m, key, copy, err) != 0)
        return -1;
    write_signer(key, s->signer);
    return 0;
}

#else

static int verify(struct signature *s, const struct config_signatures *demands, const char *copy,
                  struct err *err)
{
    (void)s;
    (void)demands;
    (void)copy;
    return err_set(err, "cannot verify its signature: this graftd was built without libsodium: "
                        "build it with --with-sodium (Debian: libsodium-dev)");
}

#endif

static int refuse_missing(const struct signature *s, struct err *err)
{
    const char *slash = strrchr(s->path, '/');
    const char *name = slash != NULL ? slash + 1 : s->path;
    size_t plugin = strlen(name) - (sizeof SUFFIX - 1);
    return err_set(err,
                   "not signed: signatures.required is true, expected %.300s beside it, found no "
                   "such file: sign it (minisign -Sm %.*s) and put both there",
                   name, (int)plugin, name);
}

int signature_verify(struct signature *s, const struct config_signatures *demands, const char *copy,
                     struct err *err)
{
    if (!signature_wanted(demands))
        return 0;
    if (s->kind == SIGNATURE_MISSING)
        return demands->required ? refuse_missing(s, err) : 0;
    if (s->kind == SIGNATURE_BAD)
        return err_set(err, "its signature %.600s %s", s->path, s->why.text);
    return verify(s, demands, copy, err);
}

int signature_of_signer(const struct config_signatures *demands, const char *signer,
                        struct err *err)
{
    if (signer[0] == '\0')
        return demands->required
                   ? err_set(err, "it was kept when nobody asked for signatures, and "
                                  "signatures.required is true: put its file and its signature "
                                  "into the plugin folder, and reload")
                   : 0;
    for (size_t i = 0; i < demands->key_count; i++) {
        char known[SIGNER_SIZE];
        write_signer(&demands->keys[i].key, known);
        if (demands->keys[i].known && strcmp(known, signer) == 0)
            return 0;
    }
    return err_set(
        err,
        "it was signed with the key %.*s, which is none of signatures.keys any more: sign "
        "it with one of them, put both files into the plugin folder, and reload",
        (int)SIGNER_ID, signer);
}
