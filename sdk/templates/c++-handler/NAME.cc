// @NAME@: GET /@NAME@ and GET /@NAME@/:name say hello.
#include <graft/graft.hpp>

namespace
{

class hello
{
  public:
    // Once for each version: the configuration is the server's graft.json, plugins.@NAME@.config.
    // What is thrown here refuses the version, with its text as the reason.
    explicit hello(graft::self self) : greeting_(self.config_str("greeting", "hello"))
    {
        if (greeting_.empty())
            throw std::invalid_argument("config.greeting is empty");
    }

    graft_next world(graft::request &req) const
    {
        return req.text(200, greeting_ + ", world\n");
    }

    graft_next name(graft::request &req) const
    {
        return req.text(200, greeting_ + ", " + std::string(req.param("name")) + "\n");
    }

  private:
    std::string greeting_;
};

const graft_route routes[] = {
    { "GET", "/@NAME@", graft::handler<&hello::world>, 0 },
    { "GET", "/@NAME@/:name", graft::handler<&hello::name>, 0 },
    {},
};

} // namespace

GRAFT_PLUGIN(
    .name    = "@NAME@",
    .version = "0.1.0",
    .summary = "Says hello.",
    .init    = graft::init<hello>,
    .fini    = graft::fini<hello>,
    .routes  = routes,
)
