/* base/config_trust.c: signatures and control_groups of graft.json, ops/peer.c. */
#include "tap.h"

#include "base/config.h"
#include "ops/peer.h"
#include "options.h"

#include <fcntl.h>
#include <grp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#define KEY   "RWRHIfMMOeg/4ItL2e+chFByFEDqxa1karM2rhadHKgr635pDqWK4Vji"
#define OTHER "RWRHIfMMOeg/4YtL2e+chFByFEDqxa1karM2rhadHKgr635pDqWK4Vji" /* another id */

static struct err error;

static struct config *load(const char *text)
{
    return config_from_text("graft.json", text, strlen(text), &error);
}

static void refused(const char *text, const char *message)
{
    struct config *c = load(text);
    ok(c == NULL);
    config_free(c);
    is_str(error.text, message);
}

#ifdef GRAFT_SODIUM
TEST(keys_are_read)
{
    struct config *c =
        load("{\"signatures\": {\"required\": true, \"keys\": [\"" KEY "\", \"" OTHER "\"]}}");
    must(c != NULL);
    ok(c->signatures.required);
    is(c->signatures.key_count, 2);
    ok(c->signatures.keys[0].known && c->signatures.keys[0].key.id == 0xE03FE8390CF32147u);
    is(strlen(c->signatures.sha256), 64);
    struct config *less = load("{\"signatures\": {\"keys\": [\"" KEY "\"]}}");
    must(less != NULL);
    ok(!less->signatures.required);
    ok(strcmp(c->signatures.sha256, less->signatures.sha256) != 0);
    config_free(c);
    config_free(less);
}
#else
TEST(demands_are_refused_without_libsodium)
{
    refused("{\"signatures\": {\"keys\": [\"" KEY "\"]}}",
            "graft.json:1:16: signatures: this graftd cannot verify any: it was built without "
            "libsodium: build it with --with-sodium (Debian: libsodium-dev), or remove the key");
}
#endif

TEST(what_signatures_may_not_say)
{
    refused("{\"signatures\": true}",
            "graft.json:1:16: signatures: expected an object with required "
            "and keys, found true or false");
    refused("{\"signatures\": {\"key\": []}}",
            "graft.json:1:17: unknown key \"key\": did you mean \"keys\"?");
    refused(
        "{\"signatures\": {\"required\": \"yes\"}}",
        "graft.json:1:29: signatures.required: expected true or false, found a string: write it "
        "without quotes");
    refused("{\"signatures\": {\"keys\": \"" KEY "\"}}",
            "graft.json:1:25: signatures.keys: expected an array of public keys, found a string: "
            "write it in [ ]");
    refused("{\"signatures\": {\"keys\": [1]}}",
            "graft.json:1:26: signatures.keys: expected a public key as a string, found a number: "
            "write it in double quotes");
    refused(
        "{\"signatures\": {\"keys\": [\"key.pub\"]}}",
        "graft.json:1:26: signatures.keys: expected a minisign public key (56 characters that "
        "begin with RW), found \"key.pub\" (7 bytes): give the last line of a .pub file, or its "
        "path from / on");
    refused("{\"signatures\": {\"keys\": [\"" KEY "\",\n \"" KEY "\"]}}",
            "graft.json:2:2: signatures.keys: the key " KEY " is named twice: remove one");
    refused("{\"signatures\": {\"required\": true, \"keys\": []}}",
            "graft.json:1:16: signatures: required is true, but keys names none, so that no plugin "
            "could be loaded: name a public key, or set \"required\": false");
}

/* With files and names looked up, as graftd does. */
static struct config *load_file(const char *text)
{
    static struct options opt;
    char path[] = "/tmp/trust_test.XXXXXX", *none[] = { NULL };
    int fd = mkstemp(path);
    must(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
    opt.config_file = path;
    struct config *c = config_load(&opt, none, &error);
    unlink(path);
    return c;
}

#ifdef GRAFT_SODIUM
static struct config *load_key_file(const char *key, mode_t mode)
{
    char path[] = "/tmp/trust_test.pub.XXXXXX", text[200];
    int fd = mkstemp(path);
    must(fd >= 0 && write(fd, key, strlen(key)) == (ssize_t)strlen(key) && fchmod(fd, mode) == 0);
    close(fd);
    snprintf(text, sizeof text, "{\"signatures\": {\"keys\": [\"%s\"]}}", path);
    struct config *c = load_file(text);
    unlink(path);
    return c;
}

static void key_file_refused(const char *key, mode_t mode, const char *why)
{
    struct config *c = load_key_file(key, mode);
    ok(c == NULL);
    config_free(c);
    if (strstr(error.text, why) == NULL)
        is_str(error.text, why);
}

TEST(a_key_may_be_a_file)
{
    struct config *c = load_key_file("untrusted comment: minisign public key\n" KEY "\n", 0644);
    must(c != NULL);
    ok(c->signatures.keys[0].known && c->signatures.keys[0].key.id == 0xE03FE8390CF32147u);
    config_free(c);
    key_file_refused("untrusted comment: x\n" KEY "\n", 0664,
                     "writable by its group (mode 0664), expected by its "
                     "owner alone: chmod go-w it");
    key_file_refused("untrusted comment: x\n" KEY "\n", 0606, "writable by others");
    key_file_refused("junk\n", 0600, "line 1: expected a minisign public key");
    char big[8000];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    key_file_refused(big, 0600,
                     "has 7999 bytes, expected at most 4096: is it a .pub file of minisign?");
    ok(load_file("{\"signatures\": {\"keys\": [\"/no/such.pub\"]}}") == NULL);
    ok(strstr(error.text, ":1:26: signatures.keys: /no/such.pub: cannot be opened: No such file") !=
       NULL);
    ok(load_file("{\"signatures\": {\"keys\": [\"/tmp\"]}}") == NULL);
    ok(strstr(error.text, "/tmp: expected a regular file") != NULL);
}
#endif

TEST(groups_are_names_or_numbers)
{
    struct config *c = load_file("{\"control_groups\": [\"daemon\", \"4711\"]}");
    must(c != NULL);
    is(c->control_group_count, 2);
    is(c->control_groups[0].gid, 1);
    is(c->control_groups[1].gid, 4711);
    ok(load_file("{\"control_groups\": [\"no-such-group\"]}") == NULL);
    ok(strstr(
           error.text,
           ":1:21: control_groups: expected a group of this machine, found \"no-such-group\": make "
           "it (groupadd), or give its number") != NULL);
    ok(load_file("{\"control_groups\": [\"daemon\", \"1\"]}") == NULL);
    ok(strstr(error.text, "control_groups: \"1\" is named twice: remove one") != NULL);
    struct config *other = load_file("{\"control_groups\": [\"4711\", \"daemon\"]}"),
                  *one = load_file("{}");
    must(other != NULL && one != NULL);
    const char *names[4];
    is(config_restart_keys_changed(c, other, names, 4), 0);
    is(config_restart_keys_changed(c, one, names, 4), 1);
    is_str(names[0], "control_groups");
    config_free(c);
    config_free(other);
    config_free(one);
}

TEST(what_control_groups_may_not_say)
{
    refused("{\"control_groups\": \"ops\"}",
            "graft.json:1:20: control_groups: expected an array of groups, found a "
            "string: write it in [ ]");
    refused("{\"control_groups\": [4]}",
            "graft.json:1:21: control_groups: expected the name of a group, found a "
            "number: write it in double quotes");
    refused("{\"control_groups\": [\"\"]}",
            "graft.json:1:21: control_groups: expected the name of a group, found \"\"");
}

/* Not ourselves, nor root: only their groups count. As another process, which changes its ids. */
static enum peer_right right_of(uid_t uid, gid_t gid, size_t nmore, const gid_t *more,
                                const gid_t *groups, size_t ngroups)
{
    char path[] = "/tmp/trust_test.XXXXXX";
    struct sockaddr_un sa = { .sun_family = AF_UNIX };
    struct peer peer;
    int listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(mkdtemp(path) != NULL && chmod(path, 0755) == 0);
    snprintf(sa.sun_path, sizeof sa.sun_path, "%s/s", path);
    must(bind(listening, (struct sockaddr *)&sa, sizeof sa) == 0 && chmod(sa.sun_path, 0666) == 0 &&
         listen(listening, 1) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (setgroups(nmore, more) != 0 || setgid(gid) != 0 || setuid(uid) != 0 ||
            connect(fd, (struct sockaddr *)&sa, sizeof sa) != 0)
            _exit(1);
        _exit(0);
    }
    int fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC), status = 0;
    must(fd >= 0 && waitpid(pid, &status, 0) == pid && status == 0);
    peer_find(&peer, fd, groups, ngroups);
    is(peer.uid, uid);
    is(peer.pid, pid);
    close(fd);
    close(listening);
    unlink(sa.sun_path);
    rmdir(path);
    return peer.right;
}

TEST(peers_are_judged_by_user_and_groups)
{
    static gid_t many[300];
    const gid_t ops[] = { 5001, 5002 }, other[] = { 6001, 5002 };
    for (size_t i = 0; i < ARRAY_LEN(many); i++)
        many[i] = (gid_t)(7000 + i);
    if (geteuid() != 0)
        return; /* others cannot be asked to connect */
    is(right_of(0, 0, 0, NULL, NULL, 0), PEER_ALL);
    is(right_of(4711, 4711, 0, NULL, NULL, 0), PEER_NOTHING);
    is(right_of(4711, 4711, 0, NULL, ops, 2), PEER_NOTHING);
    is(right_of(4711, 5001, 0, NULL, ops, 2), PEER_READ);
    is(right_of(4711, 4711, 2, other, ops, 2), PEER_READ);
    is(right_of(4711, 4711, 1, other, ops, 2), PEER_NOTHING);
    is(right_of(4711, 0, 0, NULL, ops, 2), PEER_NOTHING);
    is(right_of(4711, 4711, 300, many, ops, 2), PEER_NOTHING);
    many[299] = 5002;
    is(right_of(4711, 4711, 300, many, ops, 2), PEER_READ);
}

TEST(what_is_no_unix_socket_has_no_rights)
{
    struct peer peer;
    gid_t ops[] = { 0 };
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    peer_find(&peer, fd, ops, 1);
    is(peer.right, PEER_NOTHING);
    close(fd);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    peer_find(&peer, fd, ops, 1);
    is(peer.right, PEER_NOTHING);
    close(fd);
}
