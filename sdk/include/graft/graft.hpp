/*
 * graft.hpp: the plugin contract for C++17, a thin layer over graft.h. Header-only; nothing of it
 * is ABI, and all that graft.h says holds: threads, lifetimes, the order of a version's life.
 *
 *     struct shop {
 *         explicit shop(graft::self self);                 // init; a throw refuses the version
 *         graft_next item(graft::request &req);            // a handler; a throw is a 500
 *     };
 *     static const graft_route routes[] = {
 *         { "GET", "/items/:id", graft::handler<&shop::item>, 0 }, {} };
 *     GRAFT_PLUGIN(.name = "shop", .version = "1.0.0", .init = graft::init<shop>,
 *                  .fini = graft::fini<shop>, .routes = routes)
 *
 * No exception leaves a plugin: each function template below that makes a callback (handler,
 * middleware, finish, init, hook, ...) catches what its function throws. In a request a
 * graft::http_error is the answer that it says; any other exception is a 500, and a line in the
 * server's log that names the plugin. What a callback owes is an object, graft::later, which cannot
 * be forgotten: destroyed without done() it answers 500.
 *
 * g++ must be told -fno-gnu-unique (pkg-config --variable=gxxflags graft), and a thread_local with
 * a destructor keeps a version mapped: see the guide.
 */
#ifndef GRAFT_GRAFT_HPP
#define GRAFT_GRAFT_HPP

#if __cplusplus < 201703L
#error "graft.hpp needs C++17 or later: add -std=c++17; graft.h alone is enough for older C++"
#elif !defined(__cpp_exceptions)
#error "graft.hpp needs exceptions: leave out -fno-exceptions, or use graft.h alone"
#else

#include <graft/graft.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace graft
{

/* Borrowed bytes as a string_view; absent has data() == nullptr. */
inline std::string_view view(graft_str s) noexcept
{
    return s.ptr ? std::string_view(s.ptr, s.len) : std::string_view();
}

/* Whether such a view is of something: "" is present, and empty. */
inline bool present(std::string_view s) noexcept
{
    return s.data() != nullptr;
}

/* Thrown by a handler or middleware: the client gets this status and this text (RFC 9457). */
class http_error : public std::runtime_error
{
  public:
    http_error(int status, const std::string &detail) : std::runtime_error(detail), status_(status)
    {
    }
    int status() const noexcept
    {
        return status_;
    }

  private:
    int status_;
};

/* Thrown when the server has no memory for what was asked. */
class unavailable : public std::runtime_error
{
  public:
    using std::runtime_error::runtime_error;
};

namespace detail
{
/* The text of the exception that is being handled. */
inline std::string reason()
{
    try {
        throw;
    } catch (const std::exception &e) {
        return e.what();
    } catch (...) {
        return "something that is no std::exception";
    }
}

/* Never throws, also when the text itself cannot be had. */
template <typename Say> void tell(Say &&say) noexcept
{
    try {
        say(reason().c_str());
    } catch (...) {
        say("out of memory");
    }
}

/* As the server counts time; what is longer than it can count is as long as it can. */
inline unsigned ms(std::chrono::milliseconds t) noexcept
{
    constexpr unsigned most = std::numeric_limits<unsigned>::max();
    if (t.count() <= 0)
        return 0;
    return static_cast<unsigned long long>(t.count()) < most ? static_cast<unsigned>(t.count())
                                                             : most;
}

/* Class and arguments of what a callback is made from. */
template <typename F> struct traits;
template <typename R, typename... A> struct traits<R (*)(A...)> {
    using state = void;
};
template <typename R, typename A, typename S> struct traits<R (*)(A, S &)> {
    using state = S;
};
template <typename R, typename A, typename S>
struct traits<R (*)(A, std::uint32_t, std::string_view, S &)> {
    using state = S;
};
template <typename R, typename... A> struct traits<R (*)(A...) noexcept> : traits<R (*)(A...)> {
};
template <typename R, typename C, typename... A> struct traits<R (C::*)(A...)> {
    using state = C;
};
template <typename R, typename C, typename... A> struct traits<R (C::*)(A...) const> {
    using state = C;
};
template <typename R, typename C, typename... A>
struct traits<R (C::*)(A...) noexcept> : traits<R (C::*)(A...)> {
};
template <typename R, typename C, typename... A>
struct traits<R (C::*)(A...) const noexcept> : traits<R (C::*)(A...)> {
};

/* F(args...), F(args..., state) or (state.*F)(args...), as F wants to be called. */
template <auto F, typename... A> decltype(auto) call(void *state, A &&...args)
{
    using S = typename traits<decltype(F)>::state;
    if constexpr (std::is_member_function_pointer_v<decltype(F)>)
        return (static_cast<S *>(state)->*F)(std::forward<A>(args)...);
    else if constexpr (std::is_void_v<S>)
        return F(std::forward<A>(args)...);
    else
        return F(std::forward<A>(args)..., *static_cast<S *>(state));
}

template <typename T> void *plain_copy(graft_req *req, T &&value)
{
    using V = std::decay_t<T>;
    static_assert(
        std::is_trivially_destructible_v<V>,
        "what lies in a request's memory is never destroyed: capture pointers and numbers");
    static_assert(alignof(V) <= alignof(std::max_align_t), "over-aligned");
    void *at = graft_alloc(req, sizeof(V));
    if (at == nullptr)
        throw std::bad_alloc();
    return new (at) V(std::forward<T>(value));
}
} // namespace detail

/* ---- The plugin itself ---------------------------------------------------------------------- */

/* A counter of /metrics; may be empty. [worker] [pool] */
class counter
{
  public:
    counter() = default;
    explicit counter(graft_metric *metric) noexcept : metric_(metric)
    {
    }
    void add(std::uint64_t n) const noexcept
    {
        graft_add(metric_, n);
    }
    void operator++() const noexcept
    {
        add(1);
    }

  private:
    graft_metric *metric_ = nullptr;
};

/* What self::every() needs as long as it runs. */
struct timer {
    graft_self *self;
    void *state;
};

/* This version of this plugin: a handle, to be copied freely, valid until fini has returned. */
class self
{
  public:
    explicit self(graft_self *handle) noexcept : self_(handle)
    {
    }
    graft_self *get() const noexcept
    {
        return self_;
    }

    /* [any] The configuration: all of it as JSON, or one key of it. Live as long as the version. */
    std::string_view config() const noexcept
    {
        return view(graft_config(self_));
    }
    const char *config_str(const char *key, const char *fallback) const noexcept
    {
        return graft_config_str(self_, key, fallback);
    }
    std::int64_t config_int(const char *key, std::int64_t fallback) const noexcept
    {
        return graft_config_int(self_, key, fallback);
    }
    bool config_bool(const char *key, bool fallback) const noexcept
    {
        return graft_config_bool(self_, key, fallback);
    }

    /* [any] One line of the server's log, with the plugin's name and version. */
    void debug(std::string_view text) const noexcept
    {
        log(GRAFT_DEBUG, text);
    }
    void info(std::string_view text) const noexcept
    {
        log(GRAFT_INFO, text);
    }
    void warn(std::string_view text) const noexcept
    {
        log(GRAFT_WARN, text);
    }
    void error(std::string_view text) const noexcept
    {
        log(GRAFT_ERR, text);
    }
    void log(int level, std::string_view text) const noexcept
    {
        graft_log(self_, level, "%.*s", static_cast<int>(text.size()), text.data());
    }

    unsigned worker() const noexcept /* [worker] */
    {
        return graft_worker(self_);
    }
    unsigned workers() const noexcept /* [any] */
    {
        return graft_workers(self_);
    }
    event_base *loop() const noexcept /* [worker] */
    {
        return graft_loop(self_);
    }
    bool cooling() const noexcept /* [any] */
    {
        return graft_cooling(self_);
    }

    /* [loader] graft_plugin_<plugin>_<name> of /metrics; throws when it cannot be had. */
    counter make_counter(const char *name, const char *help) const
    {
        graft_metric *metric = graft_counter(self_, name, help);
        if (metric == nullptr)
            throw unavailable(std::string("counter '") + name + "': a bad name, or no memory");
        return counter(metric);
    }

    /* [loader] The member function F of *state on the pool every so often, between start and cool,
     * never twice at once. What it throws is logged, and it is called again. A period of 1 ms or
     * more. What is returned must live until fini: make it a member of the state. */
    template <auto F, typename State>
    [[nodiscard]] std::unique_ptr<timer> every(std::chrono::milliseconds period,
                                               State *state) const;

    /* [loader] In init: graft_shared() as a T, which must need no constructor: zeroes are its
     * beginning, and versions that come later find what is in it. No pointers, no locks. */
    template <typename T>
    T &shared(const char *name, std::uint32_t schema, bool *fresh = nullptr) const
    {
        static_assert(std::is_trivially_destructible_v<T> && std::is_standard_layout_v<T>,
                      "a shared block outlives the code that made it");
        static_assert(alignof(T) <= 64, "shared blocks are aligned to 64 bytes");
        void *block = graft_shared(self_, name, sizeof(T), schema, fresh);
        if (block == nullptr)
            throw unavailable(std::string("shared block '") + name + "': see the log");
        return *static_cast<T *>(block);
    }

    /* [loader] The block of that name that one of another size or schema takes the place of, as
     * long as graft_shared_old() has it; nullptr when there is none of T's size and this schema. */
    template <typename T> const T *shared_old(const char *name, std::uint32_t schema) const noexcept
    {
        static_assert(std::is_trivially_destructible_v<T> && std::is_standard_layout_v<T>,
                      "a shared block outlives the code that made it");
        std::size_t size = 0;
        std::uint32_t found = 0;
        const void *block = graft_shared_old(self_, name, &size, &found);
        return block && size == sizeof(T) && found == schema ? static_cast<const T *>(block)
                                                             : nullptr;
    }

  private:
    graft_self *self_;
};

/* ---- Request and response ------------------------------------------------------------------- */

/* What graft.h calls graft_req, without the right to answer later. [worker], where graft.h says
 * nothing else. A handle: the request is the server's. */
class exchange
{
  public:
    explicit exchange(graft_req *handle) noexcept : req_(handle)
    {
    }
    graft_req *get() const noexcept
    {
        return req_;
    }
    graft::self self() const noexcept
    {
        return graft::self(graft_self_of(req_));
    }

    /* The request. Strings live as long as it. */
    std::string_view method() const noexcept
    {
        return view(graft_method(req_));
    }
    std::string_view path() const noexcept
    {
        return view(graft_path(req_));
    }
    std::string_view target() const noexcept
    {
        return view(graft_target(req_));
    }
    std::string_view param(const char *name) const noexcept
    {
        return view(graft_param(req_, name));
    }
    std::string_view query(const char *name) const noexcept
    {
        return view(graft_query(req_, name));
    }
    std::string_view header(const char *name) const noexcept
    {
        return view(graft_header(req_, name));
    }
    std::size_t header_count() const noexcept
    {
        return graft_header_count(req_);
    }
    /* f(name, value) for each field, in the order of the request. */
    template <typename F> void each_header(F &&f) const
    {
        graft_str name, value;
        for (std::size_t i = 0; graft_header_at(req_, i, &name, &value); i++)
            f(view(name), view(value));
    }
    std::string_view body() const noexcept
    {
        return view(graft_body(req_));
    }
    std::string_view peer() const noexcept
    {
        return view(graft_peer(req_));
    }
    std::string_view request_id() const noexcept
    {
        return view(graft_request_id(req_));
    }
    std::string_view route_pattern() const noexcept
    {
        return view(graft_route_pattern(req_));
    }
    bool is_tls() const noexcept
    {
        return graft_is_tls(req_);
    }
    bool gone() const noexcept /* [any] */
    {
        return graft_gone(req_);
    }
    std::chrono::microseconds elapsed() const noexcept
    {
        return std::chrono::microseconds(graft_elapsed_us(req_));
    }

    /* The response. False is graft.h's -1. */
    bool status(int code) noexcept
    {
        return graft_status(req_, code) == 0;
    }
    bool set_header(const char *name, const char *value) noexcept
    {
        return graft_set_header(req_, name, value) == 0;
    }
    bool set_header(const char *name, const std::string &value) noexcept
    {
        return set_header(name, value.c_str());
    }
    bool add_header(const char *name, const char *value) noexcept
    {
        return graft_add_header(req_, name, value) == 0;
    }
    bool add_header(const char *name, const std::string &value) noexcept
    {
        return add_header(name, value.c_str());
    }
    bool remove_header(const char *name) noexcept
    {
        return graft_remove_header(req_, name) == 0;
    }
    std::string_view response_header(const char *name) const noexcept
    {
        return view(graft_response_header(req_, name));
    }
    int response_status() const noexcept
    {
        return graft_response_status(req_);
    }
    std::string_view response_body() const noexcept
    {
        return view(graft_response_body(req_));
    }
    std::uint64_t response_bytes() const noexcept
    {
        return graft_response_bytes(req_);
    }
    bool streaming() const noexcept
    {
        return graft_streaming(req_);
    }
    std::size_t pending() const noexcept
    {
        return graft_pending(req_);
    }

    /* 0; 1: taken, but stop until on_writable; -1: over. */
    int write(std::string_view data) noexcept
    {
        return graft_write(req_, data.data(), data.size());
    }
    /* Not copied: must live as long as the version. */
    int write_static(std::string_view data) noexcept
    {
        return graft_write_static(req_, data.data(), data.size());
    }
    int send_file(int fd, std::int64_t offset, std::uint64_t len) noexcept
    {
        return graft_send_file(req_, fd, offset, len);
    }
    int flush() noexcept
    {
        return graft_flush(req_);
    }
    bool reset() noexcept
    {
        return graft_reset_response(req_) == 0;
    }

    /* Replace what has not left; GRAFT_DONE. The text may hold NULs. */
    graft_next text(int code, std::string_view body) noexcept
    {
        graft_text(req_, code, "");
        graft_write(req_, body.data(), body.size());
        return GRAFT_DONE;
    }
    graft_next json(int code, std::string_view json) noexcept
    {
        return graft_json(req_, code, json.data(), json.size());
    }
    graft_next error(int code, const std::string &detail) noexcept
    {
        return graft_error(req_, code, detail.c_str());
    }
    /* GRAFT_ERROR: a 500, and this in the log. */
    graft_next fail(const std::string &why) noexcept
    {
        return graft_fail_req(req_, "%s", why.c_str());
    }

    bool deadline(std::chrono::milliseconds from_now) noexcept
    {
        return graft_deadline(req_, detail::ms(from_now)) == 0;
    }

    /* Callbacks that may never come, so that what they capture lies in the request's memory and
     * must need no destructor: pointers, references, numbers. f(exchange &). What it throws is
     * logged. */
    template <typename F> void on_abort(F f)
    {
        graft_on_abort(req_, &small<F>, detail::plain_copy(req_, f));
    }
    template <typename F> void on_writable(F f)
    {
        graft_on_writable(req_, &small<F>, detail::plain_copy(req_, f));
    }
    /* Dropped when the request is answered before. */
    template <typename F> void after(std::chrono::milliseconds delay, F f)
    {
        if (graft_after(req_, detail::ms(delay), &small<F>, detail::plain_copy(req_, f)) != 0)
            throw unavailable("no memory for a timer");
    }
    /* f(exchange &, string_view chunk, bool last). When it throws, the connection is cut. */
    template <typename F> void on_body(F f)
    {
        graft_on_body(
            req_,
            [](graft_req *req, graft_str chunk, bool last, void *arg) noexcept {
                exchange x(req);
                try {
                    (*static_cast<F *>(arg))(x, view(chunk), last);
                } catch (...) {
                    x.tell_exception("on_body");
                    graft_abort(req);
                }
            },
            detail::plain_copy(req_, f));
    }
    void body_pause() noexcept
    {
        graft_body_pause(req_);
    }
    void body_resume() noexcept
    {
        graft_body_resume(req_);
    }

    /* Memory that ends with the request. T's destructor is never run, so it must have none. */
    template <typename T, typename... A> T &make(A &&...args)
    {
        return *static_cast<T *>(detail::plain_copy(req_, T{ std::forward<A>(args)... }));
    }
    /* This plugin's scratch in this request: .scratch_size = sizeof(T), which begins as zeroes. */
    template <typename T> T &scratch() noexcept
    {
        static_assert(std::is_trivial_v<T>, "scratch is zeroed bytes");
        return *static_cast<T *>(graft_scratch(req_));
    }

    /* In a catch block: one line in the log about what is being handled. [any] */
    void tell_exception(const char *where) noexcept
    {
        detail::tell([&](const char *why) {
            graft_log(graft_self_of(req_), GRAFT_ERR, "exception in %s: %s", where, why);
        });
    }

  private:
    template <typename F> static void small(graft_req *req, void *arg) noexcept
    {
        exchange x(req);
        try {
            (*static_cast<F *>(arg))(x);
        } catch (...) {
            x.tell_exception("a callback");
        }
    }

    graft_req *req_;
};

/* ---- Work that takes time ------------------------------------------------------------------- */

/*
 * What GRAFT_LATER owes: exactly one done() (handler), resume() (middleware) or abort(). Moved,
 * never copied, into whatever goes on with the request. One that is destroyed while it still owes
 * answers 500 (where a stream has begun: cuts the connection) and says so in the log; this may
 * happen on any thread. Through -> it is the exchange: [worker] only.
 */
class later
{
  public:
    later(later &&other) noexcept : x_(other.x_), middleware_(other.middleware_)
    {
        other.x_ = exchange(nullptr);
    }
    later &operator=(later &&other) noexcept
    {
        if (this != &other) {
            give_up();
            x_ = std::exchange(other.x_, exchange(nullptr));
            middleware_ = other.middleware_;
        }
        return *this;
    }
    ~later()
    {
        give_up();
    }

    exchange *operator->() noexcept
    {
        return &x_;
    }
    exchange &operator*() noexcept
    {
        return x_;
    }
    explicit operator bool() const noexcept /* still owes */
    {
        return x_.get() != nullptr;
    }

    /* [any] Ends it: a handler's response is what has been set; a middleware's chain goes on. */
    void done() noexcept
    {
        if (graft_req *req = take())
            middleware_ ? graft_continue(req, GRAFT_NEXT) : graft_done(req);
    }
    /* [any] For middleware: GRAFT_NEXT, GRAFT_DONE or GRAFT_ERROR. */
    void resume(graft_next how) noexcept
    {
        if (graft_req *req = take())
            graft_continue(req, how);
    }
    /* [worker] Ends it with this status and text, as http_error does. */
    void error(int status, const std::string &detail) noexcept
    {
        if (!*this)
            return;
        x_.error(status, detail);
        middleware_ ? resume(GRAFT_DONE) : done();
    }
    /* [any] Cuts the connection. */
    void abort() noexcept
    {
        if (graft_req *req = take())
            graft_abort(req);
    }

  private:
    friend class request;
    later(graft_req *req, bool middleware) noexcept : x_(req), middleware_(middleware)
    {
    }
    graft_req *take() noexcept
    {
        return std::exchange(x_, exchange(nullptr)).get();
    }
    void give_up() noexcept
    {
        graft_req *req = take();
        if (req == nullptr)
            return;
        if (!graft_gone(req))
            graft_log(graft_self_of(req), GRAFT_ERR,
                      "a graft::later was dropped without done(): the client gets 500");
        if (middleware_)
            graft_continue(req, GRAFT_ERROR);
        else if (graft_post(req, &answer_500, nullptr) != 0)
            graft_abort(req);
    }
    static void answer_500(graft_req *req, void *) noexcept
    {
        if (graft_streaming(req)) {
            graft_abort(req);
            return;
        }
        graft_error(req, 500, "the handler did not finish");
        graft_done(req);
    }

    exchange x_;
    bool middleware_;
};

/* What a handler or middleware is given. Lives on the callback's stack: pass on later(), not this.
 */
class request : public exchange
{
  public:
    request(graft_req *handle, bool middleware) noexcept : exchange(handle), middleware_(middleware)
    {
    }
    request(const request &) = delete;
    request &operator=(const request &) = delete;

    /* From now on the answer is owed by the object that this returns, and what the callback returns
     * counts as GRAFT_LATER, also when it throws. Once. */
    later defer()
    {
        if (deferred_)
            throw std::logic_error("deferred twice");
        deferred_ = true;
        return later(get(), middleware_);
    }
    bool deferred() const noexcept
    {
        return deferred_;
    }

  private:
    bool middleware_, deferred_ = false;
};

namespace detail
{
/* A callback on its way, with what it owes. */
template <typename F> struct step {
    later owed;
    F f;

    static void run(graft_req *req, void *arg) noexcept
    {
        std::unique_ptr<step> self(static_cast<step *>(arg));
        try {
            self->f(std::move(self->owed));
        } catch (...) {
            exchange(req).tell_exception("a callback");
        }
    }
};

template <typename R> struct outcome {
    std::optional<R> value;
    template <typename W> void from(W &work)
    {
        value.emplace(work());
    }
    template <typename T> void to(T &then, later &&owed)
    {
        then(std::move(owed), std::move(*value));
    }
};
template <> struct outcome<void> {
    template <typename W> void from(W &work)
    {
        work();
    }
    template <typename T> void to(T &then, later &&owed)
    {
        then(std::move(owed));
    }
};

template <typename W, typename T> struct job {
    later owed;
    W work;
    T then;
    outcome<std::invoke_result_t<W &>> result{};
    std::exception_ptr thrown{};

    static void run(void *arg) noexcept /* [pool] */
    {
        job *self = static_cast<job *>(arg);
        try {
            self->result.from(self->work);
        } catch (...) {
            self->thrown = std::current_exception();
        }
    }
    static void end(graft_req *req, void *arg) noexcept /* [worker] */
    {
        std::unique_ptr<job> self(static_cast<job *>(arg));
        try {
            if (self->thrown)
                std::rethrow_exception(self->thrown);
            self->result.to(self->then, std::move(self->owed));
        } catch (const http_error &e) {
            if (self->owed)
                self->owed.error(e.status(), e.what());
            else
                exchange(req).tell_exception("what follows offloaded work");
        } catch (...) {
            exchange(req).tell_exception("offloaded work");
        }
    }
};
} // namespace detail

/* [worker] f(later) in so many milliseconds. */
template <typename F> void after(later owed, std::chrono::milliseconds delay, F f)
{
    graft_req *req = owed->get();
    auto step = std::make_unique<detail::step<F>>(detail::step<F>{ std::move(owed), std::move(f) });
    if (graft_after(req, detail::ms(delay), &detail::step<F>::run, step.get()) == 0)
        step.release();
    else
        step->owed.error(503, "no memory for a timer");
}

/* [any] f(later) on the request's worker. */
template <typename F> void post(later owed, F f)
{
    graft_req *req = owed->get();
    auto step = std::make_unique<detail::step<F>>(detail::step<F>{ std::move(owed), std::move(f) });
    if (graft_post(req, &detail::step<F>::run, step.get()) == 0)
        step.release();
}

/* [worker] work() on the pool, then then(later, what work returned), or then(later), on the worker.
 * When work throws, `then` is not called: the client gets 500, or what an http_error says. When the
 * pool's queue is full neither is called, and the client gets 503. */
template <typename W, typename T> void offload(later owed, W work, T then)
{
    using job = detail::job<W, T>;
    graft_req *req = owed->get();
    auto it = std::make_unique<job>(job{ std::move(owed), std::move(work), std::move(then) });
    if (graft_offload(req, &job::run, &job::end, it.get()) == 0)
        it.release();
    else
        it->owed.error(503, "the pool's queue is full");
}

/* ---- Callbacks for GRAFT_PLUGIN and route tables ------------------------------------------------
 *
 * F is a function or a member function of the state: f(request &), f(request &, State &), or
 * (State::*f)(request &), and the like. State is the class that init<State> was given: a member
 * function that it inherits from another base than its first would be called on the wrong address.
 */
namespace detail
{
template <auto F, bool Middleware> graft_next answer(graft_req *handle, void *state) noexcept
{
    request req(handle, Middleware);
    try {
        graft_next next = call<F>(state, req);
        return req.deferred() ? GRAFT_LATER : next;
    } catch (const http_error &e) {
        if (!req.deferred() && !req.streaming())
            return graft_error(handle, e.status(), e.what());
        if (!req.deferred())
            return graft_fail_req(handle, "exception: %s", e.what());
        req.tell_exception("a handler");
    } catch (...) {
        graft_next next = GRAFT_ERROR;
        if (!req.deferred()) {
            tell([&](const char *why) { next = graft_fail_req(handle, "exception: %s", why); });
            return next;
        }
        req.tell_exception("a handler");
    }
    return GRAFT_LATER;
}
} // namespace detail

/* graft_route.handler */
template <auto F> graft_next handler(graft_req *req, void *state) noexcept
{
    return detail::answer<F, false>(req, state);
}

/* .on_request, .on_response */
template <auto F> graft_next middleware(graft_req *req, void *state) noexcept
{
    return detail::answer<F, true>(req, state);
}

/* .on_finish: f(exchange &) */
template <auto F> void finish(graft_req *req, void *state) noexcept
{
    exchange x(req);
    try {
        detail::call<F>(state, x);
    } catch (...) {
        x.tell_exception("on_finish");
    }
}

/* .init: new State(self). What the constructor throws is why the version is refused. */
template <typename State> int init(graft_self *handle, void **state) noexcept
{
    int rc = -1;
    try {
        *state = new State(self(handle));
        return 0;
    } catch (...) {
        detail::tell([&](const char *why) { rc = graft_fail(handle, "%s", why); });
    }
    return rc;
}

/* .fini: deletes the state. What its destructor throws (where it is noexcept(false)) is logged. */
template <typename State> void fini(graft_self *handle, void *state) noexcept
{
    try {
        delete static_cast<State *>(state);
    } catch (...) {
        detail::tell([&](const char *why) { graft_log(handle, GRAFT_ERR, "exception: %s", why); });
    }
}

/* .ready, .worker_init, .start, .health: f(self), void. A throw is the -1, with its reason. */
template <auto F> int hook(graft_self *handle, void *state) noexcept
{
    int rc = -1;
    try {
        detail::call<F>(state, self(handle));
        return 0;
    } catch (...) {
        detail::tell([&](const char *why) { rc = graft_fail(handle, "%s", why); });
    }
    return rc;
}

/* .cool, .worker_fini: f(self), void. A throw is logged. */
template <auto F> void end_hook(graft_self *handle, void *state) noexcept
{
    try {
        detail::call<F>(state, self(handle));
    } catch (...) {
        detail::tell([&](const char *why) { graft_log(handle, GRAFT_ERR, "exception: %s", why); });
    }
}

/* .export_state: std::string f(self) */
template <auto F> int export_state(graft_self *handle, void *state, graft_buf *out) noexcept
{
    int rc = -1;
    try {
        const std::string data = detail::call<F>(state, self(handle));
        if (graft_buf_add(out, data.data(), data.size()) == 0)
            return 0;
        throw std::bad_alloc();
    } catch (...) {
        detail::tell([&](const char *why) { rc = graft_fail(handle, "%s", why); });
    }
    return rc;
}

/* .import_state: void f(self, std::uint32_t schema, std::string_view data), or with State & behind
 */
template <auto F>
int import_state(graft_self *handle, void *state, std::uint32_t schema, graft_str data) noexcept
{
    int rc = -1;
    try {
        detail::call<F>(state, self(handle), schema, view(data));
        return 0;
    } catch (...) {
        detail::tell([&](const char *why) { rc = graft_fail(handle, "%s", why); });
    }
    return rc;
}

template <auto F, typename State>
std::unique_ptr<timer> self::every(std::chrono::milliseconds period, State *state) const
{
    auto held = std::make_unique<timer>(timer{ self_, state });
    auto tick = [](void *arg) noexcept {
        const timer *t = static_cast<timer *>(arg);
        try {
            (static_cast<State *>(t->state)->*F)();
        } catch (...) {
            detail::tell([&](const char *why) {
                graft_log(t->self, GRAFT_ERR, "exception in a timer: %s", why);
            });
        }
    };
    if (graft_every(self_, detail::ms(period), tick, held.get()) != 0)
        throw unavailable("a timer: under 1 ms, not in init, ready or start, or no memory");
    return held;
}

} // namespace graft

#endif /* C++17 with exceptions */

#endif /* GRAFT_GRAFT_HPP */
