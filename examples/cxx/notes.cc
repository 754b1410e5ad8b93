// A plugin in C++ on graft.hpp: notes in memory, with errors as exceptions, work on the pool and
// state that a swap hands on.
//
//   POST /notes              stores the body, answers its number
//   GET  /notes/:id          the note, or 404
//   GET  /notes-find?text=X  how many notes contain X: searched on the pool
//   GET  /notes-wait?ms=N    answers N ms later
#include <graft/graft.hpp>

#include <charconv>
#include <map>
#include <mutex>

namespace
{

std::uint64_t number(std::string_view text, const char *what)
{
    std::uint64_t n = 0;
    const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), n);
    if (failed != std::errc() || end != text.data() + text.size() || text.empty())
        throw graft::http_error(400, std::string(what) + ": expected a number");
    return n;
}

class notes
{
  public:
    explicit notes(graft::self self)
        : limit_(static_cast<std::size_t>(self.config_int("limit", 1000))),
          stored_(self.make_counter("stored", "Notes that were stored."))
    {
        if (limit_ == 0)
            throw std::invalid_argument("config.limit is 0: expected 1 or more");
    }

    graft_next store(graft::request &req)
    {
        const std::lock_guard hold(mutex_);
        if (notes_.size() >= limit_)
            throw graft::http_error(507, "there are " + std::to_string(limit_) + " notes");
        notes_.emplace(++last_, req.body());
        ++stored_;
        return req.text(201, std::to_string(last_) + "\n");
    }

    graft_next show(graft::request &req)
    {
        const auto id = number(req.param("id"), "id");
        const std::lock_guard hold(mutex_);
        const auto found = notes_.find(id);
        if (found == notes_.end())
            throw graft::http_error(404, "no note " + std::to_string(id));
        return req.text(200, found->second);
    }

    graft_next search(graft::request &req)
    {
        auto count = [this, text = std::string(req.query("text"))] {
            const std::lock_guard hold(mutex_);
            std::size_t n = 0;
            for (const auto &note : notes_)
                n += note.second.find(text) != std::string::npos;
            return n;
        };
        graft::offload(req.defer(), count, [](graft::later owed, std::size_t n) {
            owed->text(200, std::to_string(n) + "\n");
            owed.done();
        });
        return GRAFT_LATER;
    }

    graft_next wait(graft::request &req)
    {
        const std::chrono::milliseconds ms(number(req.query("ms"), "ms"));
        graft::after(req.defer(), ms, [](graft::later owed) {
            owed->text(200, "waited\n");
            owed.done();
        });
        return GRAFT_LATER;
    }

    std::string save(graft::self)
    {
        std::string out;
        for (const auto &[id, text] : notes_)
            out += std::to_string(id) + " " + std::to_string(text.size()) + "\n" + text;
        return out;
    }

    void load(graft::self, std::uint32_t schema, std::string_view data)
    {
        if (schema != 1)
            throw std::runtime_error("schema " + std::to_string(schema) + ", expected 1");
        while (!data.empty()) {
            const auto space = data.find(' '), line = data.find('\n');
            last_ = number(data.substr(0, space), "id");
            const auto size = number(data.substr(space + 1, line - space - 1), "size");
            notes_.emplace(last_, data.substr(line + 1, size));
            data.remove_prefix(line + 1 + size);
        }
    }

  private:
    std::size_t limit_;
    graft::counter stored_;
    std::mutex mutex_;
    std::uint64_t last_ = 0;
    std::map<std::uint64_t, std::string> notes_;
};

const graft_route routes[] = {
    { "POST", "/notes", graft::handler<&notes::store>, 0 },
    { "GET", "/notes/:id", graft::handler<&notes::show>, 0 },
    { "GET", "/notes-find", graft::handler<&notes::search>, 0 },
    { "GET", "/notes-wait", graft::handler<&notes::wait>, 0 },
    {},
};

} // namespace

GRAFT_PLUGIN(
    .name         = "notes",
    .version      = "1.0.0",
    .summary      = "Keeps notes; in C++.",
    .init         = graft::init<notes>,
    .fini         = graft::fini<notes>,
    .routes       = routes,
    .state_schema = 1,
    .export_state = graft::export_state<&notes::save>,
    .import_state = graft::import_state<&notes::load>,
)
