//! This version of this plugin: configuration, log, counters.

use crate::sys::*;
use std::ffi::{CStr, CString};

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
