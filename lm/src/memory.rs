//! Memory for sampling: how much to plan with, and what to do when there is less.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, resume_unwind, set_hook, take_hook};
use std::sync::Once;

use bstar_stages::config::SampleShard;
use bstar_stages::protocol::{FailureKind, StageError};
use bstar_stages::units::memory_of_machine;
use tch::Device;

use crate::error::Result;
use crate::worker::panic_error;

/// What the engine expects a step on a CPU to take, and enough for waves that are full.
const MOST_ON_CPU: usize = 1 << 30;
/// The part of the bytes for waves that the prompts of a step take beside them, kept for the next step.
pub(crate) const KEPT: usize = 4;
/// Where nobody says how much there is.
const UNKNOWN: usize = 1 << 30;

/// Bytes for the keys and values of a wave and for reading its prompts, a quarter as many beside which keep prompts for the
/// next step: `$BSTAR_SAMPLE_MEMORY`; or a quarter of what the system has
/// free, at most 1 GiB; or a third of what a GPU has. No result depends on it on a CPU; on a GPU shapes do,
/// so that it must be the same whatever else is in that memory.
///
/// # Errors
/// When the variable holds no size.
pub fn budget(device: Device) -> Result<usize> {
    let asked = SampleShard::memory_asked_for()
        .map_err(|message| StageError::invalid(message).hint("write `500MB` or `4GB`, or unset it"))?;
    if let Some(size) = asked {
        return Ok(usize::try_from(size).unwrap_or(usize::MAX));
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

thread_local! {
    /// How many attempts this thread is in.
    static ATTEMPTS: Cell<usize> = const { Cell::new(0) };
}

/// Whether an attempt makes an error of this panic.
fn is_handled(panic: &PanicHookInfo<'_>) -> bool {
    ATTEMPTS.get() > 0 && is_short(&panic_error(panic.payload()))
}

/// Lets those panics go unheard. The others go to the hook there was.
fn quiet_attempts() {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |panic| {
            if !is_handled(panic) {
                others(panic);
            }
        }));
    });
}

/// Does something; that memory was short, which libtorch's bindings panic with, becomes an error.
///
/// # Errors
/// Those of `act`, and that memory was short.
pub fn attempt<T>(act: impl FnOnce() -> Result<T>) -> Result<T> {
    quiet_attempts();
    ATTEMPTS.set(ATTEMPTS.get() + 1);
    let done = catch_unwind(AssertUnwindSafe(act));
    ATTEMPTS.set(ATTEMPTS.get() - 1);
    done.unwrap_or_else(|panic| {
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

    #[test]
    fn only_panics_that_are_no_errors_are_heard() {
        thread_local!(static HEARD: Cell<usize> = const { Cell::new(0) });
        let before = take_hook();
        set_hook(Box::new(|panic| HEARD.set(HEARD.get() + usize::from(!is_handled(panic)))));
        let short = || -> Result<()> {
            drop(tch::Tensor::zeros([1 << 60], (tch::Kind::Uint8, Device::Cpu)));
            Ok(())
        };
        let attempts = [
            attempt(|| attempt(short)).map_err(|error| is_short(&error)),
            catch_unwind(|| attempt(|| -> Result<()> { panic!("another") })).map_or(Err(false), |_| Ok(())),
            catch_unwind(short).map_or(Err(false), |_| Ok(())),
        ];
        set_hook(before);
        assert_eq!((attempts, HEARD.get()), ([Err(true), Err(false), Err(false)], 2));
    }
}
