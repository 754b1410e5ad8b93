//! Where C calls Rust: no panic goes further.

use crate::plain::{set_scratch_size, Plain};
use crate::request::{Exchange, Request};
use crate::server::{bytes, drop_timers, Level, Server};
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
    /// On each worker, before it meets this version; must not block.
    fn worker_init(&self, _server: &Server) -> Result<(), String> {
        Ok(())
    }
    /// This version begins to serve; the old one is still started.
    fn start(&self, _server: &Server) -> Result<(), String> {
        Ok(())
    }
    /// No new request will come.
    fn cool(&self, _server: &Server) {}
    /// On each worker, after its last request on this version.
    fn worker_fini(&self, _server: &Server) {}
    /// Asked by `/readyz`, on the pool.
    fn health(&self, _server: &Server) -> Result<(), String> {
        Ok(())
    }
}

/// State that is handed to the next version: `hand_over: SCHEMA` in [`plugin!`](crate::plugin).
pub trait HandOver: State {
    /// On the old version, which may go on afterwards.
    fn export_state(&self, server: &Server) -> Result<Vec<u8>, String>;
    /// On the new version, between `init` and `ready`; `schema` is the old one's.
    fn import_state(&mut self, server: &Server, schema: u32, data: &[u8]) -> Result<(), String>;
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

unsafe extern "C" fn init<S: State, T: Plain>(
    raw: *mut graft_self,
    state: *mut *mut c_void,
) -> c_int {
    quiet();
    set_scratch_size::<T>();
    let server = Server { raw };
    let made = catch(|| S::init(&server).map(|s| Box::into_raw(Box::new(s))));
    let made = made.map(|m| m.map(|s| unsafe { *state = s.cast() }));
    let rc = outcome(&server, made);
    if rc != 0 {
        tell_timers(&server, drop_timers());
    }
    rc
}

fn tell_timers(server: &Server, dropped: Result<(), String>) {
    if let Err(why) = dropped {
        server.log(Level::Error, &format!("panic while a timer was dropped: {}", why));
    }
}

unsafe extern "C" fn ready<S: State>(raw: *mut graft_self, state: *mut c_void) -> c_int {
    let (server, state) = (Server { raw }, unsafe { &*state.cast::<S>() });
    outcome(&server, catch(|| state.ready(&server)))
}

unsafe extern "C" fn worker_init<S: State>(raw: *mut graft_self, state: *mut c_void) -> c_int {
    let (server, state) = (Server { raw }, unsafe { &*state.cast::<S>() });
    outcome(&server, catch(|| state.worker_init(&server)))
}

unsafe extern "C" fn start<S: State>(raw: *mut graft_self, state: *mut c_void) -> c_int {
    let (server, state) = (Server { raw }, unsafe { &*state.cast::<S>() });
    outcome(&server, catch(|| state.start(&server)))
}

/// # Safety
/// The server's call of export_state, with the state that [`init`] made.
pub unsafe extern "C" fn export_state<S: HandOver>(
    raw: *mut graft_self,
    state: *mut c_void,
    out: *mut graft_buf,
) -> c_int {
    let (server, state) = (Server { raw }, unsafe { &*state.cast::<S>() });
    let add = |data: Vec<u8>| {
        let rc = unsafe { ((*(*out).host).buf_add)(out, data.as_ptr().cast(), data.len()) };
        if rc == 0 { Ok(()) } else { Err("no memory for the state, or over 1 GiB".to_owned()) }
    };
    outcome(&server, catch(|| state.export_state(&server).and_then(add)))
}

/// # Safety
/// The server's call of import_state, with the state that [`init`] made: nothing else uses it yet.
pub unsafe extern "C" fn import_state<S: HandOver>(
    raw: *mut graft_self,
    state: *mut c_void,
    schema: u32,
    data: graft_str,
) -> c_int {
    let (server, state) = (Server { raw }, unsafe { &mut *state.cast::<S>() });
    let data = unsafe { bytes(data) }.unwrap_or(b"");
    outcome(&server, catch(|| state.import_state(&server, schema, data)))
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

unsafe extern "C" fn worker_fini<S: State>(raw: *mut graft_self, state: *mut c_void) {
    let (server, state) = (Server { raw }, unsafe { &*state.cast::<S>() });
    if let Err(why) = catch(|| state.worker_fini(&server)) {
        server.log(Level::Error, &format!("panic in worker_fini: {}", why));
    }
}

unsafe extern "C" fn fini<S: State>(raw: *mut graft_self, state: *mut c_void) {
    if let Err(why) = catch(|| drop(unsafe { Box::from_raw(state.cast::<S>()) })) {
        Server { raw }.log(Level::Error, &format!("panic while the state was dropped: {}", why));
    }
    tell_timers(&Server { raw }, drop_timers());
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

pub const fn empty<S: State, T: Plain>(
    name: &'static str,
    version: &'static str,
    summary: &'static str,
) -> graft_plugin {
    graft_plugin {
        size: std::mem::size_of::<graft_plugin>() as u32,
        needs: GRAFT_MINOR,
        route_size: std::mem::size_of::<graft_route>() as u32,
        flags: 0,
        name: c(name),
        version: c(version),
        summary: c(summary),
        scratch_size: std::mem::size_of::<T>(),
        init: Some(init::<S, T>),
        ready: Some(ready::<S>),
        worker_init: Some(worker_init::<S>),
        start: Some(start::<S>),
        cool: Some(cool::<S>),
        worker_fini: Some(worker_fini::<S>),
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
    flags: u32,
) -> graft_route {
    let every = matches!(method.as_bytes(), b"*\0");
    let method = if every { std::ptr::null() } else { c(method) };
    graft_route { method, pattern: c(pattern), handler: Some(handler), flags }
}

pub const fn no_route() -> graft_route {
    let none = std::ptr::null();
    graft_route { method: none, pattern: none, handler: None, flags: 0 }
}
