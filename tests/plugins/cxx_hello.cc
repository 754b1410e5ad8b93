// A plugin in C++: state in an object, exceptions kept inside, GET /cxx/:name.
#include <graft/graft.h>

#include <atomic>
#include <new>
#include <string>

namespace
{

class greeter
{
  public:
    explicit greeter(std::string greeting) : greeting_(std::move(greeting))
    {
    }

    std::string greet(graft_str name)
    {
        return greeting_ + ", " + std::string(name.ptr, name.len) + " (" +
               std::to_string(++greeted_) + ")\n";
    }

  private:
    std::string greeting_;
    std::atomic<unsigned> greeted_{ 0 };
};

int init(graft_self *self, void **state)
{
    *state = new (std::nothrow) greeter(graft_config_str(self, "greeting", "hello"));
    return *state ? 0 : graft_fail(self, "no memory");
}

void fini(graft_self *, void *state)
{
    delete static_cast<greeter *>(state);
}

graft_next hello(graft_req *req, void *state) noexcept
{
    try {
        std::string text = static_cast<greeter *>(state)->greet(graft_param(req, "name"));
        return graft_text(req, 200, text.c_str());
    } catch (const std::exception &e) {
        return graft_fail_req(req, "%s", e.what());
    }
}

const graft_route routes[] = { { "GET", "/cxx/:name", hello, 0 }, {} };

} // namespace

GRAFT_PLUGIN(
    .name    = "cxx-hello",
    .version = "1.0.0",
    .summary = "Says hello from C++.",
    .init    = init,
    .fini    = fini,
    .routes  = routes,
)
