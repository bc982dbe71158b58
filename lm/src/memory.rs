//! Memory for sampling: how much to plan with, and what to do when there is less.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use bstar_stages::protocol::{FailureKind, StageError};
use bstar_stages::units::{memory_of_machine, parse_size};
use tch::Device;

use crate::error::Result;
use crate::worker::panic_error;

/// Says how much to plan with: `4GB`.
const VARIABLE: &str = "BSTAR_SAMPLE_MEMORY";
/// What the engine expects a step on a CPU to take, and enough for waves that are full.
const MOST_ON_CPU: usize = 1 << 30;
/// The part of the bytes for waves that the prompts of a step take beside them, kept for the next step.
pub(crate) const KEPT: usize = 4;
/// Where nobody says how much there is.
const UNKNOWN: usize = 1 << 30;

/// Bytes for the keys and values of a wave, a quarter as many beside which keep prompts for the next step:
/// `$BSTAR_SAMPLE_MEMORY`; or a quarter of what the system has
/// free, at most 1 GiB; or a third of what a GPU has. No result depends on it on a CPU; on a GPU shapes do,
/// so that it must be the same whatever else is in that memory.
///
/// # Errors
/// When the variable holds no size.
pub fn budget(device: Device) -> Result<usize> {
    if let Some(text) = std::env::var_os(VARIABLE) {
        let size = text.to_str().and_then(|text| usize::try_from(parse_size(text).ok()?).ok());
        return size.ok_or_else(|| {
            StageError::invalid(format!("${VARIABLE} is `{}`, not a size", text.display()))
                .hint("write `500MB` or `4GB`, or unset it")
        });
    }
    Ok(match device {
        Device::Cuda(number) => memory_of_gpu(number).map_or(UNKNOWN, |total| total / 3),
        _ => {
            let free = memory_of_machine("MemAvailable").and_then(|free| usize::try_from(free).ok());
            free.map_or(UNKNOWN, |free| (free / 4).min(MOST_ON_CPU))
        }
    })
}

/// Lets the allocator keep what was given back, up to 2 GiB at its end: every step of a model needs the same again, and to
/// have the system clear its pages anew takes a tenth of the time, of larger models a fifth. So nothing is mapped by itself, and
/// all threads have one heap.
pub fn keep_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "there is no safe name for it; it only sets numbers of the allocator")]
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

/// Asks the CUDA runtime that libtorch has loaded.
fn memory_of_gpu(number: usize) -> Option<usize> {
    let number = i32::try_from(number).ok()?;
    let (mut free, mut total) = (0_usize, 0_usize);
    #[expect(unsafe_code, reason = "functions of the CUDA runtime with the types of its documentation")]
    let failed = unsafe {
        let library = libloading::os::unix::Library::this();
        let choose = library.get::<unsafe extern "C" fn(i32) -> i32>(b"cudaSetDevice\0").ok()?;
        let ask =
            library.get::<unsafe extern "C" fn(*mut usize, *mut usize) -> i32>(b"cudaMemGetInfo\0").ok()?;
        choose(number) != 0 || ask(&raw mut free, &raw mut total) != 0
    };
    (!failed && total > 0).then_some(total)
}

/// Does something; that memory was short, which libtorch's bindings panic with, becomes an error.
///
/// # Errors
/// Those of `act`, and that memory was short.
pub fn attempt<T>(act: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|panic| {
        let error = panic_error(&*panic);
        if is_short(&error) { Err(error) } else { resume_unwind(panic) }
    })
}

/// Whether an error says that memory was short.
#[must_use]
pub fn is_short(error: &StageError) -> bool {
    error.kind == FailureKind::Transient
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_known_here() {
        let bytes = budget(Device::Cpu).unwrap();
        assert!((1 << 20..=MOST_ON_CPU).contains(&bytes), "{bytes}");
    }

    #[test]
    fn only_short_memory_is_caught() {
        // More than any address space has.
        let short = attempt(|| Ok(tch::Tensor::zeros([1 << 60], (tch::Kind::Uint8, Device::Cpu)).size()));
        let error = short.unwrap_err();
        assert!(is_short(&error) && error.message.contains("can't allocate memory"), "{error}");
        let other = catch_unwind(|| attempt(|| -> Result<()> { panic!("another") }));
        assert_eq!(other.unwrap_err().downcast_ref::<&str>(), Some(&"another"));
    }
}
