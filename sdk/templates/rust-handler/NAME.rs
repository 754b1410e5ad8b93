//! @NAME@: GET /@NAME@ and GET /@NAME@/:name say hello.

use graft::{Next, Request, Server};

struct Hello {
    greeting: String,
}

impl graft::State for Hello {
    /// Once for each version: the configuration is the server's graft.json, plugins.@NAME@.config.
    /// An Err refuses the version, with its text as the reason.
    fn init(server: &Server) -> Result<Self, String> {
        let greeting = server.config_str("greeting", "hello");
        if greeting.is_empty() {
            return Err("config.greeting is empty".to_owned());
        }
        Ok(Hello { greeting })
    }
}

fn world(req: &mut Request, hello: &Hello) -> Next {
    req.text(200, &format!("{}, world\n", hello.greeting))
}

fn name(req: &mut Request, hello: &Hello) -> Next {
    let name = String::from_utf8_lossy(req.param("name").unwrap_or(b"")).into_owned();
    req.text(200, &format!("{}, {}\n", hello.greeting, name))
}

graft::plugin! {
    name: "@NAME@", version: "0.1.0", summary: "Says hello.", state: Hello,
    routes: [
        ("GET", "/@NAME@", world),
        ("GET", "/@NAME@/:name", name),
    ],
}
