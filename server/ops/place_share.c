/*
 * Opening the control socket to groups, and closing its folder again. A file has one group: that
 * serves for one of ours; for several, or where we are not a member and so may not give it, they
 * are entries of a POSIX access control list. Everything is done to the file that was looked at,
 * through its descriptor, not to whatever has its name meanwhile.
 */
#include "ops/place.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#define ACL_NAME "system.posix_acl_access"

/* As the kernel takes it (linux/posix_acl_xattr.h). */
struct acl_entry {
    uint16_t tag, perm;
    uint32_t id;
};
struct acl {
    uint32_t version;
    struct acl_entry entries[];
};
enum {
    ACL_VERSION = 2,
    ACL_OWNER = 1,
    ACL_OWN_GROUP = 4,
    ACL_GROUP = 8,
    ACL_MASK = 16,
    ACL_REST = 32
};

static struct acl_entry entry(unsigned tag, unsigned perm, uint32_t id)
{
    return (struct acl_entry){ htole16((uint16_t)tag), htole16((uint16_t)perm), htole32(id) };
}

/* The owner as in `mode`, each group as its group bits, nobody else. */
static int set_acl(const char *path, mode_t mode, const gid_t *groups, size_t ngroups)
{
    size_t n = 0, size = sizeof(struct acl) + (ngroups + 4) * sizeof(struct acl_entry);
    struct acl *acl = malloc(size);
    unsigned perm = mode >> 3 & 7;
    if (acl == NULL)
        return -1;
    acl->version = htole32(ACL_VERSION);
    acl->entries[n++] = entry(ACL_OWNER, mode >> 6 & 7, UINT32_MAX);
    acl->entries[n++] = entry(ACL_OWN_GROUP, 0, UINT32_MAX);
    for (size_t i = 0; i < ngroups; i++)
        acl->entries[n++] = entry(ACL_GROUP, perm, groups[i]);
    acl->entries[n++] = entry(ACL_MASK, perm, UINT32_MAX);
    acl->entries[n++] = entry(ACL_REST, 0, UINT32_MAX);
    int rc = setxattr(path, ACL_NAME, acl, size, 0), cause = errno;
    free(acl);
    errno = cause;
    return rc;
}

/* `fd` is an O_PATH descriptor: by way of /proc it can be changed all the same. */
static int open_to(int fd, const char *name, mode_t mode, const gid_t *groups, size_t ngroups,
                   struct err *err)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    removexattr(path, ACL_NAME); /* what the folder's default one has given */
    if (ngroups == 1 && fchownat(fd, "", (uid_t)-1, groups[0], AT_EMPTY_PATH) == 0) {
        if (chmod(path, mode) == 0)
            return 0;
        return err_set(err, "%s: cannot be given mode %04o: %s", name, (unsigned)mode,
                       strerror(errno));
    }
    if (set_acl(path, mode, groups, ngroups) == 0)
        return 0;
    return err_set(err,
                   "%s: cannot be opened to control_groups: %s: its file system needs access "
                   "control lists for that (/run has them): give another path, or name one group, "
                   "of which graftd's user is a member",
                   name, strerror(errno));
}

static int open_path(const char *path, struct stat *st)
{
    int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && fstat(fd, st) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

static int share_folder(const struct place_socket *s, const gid_t *groups, size_t ngroups,
                        struct err *err)
{
    char copy[sizeof s->path];
    struct stat st;
    memcpy(copy, s->path, sizeof copy);
    const char *folder = dirname(copy);
    int fd = open_path(folder, &st), rc = 0;
    if (fd < 0)
        return err_set(err, "%s: %s", folder, strerror(errno));
    if ((st.st_mode & S_IXOTH) == 0) /* else everybody may pass */
        rc = open_to(fd, folder, 0710, groups, ngroups, err);
    close(fd);
    return rc;
}

int place_share(struct place_socket *s, const gid_t *groups, size_t ngroups, struct err *err)
{
    struct stat st;
    if (s->fd < 0 || ngroups == 0)
        return 0;
    int fd = open_path(s->path, &st);
    if (fd < 0 || st.st_dev != s->dev || st.st_ino != s->ino) {
        if (fd >= 0)
            close(fd);
        return err_set(err, "%s: is not the socket any more that was made there", s->path);
    }
    int rc = open_to(fd, s->path, 0660, groups, ngroups, err);
    close(fd);
    if (rc == 0 && s->made_folder)
        rc = share_folder(s, groups, ngroups, err);
    s->shared = rc == 0;
    return rc;
}

void place_unshare_folder(const char *folder)
{
    struct stat st;
    char path[32];
    int fd = open_path(folder, &st);
    if (fd >= 0 && S_ISDIR(st.st_mode) && (st.st_mode & 0777) == 0710) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        removexattr(path, ACL_NAME); /* ENODATA: there is none */
        chmod(path, 0700);
    }
    if (fd >= 0)
        close(fd);
}
