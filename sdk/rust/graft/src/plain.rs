//! Types that may lie in memory of the server's: scratch and shared blocks.

use std::mem::size_of;
use std::sync::atomic::*;

/// A type that zeroed memory is a value of, and that another version may find as this one left it.
///
/// # Safety
/// Every pattern of bits is a value of it; it has no padding, no pointers and no destructor.
pub unsafe trait Plain: Sized + 'static {}

macro_rules! plain {
    ($($t:ty)*) => { $( unsafe impl Plain for $t {} )* };
}
plain!(() u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64);
plain!(AtomicU8 AtomicU16 AtomicU32 AtomicU64 AtomicUsize AtomicI8 AtomicI16 AtomicI32 AtomicI64 AtomicIsize);
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

static SCRATCH_SIZE: AtomicUsize = AtomicUsize::new(0);

pub(crate) fn scratch_size() -> usize {
    SCRATCH_SIZE.load(Ordering::Relaxed)
}

/// Called by `init`, before any request: a plugin is one library with one copy of this.
pub(crate) fn set_scratch_size<T: Plain>() {
    SCRATCH_SIZE.store(size_of::<T>(), Ordering::Relaxed);
}
