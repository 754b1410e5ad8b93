//! One request as this plugin sees it, and what it owes when it answers later.

use crate::boundary::catch;
use crate::plain::{scratch_size, Plain};
use crate::server::{bytes, c_format, c_text, millis, Level, Server};
use crate::sys::*;
use crate::Next;
use std::fmt;
use std::fs::File;
use std::mem::{align_of, size_of};
use std::ops::{Deref, DerefMut};
use std::os::raw::{c_int, c_uint, c_void};
use std::os::unix::io::IntoRawFd;
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
    /// The target as sent.
    pub fn target(&self) -> &[u8] {
        unsafe { bytes((self.host().target)(self.raw)) }.unwrap_or(b"")
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
    /// Each field, name and value, in the order of the request.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        (0..unsafe { (self.host().header_count)(self.raw) }).filter_map(move |i| {
            let (mut name, mut value) = (ABSENT, ABSENT);
            let found =
                unsafe { (self.host().header_at)(self.raw, i, &mut name, &mut value) };
            found.then(|| unsafe { (bytes(name).unwrap_or(b""), bytes(value).unwrap_or(b"")) })
        })
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
    /// The pattern of the route; `None` on 404.
    pub fn route_pattern(&self) -> Option<&[u8]> {
        unsafe { bytes((self.host().route_pattern)(self.raw)) }
    }
    pub fn is_tls(&self) -> bool {
        unsafe { (self.host().is_tls)(self.raw) }
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
    pub fn remove_header(&mut self, name: &str) -> bool {
        unsafe { (self.host().remove_header)(self.raw, c_text(name).as_ptr()) == 0 }
    }
    pub fn response_status(&self) -> u16 {
        unsafe { (self.host().response_status)(self.raw) as u16 }
    }
    /// The field as set so far.
    pub fn response_header(&self, name: &str) -> Option<&[u8]> {
        unsafe { bytes((self.host().response_header)(self.raw, c_text(name).as_ptr())) }
    }
    /// What has not been sent; `None` for files.
    pub fn response_body(&self) -> Option<&[u8]> {
        unsafe { bytes((self.host().response_body)(self.raw)) }
    }
    /// Body bytes that have been sent.
    pub fn response_bytes(&self) -> u64 {
        unsafe { (self.host().response_bytes)(self.raw) }
    }
    /// Response bytes that are not yet in the kernel.
    pub fn pending(&self) -> usize {
        unsafe { (self.host().pending)(self.raw) }
    }
    /// Back to status 200, no headers, no body; false after the head has left.
    pub fn reset(&mut self) -> bool {
        unsafe { (self.host().reset_response)(self.raw) == 0 }
    }
    /// 0; 1: taken, but more waits than should; -1: over.
    pub fn write(&mut self, data: &[u8]) -> i32 {
        unsafe { (self.host().write)(self.raw, data.as_ptr().cast(), data.len()) }
    }
    /// Not copied: sent from where it lies.
    pub fn write_static(&mut self, data: &'static [u8]) -> i32 {
        unsafe { (self.host().write_static)(self.raw, data.as_ptr().cast(), data.len()) }
    }
    /// `len` bytes of the file from `offset` on; it is closed when they are sent.
    pub fn send_file(&mut self, file: File, offset: i64, len: u64) -> i32 {
        unsafe { (self.host().send_file)(self.raw, file.into_raw_fd(), offset, len) }
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

    /// Instead of `timeouts_ms.handler`: from now until the head must be sent; zero = none.
    pub fn deadline(&mut self, from_now: Duration) -> bool {
        unsafe { (self.host().deadline)(self.raw, millis(from_now)) == 0 }
    }
    /// Stop reading the body from the socket.
    pub fn body_pause(&mut self) {
        unsafe { (self.host().body_pause)(self.raw) }
    }
    /// Go on reading it.
    pub fn body_resume(&mut self) {
        unsafe { (self.host().body_resume)(self.raw) }
    }

    /// When the server cuts or replaces the response. This and the two below may never be called, so
    /// what they capture lies in the request's memory and is never dropped: hence `Copy`. False: no
    /// memory. A panic in them is logged.
    pub fn on_abort<F: Fn(&mut Exchange) + Copy + 'static>(&mut self, f: F) -> bool {
        let arg = self.copied(f);
        if !arg.is_null() {
            unsafe { (self.host().on_abort)(self.raw, run_small::<F>, arg) }
        }
        !arg.is_null()
    }
    /// When there is room again after [`Exchange::write`] answered 1, and when the response is cut.
    /// See [`Later::writable`], which carries the duty to answer.
    pub fn on_writable<F: Fn(&mut Exchange) + Copy + 'static>(&mut self, f: F) -> bool {
        let arg = self.copied(f);
        if !arg.is_null() {
            unsafe { (self.host().on_writable)(self.raw, run_small::<F>, arg) }
        }
        !arg.is_null()
    }
    /// In so many milliseconds; dropped when the request is answered before. See [`Later::after`].
    pub fn after<F: Fn(&mut Exchange) + Copy + 'static>(&mut self, ms: u32, f: F) -> bool {
        let arg = self.copied(f);
        !arg.is_null()
            && unsafe { (self.host().after)(self.raw, ms as c_uint, run_small::<F>, arg) == 0 }
    }
    fn copied<F: Copy>(&self, f: F) -> *mut c_void {
        assert!(align_of::<F>() <= 16, "over-aligned");
        // An empty closure needs an address, too.
        let at = unsafe { (self.host().alloc)(self.raw, size_of::<F>().max(1)) };
        if !at.is_null() {
            unsafe { at.cast::<F>().write(f) };
        }
        at
    }

    /// This plugin's scratch in this request: `scratch: T` in [`plugin!`](crate::plugin). Zeroes in
    /// the beginning. Panics when `plugin!` asked for less, or there is no memory.
    pub fn scratch<T: Plain>(&self) -> &T {
        unsafe { &*self.scratch_of() }
    }
    pub fn scratch_mut<T: Plain>(&mut self) -> &mut T {
        unsafe { &mut *self.scratch_of() }
    }
    fn scratch_of<T: Plain>(&self) -> *mut T {
        assert!(align_of::<T>() <= 16, "over-aligned");
        assert!(
            size_of::<T>() <= scratch_size(),
            "scratch of {} bytes, but plugin! has {}: say scratch: T there",
            size_of::<T>(),
            scratch_size()
        );
        if size_of::<T>() == 0 {
            return std::ptr::NonNull::dangling().as_ptr();
        }
        let at = unsafe { (self.host().scratch)(self.raw) };
        assert!(!at.is_null(), "no memory for scratch");
        at.cast()
    }

    pub(crate) unsafe fn new(raw: *mut graft_req) -> Self {
        Exchange { raw }
    }
    pub(crate) fn tell(&self, what: &str, why: &str) {
        self.server().log(Level::Error, &format!("panic in {}: {}", what, why));
    }
}

/// `write!(req, …)` appends to the body; an error is that the response is over.
impl fmt::Write for Exchange {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.write(text.as_bytes()) < 0 {
            return Err(fmt::Error);
        }
        Ok(())
    }
}

unsafe extern "C" fn run_small<F: Fn(&mut Exchange) + Copy>(req: *mut graft_req, arg: *mut c_void) {
    let mut x = unsafe { Exchange::new(req) };
    let f = unsafe { *arg.cast::<F>() };
    if let Err(why) = catch(|| f(&mut x)) {
        x.tell("a callback", &why);
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

/// The body of a request as it arrives, for routes that say `stream`: see [`Later::receive`].
pub trait Receive: Sized + Send + 'static {
    /// A piece of it. A panic cuts the connection.
    fn chunk(&mut self, x: &mut Exchange, chunk: &[u8]);
    /// All of it is in.
    fn end(self, later: Later, x: &mut Exchange);
    /// The rest will not come: the client left, or the time is over. What is written goes nowhere.
    fn cut(self, later: Later, _: &mut Exchange) {
        later.done();
    }
}

/// In the request's memory, for on_body and on_abort may both come: whichever ends it takes it.
type Receiver<R> = *mut Option<Box<(Later, R)>>;

unsafe extern "C" fn run_body<R: Receive>(
    req: *mut graft_req,
    chunk: graft_str,
    last: bool,
    arg: *mut c_void,
) {
    let mut x = unsafe { Exchange::new(req) };
    let place = unsafe { &mut *(arg as Receiver<R>) };
    if let Some(owed) = place {
        let chunk = unsafe { bytes(chunk) }.unwrap_or(b"");
        if !chunk.is_empty() {
            if let Err(why) = catch(|| owed.1.chunk(&mut x, chunk)) {
                x.tell("on_body", &why);
                return end_receive(place, &mut x, |_, later, _| later.abort());
            }
        }
        if last {
            end_receive(place, &mut x, R::end);
        }
    }
}

unsafe extern "C" fn run_body_cut<R: Receive>(req: *mut graft_req, arg: *mut c_void) {
    let mut x = unsafe { Exchange::new(req) };
    end_receive(unsafe { &mut *(arg as Receiver<R>) }, &mut x, R::cut);
}

fn end_receive<R: Receive>(
    place: &mut Option<Box<(Later, R)>>,
    x: &mut Exchange,
    how: impl FnOnce(R, Later, &mut Exchange),
) {
    if let Some(owed) = place.take() {
        let (later, receiver) = *owed;
        if let Err(why) = catch(|| how(receiver, later, x)) {
            x.tell("on_body", &why);
        }
    }
}

unsafe extern "C" fn nothing(_: *mut graft_req, _: *mut c_void) {}

/// Called once more when the response is cut: so what was waited for is forgotten first.
unsafe extern "C" fn run_writable(req: *mut graft_req, arg: *mut c_void) {
    unsafe {
        ((*(*req).host).on_writable)(req, nothing, std::ptr::null_mut());
        run_step(req, arg);
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

    /// From any thread: the closure when there is room again after [`Exchange::write`] answered 1, or
    /// when the response is cut; [`Exchange::on_writable`] is taken for it.
    pub fn writable<F: FnOnce(Later, &mut Exchange) + Send + 'static>(self, f: F) {
        if !self.at_home() {
            return self.post(move |later, _| later.writable(f));
        }
        if unsafe { (self.host().gone)(self.raw) } {
            return self.post(f); // it has been cut, and is not cut again
        }
        let raw = self.raw;
        let arg = Box::into_raw(Box::new(Owed { later: self, step: Box::new(f) }));
        unsafe { ((*(*raw).host).on_writable)(raw, run_writable, arg.cast()) }
    }

    /// From any thread: the body, piece by piece, to the receiver, which then ends the request.
    /// [`Exchange::on_abort`] is taken for it.
    pub fn receive<R: Receive>(self, receiver: R) {
        if !self.at_home() {
            return self.post(move |later, _| later.receive(receiver));
        }
        let (raw, gone) = (self.raw, unsafe { (self.host().gone)(self.raw) });
        let at = unsafe { (self.host().alloc)(raw, size_of::<Option<Box<(Later, R)>>>()) };
        if at.is_null() {
            return self.refuse("no memory for a receiver");
        }
        if gone {
            return self.post(move |later, x| receiver.cut(later, x));
        }
        unsafe {
            (at as Receiver<R>).write(Some(Box::new((self, receiver))));
            ((*(*raw).host).on_abort)(raw, run_body_cut::<R>, at);
            ((*(*raw).host).on_body)(raw, run_body::<R>, at);
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
