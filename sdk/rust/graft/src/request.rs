//! One request as this plugin sees it, and what it owes when it answers later.

use crate::boundary::catch;
use crate::server::{bytes, c_format, c_text, Level, Server};
use crate::sys::*;
use crate::Next;
use std::ops::{Deref, DerefMut};
use std::os::raw::{c_int, c_uint, c_void};
use std::time::Duration;

/// Request and response. On the request's worker; not `Send`. Text that the request has is bytes:
/// a client may send anything.
pub struct Exchange {
    raw: *mut graft_req,
}

impl Exchange {
    fn host(&self) -> &graft_host {
        unsafe { &*(*self.raw).host }
    }

    /// The handle as C has it, for what is not wrapped here.
    pub fn raw(&self) -> *mut graft_req {
        self.raw
    }
    pub fn server(&self) -> Server {
        Server { raw: unsafe { (self.host().self_of)(self.raw) } }
    }

    pub fn method(&self) -> &[u8] {
        unsafe { bytes((self.host().method)(self.raw)) }.unwrap_or(b"")
    }
    pub fn path(&self) -> &[u8] {
        unsafe { bytes((self.host().path)(self.raw)) }.unwrap_or(b"")
    }
    pub fn param(&self, name: &str) -> Option<&[u8]> {
        unsafe { bytes((self.host().param)(self.raw, c_text(name).as_ptr())) }
    }
    pub fn query(&self, name: &str) -> Option<&[u8]> {
        unsafe { bytes((self.host().query)(self.raw, c_text(name).as_ptr())) }
    }
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        unsafe { bytes((self.host().header)(self.raw, c_text(name).as_ptr())) }
    }
    /// The whole body; `None` before it is in.
    pub fn body(&self) -> Option<&[u8]> {
        unsafe { bytes((self.host().body)(self.raw)) }
    }
    pub fn peer(&self) -> &[u8] {
        unsafe { bytes((self.host().peer)(self.raw)) }.unwrap_or(b"")
    }
    pub fn request_id(&self) -> &[u8] {
        unsafe { bytes((self.host().request_id)(self.raw)) }.unwrap_or(b"")
    }
    pub fn elapsed(&self) -> Duration {
        Duration::from_micros(unsafe { (self.host().elapsed_us)(self.raw) })
    }
    pub fn gone(&self) -> bool {
        unsafe { (self.host().gone)(self.raw) }
    }

    /// False is graft.h's -1.
    pub fn status(&mut self, code: u16) -> bool {
        unsafe { (self.host().status)(self.raw, c_int::from(code)) == 0 }
    }
    pub fn set_header(&mut self, name: &str, value: &str) -> bool {
        if value.contains('\0') {
            return false;
        }
        let (name, value) = (c_text(name), c_text(value));
        unsafe { (self.host().set_header)(self.raw, name.as_ptr(), value.as_ptr()) == 0 }
    }
    pub fn add_header(&mut self, name: &str, value: &str) -> bool {
        if value.contains('\0') {
            return false;
        }
        let (name, value) = (c_text(name), c_text(value));
        unsafe { (self.host().add_header)(self.raw, name.as_ptr(), value.as_ptr()) == 0 }
    }
    pub fn response_status(&self) -> u16 {
        unsafe { (self.host().response_status)(self.raw) as u16 }
    }
    /// 0; 1: taken, but more waits than should; -1: over.
    pub fn write(&mut self, data: &[u8]) -> i32 {
        unsafe { (self.host().write)(self.raw, data.as_ptr().cast(), data.len()) }
    }
    pub fn flush(&mut self) -> i32 {
        unsafe { (self.host().flush)(self.raw) }
    }
    pub fn streaming(&self) -> bool {
        unsafe { (self.host().streaming)(self.raw) }
    }

    /// Replaces what has not left.
    pub fn text(&mut self, code: u16, text: &str) -> Next {
        unsafe { (self.host().text)(self.raw, c_int::from(code), c_text("").as_ptr()) };
        self.write(text.as_bytes());
        Next::Done
    }
    pub fn json(&mut self, code: u16, json: &str) -> Next {
        let (data, len) = (json.as_ptr().cast(), json.len());
        unsafe { (self.host().json)(self.raw, c_int::from(code), data, len) };
        Next::Done
    }
    /// An RFC 9457 problem.
    pub fn error(&mut self, code: u16, detail: &str) -> Next {
        unsafe { (self.host().error)(self.raw, c_int::from(code), c_text(detail).as_ptr()) };
        Next::Done
    }
    /// A 500, and this in the log.
    pub fn fail(&mut self, why: &str) -> Next {
        unsafe { (self.host().vfail_req)(self.raw, c_format(why).as_ptr(), &NO_ARGUMENTS) };
        Next::Error
    }

    pub(crate) unsafe fn new(raw: *mut graft_req) -> Self {
        Exchange { raw }
    }
    pub(crate) fn tell(&self, what: &str, why: &str) {
        self.server().log(Level::Error, &format!("panic in {}: {}", what, why));
    }
}

/// What a handler or middleware is given.
pub struct Request {
    exchange: Exchange,
    middleware: bool,
    pub(crate) deferred: bool,
}

impl Request {
    pub(crate) unsafe fn new(raw: *mut graft_req, middleware: bool) -> Self {
        Request { exchange: unsafe { Exchange::new(raw) }, middleware, deferred: false }
    }

    /// From now on the answer is owed by what this returns; what the callback returns counts as
    /// `Next::Later`, also when it panics. Once: panics the second time.
    pub fn defer(&mut self) -> Later {
        assert!(!self.deferred, "deferred twice");
        self.deferred = true;
        Later { raw: self.exchange.raw, middleware: self.middleware, home: here() }
    }
}

impl Deref for Request {
    type Target = Exchange;
    fn deref(&self) -> &Exchange {
        &self.exchange
    }
}
impl DerefMut for Request {
    fn deref_mut(&mut self) -> &mut Exchange {
        &mut self.exchange
    }
}

/// The right, and the duty, to end a request, on any thread. Dropped without, it answers 500 (where a
/// stream has begun: cuts the connection), and the log says so.
pub struct Later {
    raw: *mut graft_req,
    middleware: bool,
    home: usize,
}

// What belongs on the worker goes there by itself: see `at_home`.
unsafe impl Send for Later {}

thread_local! { static HERE: u8 = const { 0 } }

/// A number of this thread's: an address. Without a destructor, so that nothing stays mapped for it.
fn here() -> usize {
    HERE.with(|h| h as *const u8 as usize)
}

/// A closure on its way to the worker.
type Step = Box<dyn FnOnce(Later, &mut Exchange) + Send>;

struct Owed {
    later: Later,
    step: Step,
}

unsafe extern "C" fn run_step(req: *mut graft_req, arg: *mut c_void) {
    let Owed { later, step } = *unsafe { Box::from_raw(arg.cast::<Owed>()) };
    let mut x = unsafe { Exchange::new(req) };
    if let Err(why) = catch(|| step(later, &mut x)) {
        x.tell("a callback", &why);
    }
}

struct Job {
    later: Option<Later>,
    work: Option<Box<dyn FnOnce() -> Step + Send>>,
    step: Option<Result<Step, String>>,
}

unsafe extern "C" fn run_work(arg: *mut c_void) {
    let job = unsafe { &mut *arg.cast::<Job>() };
    if let Some(work) = job.work.take() {
        job.step = Some(catch(work));
    }
}

unsafe extern "C" fn run_then(req: *mut graft_req, arg: *mut c_void) {
    let job = *unsafe { Box::from_raw(arg.cast::<Job>()) };
    let mut x = unsafe { Exchange::new(req) };
    let why = match (job.later, job.step) {
        (Some(later), Some(Ok(step))) => catch(|| step(later, &mut x)).err(),
        (_, Some(Err(why))) => Some(why),
        _ => None,
    };
    if let Some(why) = why {
        x.tell("offloaded work", &why);
    }
}

unsafe extern "C" fn answer_500(req: *mut graft_req, _: *mut c_void) {
    let mut x = unsafe { Exchange::new(req) };
    if x.streaming() {
        unsafe { (x.host().abort)(req) };
    } else {
        x.error(500, "the handler did not finish");
        unsafe { (x.host().done)(req) };
    }
}

impl Later {
    fn host(&self) -> &graft_host {
        unsafe { &*(*self.raw).host }
    }

    /// Ends it: a handler's response is what has been set; a middleware's chain goes on.
    pub fn done(self) {
        unsafe {
            if self.middleware {
                (self.host().resume)(self.raw, GRAFT_NEXT);
            } else {
                (self.host().done)(self.raw);
            }
        }
        std::mem::forget(self);
    }

    /// Middleware: the response is what has been set, the rest of the chain is skipped.
    pub fn finish(self) {
        unsafe {
            if self.middleware {
                (self.host().resume)(self.raw, GRAFT_DONE);
            } else {
                (self.host().done)(self.raw);
            }
        }
        std::mem::forget(self);
    }

    /// Cuts the connection.
    pub fn abort(self) {
        unsafe { (self.host().abort)(self.raw) };
        std::mem::forget(self);
    }

    fn refuse(self, why: &str) {
        unsafe { Exchange::new(self.raw) }.error(503, why);
        self.finish();
    }

    /// Whether this is the request's worker. Workers never end, so no other thread gets its number.
    fn at_home(&self) -> bool {
        self.home == here()
    }

    /// From any thread: the closure, on the request's worker, in so many milliseconds.
    pub fn after<F: FnOnce(Later, &mut Exchange) + Send + 'static>(self, ms: u32, f: F) {
        if !self.at_home() {
            return self.post(move |later, _| later.after(ms, f));
        }
        let raw = self.raw;
        let arg = Box::into_raw(Box::new(Owed { later: self, step: Box::new(f) }));
        unsafe {
            if ((*(*raw).host).after)(raw, ms as c_uint, run_step, arg.cast()) != 0 {
                Box::from_raw(arg).later.refuse("no memory for a timer");
            }
        }
    }

    /// From any thread: the closure on the request's worker.
    pub fn post<F: FnOnce(Later, &mut Exchange) + Send + 'static>(self, f: F) {
        let raw = self.raw;
        let arg = Box::into_raw(Box::new(Owed { later: self, step: Box::new(f) }));
        unsafe {
            if ((*(*raw).host).post)(raw, run_step, arg.cast()) != 0 {
                drop(Box::from_raw(arg));
            }
        }
    }

    /// From any thread: `work` on the pool, then `then` with its result on the request's worker. When
    /// `work` panics the client gets 500; when the pool's queue is full, 503.
    pub fn offload<R, W, T>(self, work: W, then: T)
    where
        R: Send + 'static,
        W: FnOnce() -> R + Send + 'static,
        T: FnOnce(Later, &mut Exchange, R) + Send + 'static,
    {
        if !self.at_home() {
            return self.post(move |later, _| later.offload(work, then));
        }
        let raw = self.raw;
        let work = move || -> Step {
            let result = work();
            Box::new(move |later: Later, x: &mut Exchange| then(later, x, result))
        };
        let job = Job { later: Some(self), work: Some(Box::new(work)), step: None };
        let arg = Box::into_raw(Box::new(job));
        unsafe {
            if ((*(*raw).host).offload)(raw, run_work, run_then, arg.cast()) != 0 {
                if let Some(later) = Box::from_raw(arg).later.take() {
                    later.refuse("the pool's queue is full");
                }
            }
        }
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        let host = self.host();
        unsafe {
            if !(host.gone)(self.raw) {
                Server { raw: (host.self_of)(self.raw) }
                    .log(Level::Error, "a Later was dropped without done(): the client gets 500");
            }
            if self.middleware {
                (host.resume)(self.raw, GRAFT_ERROR);
            } else if (host.post)(self.raw, answer_500, std::ptr::null_mut()) != 0 {
                (host.abort)(self.raw);
            }
        }
    }
}
