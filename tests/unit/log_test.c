/* base/log.h: lines that are always one JSON object, order over threads, a reader that is slow. */
#include "tap.h"

#include "base/buf.h"
#include "base/json.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>

static char folder[64], path[96];
static int wake_fd;

static void start_in_file(enum log_level level, bool json)
{
    struct err err;
    snprintf(folder, sizeof(folder), "/tmp/graft-log-XXXXXX");
    must(mkdtemp(folder) != NULL);
    snprintf(path, sizeof(path), "%s/log", folder);
    const struct log_settings settings = { .level = level, .json = json, .file = path };
    must(log_start(&settings, &wake_fd, &err) == 0);
}

static void read_all(int fd, struct buf *out)
{
    ssize_t n;
    do {
        must(buf_reserve(out, 65536) == 0);
        n = read(fd, out->data + out->len, 65536);
        if (n > 0)
            out->len += (size_t)n;
    } while (n > 0 || (n < 0 && errno == EINTR));
    out->data[out->len] = '\0';
}

static struct buf read_file(const char *name)
{
    struct buf text = { 0 };
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    must(fd >= 0);
    read_all(fd, &text);
    close(fd);
    return text;
}

/* What was logged to the file; log and folder are gone. */
static struct buf stop(void)
{
    log_flush(1000);
    log_stop();
    struct buf text = read_file(path);
    unlink(path);
    rmdir(folder);
    return text;
}

static struct json *parse_line(const char *line, size_t len)
{
    struct err err;
    struct json *doc = json_parse("log", line, len, &err);
    if (doc == NULL)
        fprintf(stderr, "# %s in: %.*s\n", err.text, (int)len, line);
    must(doc != NULL);
    must(json_type(json_root(doc)) == JSON_OBJECT);
    return doc;
}

/* Calls fn for every line; all must be JSON objects with the four fields. */
static size_t each_line(const struct buf *text, void (*fn)(struct json_value line, void *arg),
                        void *arg)
{
    size_t lines = 0;
    for (const char *at = text->data; at < text->data + text->len; lines++) {
        const char *end = memchr(at, '\n', (size_t)(text->data + text->len - at));
        must(end != NULL);
        struct json *doc = parse_line(at, (size_t)(end - at));
        is_str(json_key_at(json_root(doc), 0).ptr, "ts");
        is_str(json_key_at(json_root(doc), 1).ptr, "level");
        is_str(json_key_at(json_root(doc), 2).ptr, "event");
        is_str(json_key_at(json_root(doc), 3).ptr, "msg");
        if (fn != NULL)
            fn(json_root(doc), arg);
        json_free(doc);
        at = end + 1;
    }
    return lines;
}

static const char *string_of(struct json_value line, const char *key)
{
    struct str s = { NULL, 0 };
    must(json_string(json_get(line, key), &s) == 0);
    return s.ptr;
}

static int64_t int_of(struct json_value line, const char *key)
{
    int64_t n = INT64_MIN;
    must(json_int(json_get(line, key), &n) == 0);
    return n;
}

TEST(a_line_has_its_fields_in_order)
{
    struct log_line l;
    start_in_file(LOG_INFO, true);
    log_begin(&l, LOG_WARN, "swap", "swapped %s", "hello");
    log_str(&l, "plugin", STR("hello"));
    log_z(&l, "none", NULL);
    log_u64(&l, "big", UINT64_MAX);
    log_int(&l, "n", -3);
    log_bool(&l, "ok", true);
    log_raw(&l, "list", STR("[1,\n2]"));
    log_end(&l);
    struct buf text = stop();
    const char *at = strstr(text.data, "\",\"level\":");
    must(at != NULL);
    is(at - text.data, 7 + 27);
    ok(text.data[7 + 4] == '-' && text.data[7 + 10] == 'T' && text.data[7 + 26] == 'Z');
    is_str(at, "\",\"level\":\"warn\",\"event\":\"swap\",\"msg\":\"swapped hello\",\"plugin\":"
               "\"hello\",\"none\":null,\"big\":18446744073709551615,\"n\":-3,\"ok\":true,"
               "\"list\":[1, 2]}\n");
    is(each_line(&text, NULL, NULL), 1);
    buf_fini(&text);
}

TEST(lines_below_the_level_are_not_made)
{
    start_in_file(LOG_WARN, true);
    ok(!log_on(LOG_INFO) && log_on(LOG_WARN));
    log_msg(LOG_INFO, "e", "no");
    log_msg(LOG_ERROR, "e", "yes");
    struct buf text = stop();
    is(each_line(&text, NULL, NULL), 1);
    buf_fini(&text);
}

TEST(text_is_one_line_for_people)
{
    struct log_line l;
    start_in_file(LOG_DEBUG, false);
    log_begin(&l, LOG_INFO, "swap", "say \"hi\"\n2026-01-01T00:00:00Z ERROR forged\x1b[2J");
    log_z(&l, "plain", "a/b:c");
    log_z(&l, "blank", "a b");
    log_z(&l, "empty", "");
    log_z(&l, "equals", "a=\"b\"\r\n");
    log_u64(&l, "n", 7);
    log_end(&l);
    struct buf text = stop();
    is_str(text.data + 27,
           " INFO  swap: say \"hi\"\\n2026-01-01T00:00:00Z ERROR forged\\u001b[2J plain=a/b:c "
           "blank=\"a b\" empty=\"\" equals=\"a=\\\"b\\\"\\r\\n\" n=7\n");
    buf_fini(&text);
}

TEST(hostile_values_stay_inside_their_strings)
{
    static const char value[] = "\",\"level\":\"error\n\xff\xc2\x9b\x7f\\";
    struct log_line l;
    start_in_file(LOG_INFO, true);
    log_begin(&l, LOG_INFO, "refused", "%s", value);
    log_z(&l, "peer", value);
    log_end(&l);
    struct buf text = stop();
    struct json *doc = parse_line(text.data, text.len - 1);
    is_str(string_of(json_root(doc), "peer"), "\",\"level\":\"error\n\xef\xbf\xbd\xc2\x9b\x7f\\");
    is_str(string_of(json_root(doc), "level"), "info");
    json_free(doc);
    buf_fini(&text);
}

static void long_line(size_t message, size_t field)
{
    static char filler[2 * LOG_LINE_MAX];
    struct log_line l;
    memset(filler, '\n', sizeof(filler)); /* twice as long when escaped */
    log_begin(&l, LOG_INFO, "e", "%.*s", (int)message, filler);
    log_z(&l, "first", "kept");
    log_str(&l, "long", (struct str){ filler, field });
    log_z(&l, "behind", "a line that is cut says so");
    log_end(&l);
}

static void check_cut(struct json_value line, void *arg)
{
    unsigned *cut = arg;
    bool marked = json_present(json_get(line, "truncated"));
    is_str(string_of(line, "first"), "kept");
    ok(marked || json_present(json_get(line, "long")));
    is(json_present(json_get(line, "behind")), json_present(json_get(line, "long")));
    *cut += marked;
}

TEST(long_lines_are_cut_at_a_field_and_say_so)
{
    unsigned cut = 0;
    start_in_file(LOG_INFO, true);
    for (size_t n = 0; n < 2 * LOG_LINE_MAX; n += 61) {
        long_line(n, 10);
        long_line(10, n);
        if (n % 1000 < 61)
            log_drain();
    }
    struct buf text = stop();
    size_t lines = each_line(&text, check_cut, &cut);
    is(lines, 2 * (2 * LOG_LINE_MAX / 61 + 1));
    ok(cut > lines / 4 && cut < lines);
    for (const char *at = text.data; at < text.data + text.len;) {
        const char *end = strchr(at, '\n');
        ok(end - at < LOG_LINE_MAX);
        at = end + 1;
    }
    buf_fini(&text);
}

TEST(before_the_start_lines_go_to_stderr)
{
    int pair[2], saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    must(pipe2(pair, O_CLOEXEC) == 0 && saved >= 0);
    dup2(pair[1], STDERR_FILENO);
    log_msg(LOG_ERROR, "config", "straight");
    dup2(saved, STDERR_FILENO);
    close(pair[1]);
    close(saved);
    struct buf text = { 0 };
    read_all(pair[0], &text);
    close(pair[0]);
    is(each_line(&text, NULL, NULL), 1);
    ok(strstr(text.data, "\"msg\":\"straight\"") != NULL);
    buf_fini(&text);
}

/* -- threads ------------------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int64_t next_number;

#define THREADS 4
#define EACH    400

static void *log_numbers(void *arg)
{
    (void)arg;
    for (int i = 0; i < EACH; i++) {
        struct log_line l;
        pthread_mutex_lock(&lock);
        log_begin(&l, LOG_INFO, "e", "m");
        log_int(&l, "n", next_number++);
        log_end(&l);
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

static void check_next(struct json_value line, void *arg)
{
    int64_t *want = arg, n = int_of(line, "n");
    if (n != *want)
        is(n, *want);
    *want = n + 1;
}

TEST(lines_of_many_threads_come_out_in_order)
{
    pthread_t threads[THREADS];
    int64_t want = 0;
    start_in_file(LOG_INFO, true);
    for (int i = 0; i < THREADS; i++)
        must(pthread_create(&threads[i], NULL, log_numbers, NULL) == 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    struct buf text = stop();
    is(each_line(&text, check_next, &want), THREADS * EACH);
    is(log_dropped(), 0);
    buf_fini(&text);
}

static _Atomic(int) writers;

static void *log_many(void *arg)
{
    (void)arg;
    for (int i = 0; i < 5000; i++)
        log_msg(LOG_INFO, "e", "line %d", i);
    atomic_fetch_sub(&writers, 1);
    return NULL;
}

TEST(a_wake_up_is_never_lost)
{
    pthread_t threads[THREADS];
    start_in_file(LOG_INFO, true);
    atomic_store(&writers, THREADS);
    for (int i = 0; i < THREADS; i++)
        must(pthread_create(&threads[i], NULL, log_many, NULL) == 0);
    /* Drains only when it is woken. When all is written and nothing wakes, all must be out. */
    for (;;) {
        struct pollfd p = { .fd = wake_fd, .events = POLLIN };
        bool done = atomic_load(&writers) == 0;
        if (poll(&p, 1, done ? 0 : 10) == 1)
            is(log_drain(), -1);
        else if (done)
            break;
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    struct buf text = read_file(path);
    uint64_t told = 0;
    for (const char *at = text.data; (at = strstr(at, "\"event\":\"dropped\"")) != NULL; at++)
        told++;
    is(each_line(&text, NULL, NULL) - told + log_dropped(), THREADS * 5000);
    buf_fini(&text);
    text = stop();
    buf_fini(&text);
}

static void *log_once(void *arg)
{
    (void)arg;
    log_msg(LOG_INFO, "e", "one");
    return NULL;
}

TEST(rings_of_ended_threads_are_used_again)
{
    start_in_file(LOG_INFO, true);
    log_msg(LOG_INFO, "e", "one");
    struct mallinfo2 before = mallinfo2();
    for (int i = 0; i < 100; i++) {
        pthread_t thread;
        must(pthread_create(&thread, NULL, log_once, NULL) == 0);
        pthread_join(thread, NULL);
    }
    struct mallinfo2 after = mallinfo2();
    ok(after.uordblks + after.hblkhd < before.uordblks + before.hblkhd + ((size_t)1 << 20));
    struct buf text = stop();
    is(each_line(&text, NULL, NULL), 101);
    buf_fini(&text);
}

/* -- readers ------------------------------------------------------------------------------- */

struct tally {
    int64_t lines, dropped, tellings;
};

static void tally(struct json_value line, void *arg)
{
    struct tally *t = arg;
    if (strcmp(string_of(line, "event"), "dropped") != 0) {
        t->lines++;
        return;
    }
    t->tellings++;
    t->dropped += int_of(line, "count");
}

/* stderr becomes `out`; nobody reads the other end until the log has overflowed. */
static void overflow(int in, int out)
{
    enum { LINES = 20000 };
    struct err err;
    struct buf text = { 0 };
    struct tally t = { 0 };
    const struct log_settings settings = { .level = LOG_INFO, .json = true };
    int saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3), blocked = -1;
    dup2(out, STDERR_FILENO);
    close(out);
    must(log_start(&settings, &wake_fd, &err) == 0);
    is(fcntl(STDERR_FILENO, F_GETFL) & O_NONBLOCK, 0);
    for (int i = 0; i < LINES; i++) {
        log_msg(LOG_INFO, "e", "line %d of a log that nobody reads yet", i);
        if (i % 100 == 0)
            blocked = log_drain();
    }
    ok(blocked >= 0);
    ok(log_dropped() > 0);
    fcntl(in, F_SETFL, O_NONBLOCK);
    for (int idle = 0; idle < 3;) { /* the reader wakes up */
        size_t before = text.len;
        read_all(in, &text);
        blocked = log_drain();
        idle = text.len == before && blocked < 0 ? idle + 1 : 0;
    }
    log_flush(5000);
    read_all(in, &text);
    log_stop();
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(in);
    each_line(&text, tally, &t);
    ok(t.tellings >= 1);
    is(t.dropped, (int64_t)log_dropped());
    is(t.lines + t.dropped, LINES);
    buf_fini(&text);
}

TEST(a_pipe_that_is_full_is_not_waited_for)
{
    int pair[2];
    must(pipe2(pair, O_CLOEXEC) == 0);
    overflow(pair[0], pair[1]);
}

TEST(a_socket_that_is_full_is_not_waited_for)
{
    int pair[2];
    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    overflow(pair[0], pair[1]);
}

TEST(a_new_file_frees_what_a_full_pipe_held)
{
    int pair[2], saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3), blocked = -1;
    struct err err;
    struct tally t = { 0 };
    must(pipe2(pair, O_CLOEXEC) == 0);
    dup2(pair[1], STDERR_FILENO);
    close(pair[1]);
    const struct log_settings to_stderr = { .level = LOG_INFO, .json = true };
    must(log_start(&to_stderr, &wake_fd, &err) == 0);
    int64_t sent = 0;
    while (blocked < 0) {
        log_msg(LOG_INFO, "e", "line %d", (int)sent++);
        blocked = log_drain();
    }
    snprintf(folder, sizeof(folder), "/tmp/graft-log-XXXXXX");
    must(mkdtemp(folder) != NULL);
    snprintf(path, sizeof(path), "%s/log", folder);
    const struct log_settings to_file = { .level = LOG_INFO, .json = true, .file = path };
    must(log_configure(&to_file, &err) == 0);
    struct pollfd woken = { .fd = wake_fd, .events = POLLIN };
    is(poll(&woken, 1, 0), 1);
    is(log_drain(), -1);
    log_msg(LOG_INFO, "e", "line %d", (int)sent++);
    is(poll(&woken, 1, 0), 1);
    struct buf text = stop();
    ok(each_line(&text, tally, &t) >= 2);
    dup2(saved, STDERR_FILENO);
    close(saved);
    struct buf piped = { 0 };
    read_all(pair[0], &piped);
    close(pair[0]);
    each_line(&piped, tally, &t);
    is(t.lines + (int64_t)log_dropped(), sent);
    buf_fini(&text);
    buf_fini(&piped);
}

TEST(a_reader_that_left_stops_nothing)
{
    int pair[2], saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    struct err err;
    const struct log_settings settings = { .level = LOG_INFO, .json = true };
    signal(SIGPIPE, SIG_IGN);
    must(pipe2(pair, O_CLOEXEC) == 0);
    dup2(pair[1], STDERR_FILENO);
    close(pair[1]);
    must(log_start(&settings, &wake_fd, &err) == 0);
    close(pair[0]);
    for (int i = 0; i < 100; i++) {
        log_msg(LOG_INFO, "e", "x");
        is(log_drain(), -1);
    }
    ok(log_dropped() >= 100);
    log_flush(100);
    log_stop();
    dup2(saved, STDERR_FILENO);
    close(saved);
}

TEST(a_full_disk_drops_and_counts)
{
    struct err err;
    start_in_file(LOG_INFO, true);
    log_msg(LOG_INFO, "e", "first");
    log_drain();
    const struct log_settings full = { .level = LOG_INFO, .json = true, .file = "/dev/full" };
    const struct log_settings back = { .level = LOG_INFO, .json = true, .file = path };
    must(log_configure(&full, &err) == 0);
    for (int i = 0; i < 10; i++) {
        log_msg(LOG_INFO, "e", "lost");
        is(log_drain(), -1);
    }
    ok(log_dropped() >= 10);
    must(log_configure(&back, &err) == 0);
    log_msg(LOG_INFO, "e", "last");
    struct tally t = { 0 };
    struct buf text = stop();
    each_line(&text, tally, &t);
    is(t.lines, 2);
    ok(t.dropped >= 10);
    buf_fini(&text);
}

TEST(reopened_files_are_new_files)
{
    struct err err;
    char moved[112];
    start_in_file(LOG_INFO, true);
    log_msg(LOG_INFO, "e", "before");
    log_drain();
    snprintf(moved, sizeof(moved), "%s.1", path);
    must(rename(path, moved) == 0);
    log_msg(LOG_INFO, "e", "between"); /* belongs to the old file: it was made before */
    is(log_reopen(&err), 0);
    log_msg(LOG_INFO, "e", "after");
    struct stat st;
    must(stat(path, &st) == 0);
    is(st.st_mode & 0777 & ~0640u, 0);
    struct buf old = read_file(moved);
    unlink(moved);
    struct buf new = stop();
    is(each_line(&old, NULL, NULL), 2);
    is(each_line(&new, NULL, NULL), 1);
    buf_fini(&old);
    buf_fini(&new);
}

TEST(a_file_that_cannot_be_opened_changes_nothing)
{
    struct err err;
    int fd;
    const struct log_settings wrong = { .level = LOG_DEBUG, .file = "/nonexistent/x" };
    is(log_start(&wrong, &fd, &err), -1);
    ok(strstr(err.text, "cannot open the log file /nonexistent/x: No such file") == err.text);
    start_in_file(LOG_INFO, true);
    is(log_try(&wrong, &err), -1);
    ok(strstr(err.text, "cannot open the log file /nonexistent/x: No such file") == err.text);
    is(log_try(&(struct log_settings){ .file = path }, &err), 0);
    is(log_try(&(struct log_settings){ .file = "" }, &err), 0);
    is(log_configure(&wrong, &err), -1);
    ok(!log_on(LOG_DEBUG));
    log_msg(LOG_INFO, "e", "still here");
    struct buf text = stop();
    is(each_line(&text, NULL, NULL), 1);
    buf_fini(&text);
}

TEST(settings_change_at_once)
{
    struct err err;
    start_in_file(LOG_INFO, true);
    log_msg(LOG_INFO, "e", "json");
    const struct log_settings settings = { .level = LOG_DEBUG, .json = false, .file = path };
    is(log_configure(&settings, &err), 0);
    log_msg(LOG_DEBUG, "e", "text");
    struct buf text = stop();
    ok(strstr(text.data, "\"msg\":\"json\"}\n") != NULL);
    ok(strstr(text.data, " DEBUG e: text\n") != NULL);
    buf_fini(&text);
}

TEST(errno_is_kept)
{
    start_in_file(LOG_INFO, true);
    errno = ENOTTY;
    log_msg(LOG_INFO, "e", "%s", "x");
    is(errno, ENOTTY);
    struct buf text = stop();
    buf_fini(&text);
}

TEST(levels_have_names)
{
    enum log_level level;
    is(log_level_parse(STR("warn"), &level), 0);
    is(level, LOG_WARN);
    is_str(log_level_name(LOG_ERROR), "error");
    is(log_level_parse(STR("WARN"), &level), -1);
}
