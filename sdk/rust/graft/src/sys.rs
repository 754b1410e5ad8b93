//! `graft.h` as Rust sees it: the same members in the same order. Nothing is generated and nothing
//! is linked: the server hands each plugin a table of functions.
//!
//! The printf-like members take a `va_list`, which Rust cannot make. They are only called with
//! formats that consume no argument, so what is passed for it is never read: [`NO_ARGUMENTS`].
#![allow(non_camel_case_types)]

use std::os::raw::{c_char, c_int, c_uint, c_void};

/// The `GRAFT_MINOR` that these declarations are of.
pub const GRAFT_MINOR: u32 = 1;

#[repr(C)]
pub struct graft_req {
    pub host: *const graft_host,
}
#[repr(C)]
pub struct graft_self {
    pub host: *const graft_host,
}
#[repr(C)]
pub struct graft_metric {
    pub host: *const graft_host,
}
#[repr(C)]
pub struct graft_buf {
    pub host: *const graft_host,
}
#[repr(C)]
#[derive(Clone, Copy)]
pub struct graft_str {
    pub ptr: *const c_char,
    pub len: usize,
}
pub(crate) const ABSENT: graft_str = graft_str { ptr: std::ptr::null(), len: 0 };

pub type graft_next = c_uint;
pub const GRAFT_NEXT: graft_next = 0;
pub const GRAFT_DONE: graft_next = 1;
pub const GRAFT_LATER: graft_next = 2;
pub const GRAFT_ERROR: graft_next = 3;

pub const GRAFT_STREAM: c_uint = 1;
pub const GRAFT_SERIAL: u32 = 1;
pub const GRAFT_NEED_BODY: u32 = 2;
pub const GRAFT_DEBUG: c_int = 0;
pub const GRAFT_INFO: c_int = 1;
pub const GRAFT_WARN: c_int = 2;
pub const GRAFT_ERR: c_int = 3;

pub type graft_handler = unsafe extern "C" fn(*mut graft_req, *mut c_void) -> graft_next;
pub type req_fn = unsafe extern "C" fn(*mut graft_req, *mut c_void);
pub type body_fn = unsafe extern "C" fn(*mut graft_req, graft_str, bool, *mut c_void);
pub type work_fn = unsafe extern "C" fn(*mut c_void);

/// In the place of a `va_list` that is not read. Wherever Linux runs, that is a pointer, or a struct
/// that is passed as one.
pub type va_list = *const [u64; 8];
pub static NO_ARGUMENTS: [u64; 8] = [0; 8];

#[repr(C)]
pub struct graft_route {
    pub method: *const c_char,
    pub pattern: *const c_char,
    pub handler: Option<graft_handler>,
    pub flags: c_uint,
}

type hook = Option<unsafe extern "C" fn(*mut graft_self, *mut c_void) -> c_int>;
type end = Option<unsafe extern "C" fn(*mut graft_self, *mut c_void)>;

#[repr(C)]
pub struct graft_plugin {
    pub size: u32,
    pub needs: u32,
    pub route_size: u32,
    pub flags: u32,
    pub name: *const c_char,
    pub version: *const c_char,
    pub summary: *const c_char,
    pub scratch_size: usize,
    pub init: Option<unsafe extern "C" fn(*mut graft_self, *mut *mut c_void) -> c_int>,
    pub ready: hook,
    pub worker_init: hook,
    pub start: hook,
    pub cool: end,
    pub worker_fini: end,
    pub fini: end,
    pub routes: *const graft_route,
    pub on_request: Option<graft_handler>,
    pub on_response: Option<graft_handler>,
    pub on_finish: Option<req_fn>,
    pub state_schema: u32,
    pub export_state:
        Option<unsafe extern "C" fn(*mut graft_self, *mut c_void, *mut graft_buf) -> c_int>,
    pub import_state:
        Option<unsafe extern "C" fn(*mut graft_self, *mut c_void, u32, graft_str) -> c_int>,
    pub health: hook,
}

// Only texts, tables and functions that are never written to.
unsafe impl Sync for graft_plugin {}
unsafe impl Sync for graft_route {}

#[repr(C)]
pub struct graft_host {
    pub size: u32,
    pub reserved: u32,

    pub method: unsafe extern "C" fn(*const graft_req) -> graft_str,
    pub path: unsafe extern "C" fn(*const graft_req) -> graft_str,
    pub target: unsafe extern "C" fn(*const graft_req) -> graft_str,
    pub param: unsafe extern "C" fn(*const graft_req, *const c_char) -> graft_str,
    pub query: unsafe extern "C" fn(*mut graft_req, *const c_char) -> graft_str,
    pub header: unsafe extern "C" fn(*const graft_req, *const c_char) -> graft_str,
    pub header_count: unsafe extern "C" fn(*const graft_req) -> usize,
    pub header_at:
        unsafe extern "C" fn(*const graft_req, usize, *mut graft_str, *mut graft_str) -> bool,
    pub body: unsafe extern "C" fn(*mut graft_req) -> graft_str,
    pub peer: unsafe extern "C" fn(*const graft_req) -> graft_str,
    pub request_id: unsafe extern "C" fn(*const graft_req) -> graft_str,
    pub route_pattern: unsafe extern "C" fn(*const graft_req) -> graft_str,
    pub is_tls: unsafe extern "C" fn(*const graft_req) -> bool,

    pub status: unsafe extern "C" fn(*mut graft_req, c_int) -> c_int,
    pub set_header: unsafe extern "C" fn(*mut graft_req, *const c_char, *const c_char) -> c_int,
    pub add_header: unsafe extern "C" fn(*mut graft_req, *const c_char, *const c_char) -> c_int,
    pub remove_header: unsafe extern "C" fn(*mut graft_req, *const c_char) -> c_int,
    pub write: unsafe extern "C" fn(*mut graft_req, *const c_void, usize) -> c_int,
    pub write_static: unsafe extern "C" fn(*mut graft_req, *const c_void, usize) -> c_int,
    pub vprintf: unsafe extern "C" fn(*mut graft_req, *const c_char, va_list) -> c_int,
    pub send_file: unsafe extern "C" fn(*mut graft_req, c_int, i64, u64) -> c_int,
    pub flush: unsafe extern "C" fn(*mut graft_req) -> c_int,
    pub text: unsafe extern "C" fn(*mut graft_req, c_int, *const c_char) -> graft_next,
    pub json: unsafe extern "C" fn(*mut graft_req, c_int, *const c_char, usize) -> graft_next,
    pub error: unsafe extern "C" fn(*mut graft_req, c_int, *const c_char) -> graft_next,
    pub response_status: unsafe extern "C" fn(*const graft_req) -> c_int,
    pub response_header: unsafe extern "C" fn(*const graft_req, *const c_char) -> graft_str,
    pub response_body: unsafe extern "C" fn(*mut graft_req) -> graft_str,
    pub reset_response: unsafe extern "C" fn(*mut graft_req) -> c_int,
    pub streaming: unsafe extern "C" fn(*const graft_req) -> bool,
    pub response_bytes: unsafe extern "C" fn(*const graft_req) -> u64,
    pub elapsed_us: unsafe extern "C" fn(*const graft_req) -> u64,

    pub done: unsafe extern "C" fn(*mut graft_req) -> c_int,
    pub resume: unsafe extern "C" fn(*mut graft_req, graft_next) -> c_int,
    pub abort: unsafe extern "C" fn(*mut graft_req),
    pub gone: unsafe extern "C" fn(*const graft_req) -> bool,
    pub post: unsafe extern "C" fn(*mut graft_req, req_fn, *mut c_void) -> c_int,
    pub offload: unsafe extern "C" fn(*mut graft_req, work_fn, req_fn, *mut c_void) -> c_int,
    pub after: unsafe extern "C" fn(*mut graft_req, c_uint, req_fn, *mut c_void) -> c_int,
    pub deadline: unsafe extern "C" fn(*mut graft_req, c_uint) -> c_int,
    pub on_abort: unsafe extern "C" fn(*mut graft_req, req_fn, *mut c_void),
    pub on_body: unsafe extern "C" fn(*mut graft_req, body_fn, *mut c_void),
    pub body_pause: unsafe extern "C" fn(*mut graft_req),
    pub body_resume: unsafe extern "C" fn(*mut graft_req),
    pub on_writable: unsafe extern "C" fn(*mut graft_req, req_fn, *mut c_void),
    pub pending: unsafe extern "C" fn(*const graft_req) -> usize,
    pub alloc: unsafe extern "C" fn(*mut graft_req, usize) -> *mut c_void,
    pub scratch: unsafe extern "C" fn(*mut graft_req) -> *mut c_void,

    pub config: unsafe extern "C" fn(*mut graft_self) -> graft_str,
    pub config_str:
        unsafe extern "C" fn(*mut graft_self, *const c_char, *const c_char) -> *const c_char,
    pub config_int: unsafe extern "C" fn(*mut graft_self, *const c_char, i64) -> i64,
    pub config_bool: unsafe extern "C" fn(*mut graft_self, *const c_char, bool) -> bool,
    pub vfail: unsafe extern "C" fn(*mut graft_self, *const c_char, va_list) -> c_int,
    pub vfail_req: unsafe extern "C" fn(*mut graft_req, *const c_char, va_list) -> graft_next,
    pub vlog: unsafe extern "C" fn(*mut graft_self, c_int, *const c_char, va_list),
    pub self_of: unsafe extern "C" fn(*mut graft_req) -> *mut graft_self,
    pub worker: unsafe extern "C" fn(*mut graft_self) -> c_uint,
    pub workers: unsafe extern "C" fn(*mut graft_self) -> c_uint,
    pub event_loop: unsafe extern "C" fn(*mut graft_self) -> *mut c_void,
    pub cooling: unsafe extern "C" fn(*mut graft_self) -> bool,
    pub every: unsafe extern "C" fn(*mut graft_self, c_uint, work_fn, *mut c_void) -> c_int,
    pub counter:
        unsafe extern "C" fn(*mut graft_self, *const c_char, *const c_char) -> *mut graft_metric,
    pub add: unsafe extern "C" fn(*mut graft_metric, u64),

    // GRAFT_MINOR 0 ends here.
    pub shared: unsafe extern "C" fn(
        *mut graft_self,
        *const c_char,
        usize,
        u32,
        *mut bool,
    ) -> *mut c_void,
    pub shared_old:
        unsafe extern "C" fn(*mut graft_self, *const c_char, *mut usize, *mut u32) -> *const c_void,
    pub buf_add: unsafe extern "C" fn(*mut graft_buf, *const c_void, usize) -> c_int,
}
