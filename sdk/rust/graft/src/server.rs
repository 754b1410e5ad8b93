//! This version of this plugin: configuration, log, counters, timers, shared blocks.

use crate::boundary::catch;
use crate::plain::Plain;
use crate::sys::*;
use std::ffi::{c_void, CStr, CString};
use std::mem::{align_of, size_of};
use std::os::raw::c_uint;
use std::sync::Mutex;
use std::time::Duration;

/// A text for C: without its NULs, if it has any.
pub(crate) fn c_text(text: &str) -> CString {
    CString::new(text).unwrap_or_else(|_| CString::new(text.replace('\0', "")).unwrap_or_default())
}

/// A text as a format that consumes no argument.
pub(crate) fn c_format(text: &str) -> CString {
    c_text(&text.replace('%', "%%"))
}

/// The bytes of a `graft_str`, which live as long as `'a` says.
pub(crate) unsafe fn bytes<'a>(s: graft_str) -> Option<&'a [u8]> {
    if s.ptr.is_null() {
        None
    } else {
        Some(unsafe { std::slice::from_raw_parts(s.ptr.cast(), s.len) })
    }
}

/// As the server counts time; what is longer than it can count is as long as it can.
pub(crate) fn millis(time: Duration) -> c_uint {
    c_uint::try_from(time.as_millis()).unwrap_or(c_uint::MAX)
}

struct Timer {
    server: Server,
    tick: Box<dyn Fn() + Send + Sync>,
}

/// Boxed each, for the server holds their addresses.
#[allow(clippy::vec_box)]
type Timers = Vec<Box<Timer>>;

/// They end with the version, of which this static is a part.
static TIMERS: Mutex<Timers> = Mutex::new(Vec::new());

fn timers() -> std::sync::MutexGuard<'static, Timers> {
    TIMERS.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// In `fini`, or when `init` has failed: nothing ticks any more.
pub(crate) fn drop_timers() -> Result<(), String> {
    let all = std::mem::take(&mut *timers());
    catch(|| drop(all))
}

unsafe extern "C" fn run_tick(arg: *mut c_void) {
    let timer = unsafe { &*arg.cast::<Timer>() };
    if let Err(why) = catch(|| (timer.tick)()) {
        timer.server.log(Level::Error, &format!("panic in a timer: {}", why));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// The handle of this version: valid on any thread, until `fini` has returned, that is, as long as
/// the state lives.
#[derive(Clone, Copy)]
pub struct Server {
    pub(crate) raw: *mut graft_self,
}

unsafe impl Send for Server {}
unsafe impl Sync for Server {}

impl Server {
    fn host(&self) -> &graft_host {
        unsafe { &*(*self.raw).host }
    }

    /// The handle as C has it, for what is not wrapped here.
    pub fn raw(&self) -> *mut graft_self {
        self.raw
    }

    /// `plugins.NAME.config` of the server's configuration, as JSON text.
    pub fn config(&self) -> String {
        let all = unsafe { bytes((self.host().config)(self.raw)) };
        String::from_utf8_lossy(all.unwrap_or(b"{}")).into_owned()
    }

    pub fn config_str(&self, key: &str, fallback: &str) -> String {
        let key = c_text(key);
        let p = unsafe { (self.host().config_str)(self.raw, key.as_ptr(), std::ptr::null()) };
        if p.is_null() {
            fallback.to_owned()
        } else {
            unsafe { CStr::from_ptr(p) }.to_string_lossy().into_owned()
        }
    }

    pub fn config_int(&self, key: &str, fallback: i64) -> i64 {
        unsafe { (self.host().config_int)(self.raw, c_text(key).as_ptr(), fallback) }
    }

    pub fn config_bool(&self, key: &str, fallback: bool) -> bool {
        unsafe { (self.host().config_bool)(self.raw, c_text(key).as_ptr(), fallback) }
    }

    /// One line of the server's log, with the plugin's name and version. Never waits.
    pub fn log(&self, level: Level, text: &str) {
        let (format, level) = (c_format(text), level as std::os::raw::c_int);
        unsafe { (self.host().vlog)(self.raw, level, format.as_ptr(), &NO_ARGUMENTS) }
    }

    /// This worker's number, from 0; `None`, and misuse, on other threads.
    pub fn worker(&self) -> Option<u32> {
        Some(unsafe { (self.host().worker)(self.raw) }).filter(|n| *n != c_uint::MAX)
    }

    /// This worker's `struct event_base`, for libraries that speak libevent; null on other threads.
    pub fn event_loop(&self) -> *mut c_void {
        unsafe { (self.host().event_loop)(self.raw) }
    }

    pub fn workers(&self) -> u32 {
        unsafe { (self.host().workers)(self.raw) }
    }

    /// No new requests come here: long streams may want to end.
    pub fn cooling(&self) -> bool {
        unsafe { (self.host().cooling)(self.raw) }
    }

    /// In `init` only: `graft_plugin_<plugin>_<name>` of `/metrics`; no swap resets it.
    pub fn counter(&self, name: &str, help: &str) -> Result<Counter, String> {
        let (c_name, c_help) = (c_text(name), c_text(help));
        let raw = unsafe { (self.host().counter)(self.raw, c_name.as_ptr(), c_help.as_ptr()) };
        if raw.is_null() {
            Err(format!("counter '{}': a bad name, or no memory", name))
        } else {
            Ok(Counter { raw })
        }
    }

    /// In `init`, `ready` and `start`: the closure on the pool every so often, between `start` and
    /// `cool`, never twice at once. A panic in it is logged, and it is called again.
    pub fn every<F: Fn() + Send + Sync + 'static>(
        &self,
        period: Duration,
        tick: F,
    ) -> Result<(), String> {
        let timer = Box::new(Timer { server: *self, tick: Box::new(tick) });
        let arg = (&*timer as *const Timer as *mut Timer).cast();
        if unsafe { (self.host().every)(self.raw, millis(period), run_tick, arg) } != 0 {
            return Err("a timer: under 1 ms, not in init, ready or start, or no memory".to_owned());
        }
        timers().push(timer);
        Ok(())
    }

    /// In `init`: a block that later versions find as it is, and whether it is new, that is, zeroes.
    /// Versions that run side by side have it at the same time: atomics, then.
    pub fn shared<T: Plain + Sync>(
        &self,
        name: &str,
        schema: u32,
    ) -> Result<(&'static T, bool), String> {
        assert!(align_of::<T>() <= 64, "shared blocks are aligned to 64 bytes");
        let (c_name, mut fresh) = (c_text(name), false);
        let size = size_of::<T>();
        let at =
            unsafe { (self.host().shared)(self.raw, c_name.as_ptr(), size, schema, &mut fresh) };
        if at.is_null() {
            return Err(format!("shared block '{}': see the log", name));
        }
        Ok((unsafe { &*at.cast::<T>() }, fresh))
    }

    /// While it loads: the block of that name that one of another size or schema takes the place of,
    /// where it has this size and this schema.
    pub fn shared_old<T: Plain + Sync>(&self, name: &str, schema: u32) -> Option<&'static T> {
        assert!(align_of::<T>() <= 64, "shared blocks are aligned to 64 bytes");
        let (c_name, mut size, mut found) = (c_text(name), 0, 0);
        let at = unsafe {
            (self.host().shared_old)(self.raw, c_name.as_ptr(), &mut size, &mut found)
        };
        if at.is_null() || size != size_of::<T>() || found != schema {
            return None;
        }
        Some(unsafe { &*at.cast::<T>() })
    }

    pub(crate) fn fail(&self, why: &str) -> std::os::raw::c_int {
        unsafe { (self.host().vfail)(self.raw, c_format(why).as_ptr(), &NO_ARGUMENTS) }
    }
}

/// A counter of `/metrics`; no cache line is shared between workers.
#[derive(Clone, Copy)]
pub struct Counter {
    raw: *mut graft_metric,
}

unsafe impl Send for Counter {}
unsafe impl Sync for Counter {}

impl Counter {
    pub fn add(&self, n: u64) {
        unsafe { ((*(*self.raw).host).add)(self.raw, n) }
    }
}
