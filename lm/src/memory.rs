//! How freed memory is kept.

/// Makes the allocator keep what is freed, up to this many bytes, instead of giving it back.
const KEPT: i32 = 1 << 30;

/// Keeps freed memory for the next tensors. Passes over a model allocate the same megabytes again and
/// again: by default each comes as new pages, which the system must first fill with zeros.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for option in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        #[expect(unsafe_code, reason = "there is no safe name for it; it only sets a number")]
        // Where it is refused, memory is given back as ever.
        let _accepted = unsafe { libc::mallopt(option, KEPT) };
    }
}
