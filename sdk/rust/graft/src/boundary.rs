//! Where C calls Rust: no panic goes further.

use crate::request::{Exchange, Request};
use crate::server::{Level, Server};
use crate::sys::*;
use crate::Next;
use std::any::Any;
use std::ffi::c_void;
use std::os::raw::{c_char, c_int};
use std::panic::{catch_unwind, AssertUnwindSafe};

/// The plugin's state, one for each version. An `Err` is the reason of the refusal.
pub trait State: Sized + Send + Sync + 'static {
    /// Loads the version; may block.
    fn init(server: &Server) -> Result<Self, String>;
    /// The gate: fit to serve?
    fn ready(&self, _server: &Server) -> Result<(), String> {
        Ok(())
    }
    /// No new request will come.
    fn cool(&self, _server: &Server) {}
    /// Asked by `/readyz`, on the pool.
    fn health(&self, _server: &Server) -> Result<(), String> {
        Ok(())
    }
}

/// A plugin without state.
impl State for () {
    fn init(_: &Server) -> Result<Self, String> {
        Ok(())
    }
}

fn text_of(panic: Box<dyn Any + Send>) -> String {
    let text = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(s), _) => (*s).to_owned(),
        (_, Some(s)) => s.clone(),
        _ => "something that is no text".to_owned(),
    };
    // The payload's own drop may panic, too.
    std::mem::forget(catch_unwind(AssertUnwindSafe(move || drop(panic))));
    text
}

/// What the closure returns, or the text of its panic.
pub(crate) fn catch<R>(f: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(text_of)
}

fn to_c(next: Next) -> graft_next {
    match next {
        Next::Next => GRAFT_NEXT,
        Next::Done => GRAFT_DONE,
        Next::Later => GRAFT_LATER,
        Next::Error => GRAFT_ERROR,
    }
}

/// # Safety
/// The server's call of a handler: its handle, and the state that [`init`] made.
pub unsafe fn answer<S: State>(
    raw: *mut graft_req,
    state: *mut c_void,
    middleware: bool,
    f: fn(&mut Request, &S) -> Next,
) -> graft_next {
    let mut req = unsafe { Request::new(raw, middleware) };
    let state = unsafe { &*state.cast::<S>() };
    match catch(|| f(&mut req, state)) {
        Ok(_) if req.deferred => GRAFT_LATER,
        Ok(Next::Later) => to_c(req.fail("Next::Later without defer(): nothing would end it")),
        Ok(next) => to_c(next),
        Err(why) if req.deferred => {
            req.tell("a handler", &why);
            GRAFT_LATER
        }
        Err(why) => to_c(req.fail(&format!("panic: {}", why))),
    }
}

/// # Safety
/// As [`answer`].
pub unsafe fn finish<S: State>(raw: *mut graft_req, state: *mut c_void, f: fn(&Exchange, &S)) {
    let x = unsafe { Exchange::new(raw) };
    let state = unsafe { &*state.cast::<S>() };
    if let Err(why) = catch(|| f(&x, state)) {
        x.tell("on_finish", &why);
    }
}

fn outcome(server: &Server, result: Result<Result<(), String>, String>) -> c_int {
    match result {
        Ok(Ok(())) => 0,
        Ok(Err(why)) => server.fail(&why),
        Err(why) => server.fail(&format!("panic: {}", why)),
    }
}

unsafe extern "C" fn init<S: State>(raw: *mut graft_self, state: *mut *mut c_void) -> c_int {
    quiet();
    let server = Server { raw };
    let made = catch(|| S::init(&server).map(|s| Box::into_raw(Box::new(s))));
    let made = made.map(|m| m.map(|s| unsafe { *state = s.cast() }));
    outcome(&server, made)
}

unsafe extern "C" fn ready<S: State>(raw: *mut graft_self, state: *mut c_void) -> c_int {
    let (server, state) = (Server { raw }, unsafe { &*state.cast::<S>() });
    outcome(&server, catch(|| state.ready(&server)))
}

unsafe extern "C" fn health<S: State>(raw: *mut graft_self, state: *mut c_void) -> c_int {
    let (server, state) = (Server { raw }, unsafe { &*state.cast::<S>() });
    outcome(&server, catch(|| state.health(&server)))
}

unsafe extern "C" fn cool<S: State>(raw: *mut graft_self, state: *mut c_void) {
    let (server, state) = (Server { raw }, unsafe { &*state.cast::<S>() });
    if let Err(why) = catch(|| state.cool(&server)) {
        server.log(Level::Error, &format!("panic in cool: {}", why));
    }
}

unsafe extern "C" fn fini<S: State>(raw: *mut graft_self, state: *mut c_void) {
    if let Err(why) = catch(|| drop(unsafe { Box::from_raw(state.cast::<S>()) })) {
        Server { raw }.log(Level::Error, &format!("panic while the state was dropped: {}", why));
    }
    drop(std::panic::take_hook());
}

/// std's own hook writes to stderr and looks up the thread's name in a thread-local that has a
/// destructor: that would keep this version mapped. The log has the panic's text all the same.
fn quiet() {
    std::panic::set_hook(Box::new(|_| {}));
}

const fn c(text: &'static str) -> *const c_char {
    text.as_ptr().cast()
}

pub const fn empty<S: State>(
    name: &'static str,
    version: &'static str,
    summary: &'static str,
) -> graft_plugin {
    graft_plugin {
        size: std::mem::size_of::<graft_plugin>() as u32,
        needs: 0, // of the server's table nothing newer is called
        route_size: std::mem::size_of::<graft_route>() as u32,
        flags: 0,
        name: c(name),
        version: c(version),
        summary: c(summary),
        scratch_size: 0,
        init: Some(init::<S>),
        ready: Some(ready::<S>),
        worker_init: None,
        start: None,
        cool: Some(cool::<S>),
        worker_fini: None,
        fini: Some(fini::<S>),
        routes: std::ptr::null(),
        on_request: None,
        on_response: None,
        on_finish: None,
        state_schema: 0,
        export_state: None,
        import_state: None,
        health: Some(health::<S>),
    }
}

pub const fn route(
    method: &'static str,
    pattern: &'static str,
    handler: graft_handler,
) -> graft_route {
    graft_route { method: c(method), pattern: c(pattern), handler: Some(handler), flags: 0 }
}

pub const fn no_route() -> graft_route {
    let none = std::ptr::null();
    graft_route { method: none, pattern: none, handler: None, flags: 0 }
}
