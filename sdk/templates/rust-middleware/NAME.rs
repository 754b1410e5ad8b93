//! @NAME@: middleware that adds X-Greeting to every answer, and refuses requests with X-Refuse.

use graft::{Next, Request, Server};

struct Greeter {
    greeting: String,
}

impl graft::State for Greeter {
    /// Once for each version: the configuration is the server's graft.json, plugins.@NAME@.config.
    fn init(server: &Server) -> Result<Self, String> {
        Ok(Greeter { greeting: server.config_str("greeting", "hello") })
    }
}

/// Before the handler, and before the body is read.
fn on_request(req: &mut Request, _: &Greeter) -> Next {
    if req.header("X-Refuse").is_some() {
        return req.error(403, "X-Refuse was sent");
    }
    Next::Next
}

/// Just before the head leaves.
fn on_response(req: &mut Request, greeter: &Greeter) -> Next {
    req.set_header("X-Greeting", &greeter.greeting);
    Next::Next
}

graft::plugin! {
    name: "@NAME@", version: "0.1.0", summary: "Adds a field to every answer.", state: Greeter,
    on_request: on_request,
    on_response: on_response,
}
