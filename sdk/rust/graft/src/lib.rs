//! Plugins of the graft application server in Rust: std only, over the C contract, `graft.h`.
//!
//! ```ignore
//! use graft::{Next, Request, Server};
//!
//! struct Shop {
//!     greeting: String,
//! }
//!
//! impl graft::State for Shop {
//!     fn init(server: &Server) -> Result<Self, String> {
//!         Ok(Shop { greeting: server.config_str("greeting", "hello") })
//!     }
//! }
//!
//! fn hello(req: &mut Request, shop: &Shop) -> Next {
//!     req.text(200, &format!("{}, world\n", shop.greeting))
//! }
//!
//! graft::plugin! {
//!     name: "shop", version: "0.1.0", summary: "Says hello.", state: Shop,
//!     routes: [ ("GET", "/shop", hello) ],
//! }
//! ```
//!
//! What `graft.h` says of threads and lifetimes holds. A panic ends at the boundary: in a request it
//! is a 500, in `init` and the like a refusal, and in each case a line of the server's log that names
//! the plugin. The state is shared by all workers, hence `Send + Sync`.
//!
//! Why a version may stay mapped when it is over: `docs/RUST.md`.
#![deny(unsafe_op_in_unsafe_fn)]

pub mod sys;

mod boundary;
mod plain;
mod request;
mod server;

pub use boundary::{HandOver, State};
pub use plain::Plain;
pub use request::{Exchange, Later, Receive, Request};
pub use server::{Counter, Level, Server};

/// What a handler or a middleware answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Middleware: go on. Handler: the same as `Done`.
    Next,
    /// The response is what has been set.
    Done,
    /// What [`Request::defer`] returned will end it.
    Later,
    /// 500; see [`Request::fail`].
    Error,
}

#[doc(hidden)]
pub mod private {
    pub use crate::boundary::*;
}

/// Defines the plugin: the one symbol that the server looks for. Once in a crate.
///
/// `state` implements [`State`]. Routes are `(method, pattern, handler)`, "*" for every method, with a
/// fourth word `stream` for a handler that is called before the body is in; a handler, `on_request` and
/// `on_response` are `fn(&mut Request, &State) -> Next`, `on_finish` is `fn(&Exchange, &State)`.
///
/// Before the routes may stand, in this order: `flags`, of [`sys::GRAFT_SERIAL`] and
/// [`sys::GRAFT_NEED_BODY`]; `scratch`, the [`Plain`] type of [`Exchange::scratch`]; `hand_over`, the
/// number of the layout that the state's [`HandOver`] writes.
#[macro_export]
macro_rules! plugin {
    (
        name: $name:literal, version: $version:literal, summary: $summary:literal, state: $state:ty
        $(, flags: $flags:expr )?
        $(, scratch: $scratch:ty )?
        $(, hand_over: $schema:expr )?
        $(, routes: [ $( ( $method:literal, $pattern:literal, $handler:path $(, $kind:ident )? ) ),*
                      $(,)? ] )?
        $(, on_request: $on_request:path )?
        $(, on_response: $on_response:path )?
        $(, on_finish: $on_finish:path )?
        $(,)?
    ) => {
        #[no_mangle]
        #[allow(non_upper_case_globals)]
        pub static graft_plugin_v1: $crate::sys::graft_plugin = {
            #[allow(unused_mut, unused_assignments)]
            let mut plugin = $crate::private::empty::<$state, $crate::__scratch!($( $scratch )?)>(
                concat!($name, "\0"), concat!($version, "\0"), concat!($summary, "\0"));
            $( plugin.flags = $flags; )?
            $(
                plugin.state_schema = $schema;
                plugin.export_state = Some($crate::private::export_state::<$state>);
                plugin.import_state = Some($crate::private::import_state::<$state>);
            )?
            $(
                static ROUTES: &[$crate::sys::graft_route] = &[
                    $( $crate::private::route(
                        concat!($method, "\0"), concat!($pattern, "\0"),
                        $crate::__handler!($state, $handler, false),
                        $crate::__kind!($( $kind )?)), )*
                    $crate::private::no_route(),
                ];
                plugin.routes = ROUTES.as_ptr();
            )?
            $( plugin.on_request = Some($crate::__handler!($state, $on_request, true)); )?
            $( plugin.on_response = Some($crate::__handler!($state, $on_response, true)); )?
            $( plugin.on_finish = Some({
                unsafe extern "C" fn call(req: *mut $crate::sys::graft_req,
                                          state: *mut ::std::ffi::c_void) {
                    unsafe { $crate::private::finish::<$state>(req, state, $on_finish) }
                }
                call
            }); )?
            plugin
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __handler {
    ($state:ty, $f:path, $middleware:literal) => {{
        unsafe extern "C" fn call(
            req: *mut $crate::sys::graft_req,
            state: *mut ::std::ffi::c_void,
        ) -> $crate::sys::graft_next {
            unsafe { $crate::private::answer::<$state>(req, state, $middleware, $f) }
        }
        call
    }};
}

#[doc(hidden)]
#[macro_export]
macro_rules! __scratch {
    () => { () };
    ($t:ty) => { $t };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __kind {
    () => { 0 };
    (stream) => { $crate::sys::GRAFT_STREAM };
}
