//! What to compute on.

use std::path::{Path, PathBuf};

use bstar_stages::protocol::StageError;
use serde_json::{Value, json};
use tch::{Cuda, Device};

use crate::error::Result;

/// The part of libtorch that computes on NVIDIA devices, loaded only when asked for.
const CUDA_LIBRARY: &str = "libtorch_cuda.so";

/// The version of libtorch this was built against.
pub const LIBTORCH: &str = match option_env!("BSTAR_LIBTORCH_VERSION") {
    Some(version) => version,
    None => "unknown",
};

/// Makes libtorch compute on one thread a call: only then are results independent of the machine's
/// load and number of cores. Must come before any other use of libtorch.
pub fn single_thread() {
    tch::set_num_threads(1);
    tch::set_num_interop_threads(1);
}

/// The device called `cpu` or `cuda:N`.
///
/// # Errors
/// When there is no such device, or what it needs is not installed.
pub fn find(name: &str) -> Result<Device> {
    if name == "cpu" {
        return Ok(Device::Cpu);
    }
    let index = name.strip_prefix("cuda:").and_then(|index| index.parse::<usize>().ok());
    let Some(index) = index else {
        return Err(StageError::invalid(format!("`{name}` is not a device")).hint("use `cpu` or `cuda:N`"));
    };
    load_cuda()?;
    let count = Cuda::device_count();
    if i64::try_from(index).is_ok_and(|index| index < count) {
        return Ok(Device::Cuda(index));
    }
    Err(StageError::invalid(format!("there is no device `{name}`: libtorch sees {count}"))
        .hint("check the driver with `nvidia-smi`, or use `cpu`"))
}

/// Loads the CUDA part of libtorch, once.
fn load_cuda() -> Result<()> {
    if Cuda::is_available() {
        return Ok(());
    }
    let mut problems = Vec::new();
    for path in candidates() {
        let flags = libloading::os::unix::RTLD_NOW | libloading::os::unix::RTLD_GLOBAL;
        #[expect(unsafe_code, reason = "loading a library runs its constructors, which register a backend")]
        let library = unsafe { libloading::os::unix::Library::open(Some(&path), flags) };
        match library {
            Ok(library) => {
                // The backend stays registered, so the library must stay loaded.
                std::mem::forget(library);
                return Ok(());
            }
            Err(error) => {
                let reason = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
                problems.push(reason);
            }
        }
    }
    Err(StageError::invalid(format!("cannot load {CUDA_LIBRARY}: {}", problems.join("; ")))
        .hint("`make setup-cuda` provides it; or use the device `cpu`"))
}

/// Where the CUDA part may be: beside the CPU part, in `cuda` there or one level up, or anywhere
/// the loader looks.
fn candidates() -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Some(folder) = cpu_library().as_deref().and_then(Path::parent) {
        for place in ["../cuda", "cuda", "."] {
            let path = folder.join(place).join(CUDA_LIBRARY);
            if path.exists() {
                found.push(path);
            }
        }
    }
    found.push(PathBuf::from(CUDA_LIBRARY));
    found
}

/// The file of the CPU part this process runs on.
fn cpu_library() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let path = &line[line.find('/')?..];
        path.ends_with("libtorch_cpu.so").then(|| PathBuf::from(path))
    })
}

/// What this machine can compute on, for people and programs.
#[must_use]
pub fn doctor() -> Value {
    let cuda = load_cuda().err();
    let reason = match &cuda {
        Some(error) => Some(error.message.clone()),
        None if Cuda::device_count() == 0 => Some("libtorch sees no CUDA device".to_owned()),
        None => None,
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "libtorch": LIBTORCH,
        "libtorch_path": cpu_library(),
        "cuda": {"available": reason.is_none(), "devices": Cuda::device_count(), "reason": reason},
        "cpu": {
            "cores": std::thread::available_parallelism().map_or(1, usize::from),
            "threads": tch::get_num_threads(),
            "mkl": tch::utils::has_mkl(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_found_by_name() {
        assert_eq!(find("cpu").unwrap(), Device::Cpu);
        for name in ["gpu", "cuda", "cuda:x", ""] {
            assert!(find(name).unwrap_err().message.contains("is not a device"));
        }
    }

    #[test]
    fn the_cpu_part_is_found() {
        single_thread();
        assert!(cpu_library().unwrap().ends_with("libtorch_cpu.so"));
        assert_eq!(doctor()["cpu"]["threads"], 1);
    }
}
