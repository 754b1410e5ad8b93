// @NAME@: middleware that adds X-Greeting to every answer, and refuses requests with X-Refuse.
#include <graft/graft.hpp>

namespace
{

class greeter
{
  public:
    // Once for each version: the configuration is the server's graft.json, plugins.@NAME@.config.
    explicit greeter(graft::self self) : greeting_(self.config_str("greeting", "hello"))
    {
    }

    // Before the handler, and before the body is read.
    graft_next on_request(graft::request &req) const
    {
        if (graft::present(req.header("X-Refuse")))
            throw graft::http_error(403, "X-Refuse was sent");
        return GRAFT_NEXT;
    }

    // Just before the head leaves.
    graft_next on_response(graft::request &req) const
    {
        req.set_header("X-Greeting", greeting_);
        return GRAFT_NEXT;
    }

  private:
    std::string greeting_;
};

} // namespace

GRAFT_PLUGIN(
    .name        = "@NAME@",
    .version     = "0.1.0",
    .summary     = "Adds a field to every answer.",
    .init        = graft::init<greeter>,
    .fini        = graft::fini<greeter>,
    .on_request  = graft::middleware<&greeter::on_request>,
    .on_response = graft::middleware<&greeter::on_response>,
)
