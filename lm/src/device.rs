//! What to compute on.

use std::path::{Path, PathBuf};

use bstar_stages::Device as Name;
use bstar_stages::protocol::StageError;
use serde_json::{Value, json};
use tch::{Cuda, Device, Kind, Tensor};

use crate::error::{Result, torch};

/// The part of libtorch that every process has.
const CPU_LIBRARY: &str = "libtorch_cpu.so";
/// The part that computes on NVIDIA devices, loaded only when asked for.
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

/// The device of that name.
///
/// # Errors
/// When there is no such device, or what it needs is not installed.
pub fn find(name: Name) -> Result<Device> {
    let Name::Cuda(index) = name else { return Ok(Device::Cpu) };
    let count = cuda_devices().map_err(|error| StageError {
        message: format!("cannot use the device `{name}`: {}", error.message),
        ..error
    })?;
    numbered(index, count)
}

/// The CUDA device with this number, of so many.
fn numbered(index: usize, count: usize) -> Result<Device> {
    if index < count {
        return Ok(Device::Cuda(index));
    }
    Err(StageError::invalid(format!(
        "there is no device `cuda:{index}`: the last one is `cuda:{}`",
        count - 1
    ))
    .hint("`nvidia-smi` lists them; CUDA_VISIBLE_DEVICES may hide some"))
}

/// The number of CUDA devices, which is not zero.
///
/// # Errors
/// When there are none: why.
fn cuda_devices() -> Result<usize> {
    let loaded = load_cuda();
    if loaded.is_ok()
        && let Some(count) = usize::try_from(Cuda::device_count()).ok().filter(|count| *count > 0)
    {
        return Ok(count);
    }
    hardware(Path::new("/dev"), std::env::var("CUDA_VISIBLE_DEVICES").ok().as_deref())?;
    loaded?;
    // Libtorch says why when it is asked for memory.
    let reason = match Tensor::f_zeros([1], (Kind::Float, Device::Cuda(0))) {
        Ok(_) => "libtorch counts no devices".to_owned(),
        Err(error) => torch(&error).message,
    };
    Err(StageError::invalid(reason).hint(
        "check the driver with `nvidia-smi`: this libtorch needs one for CUDA 13 (580 or newer); or use the \
         device `cpu`",
    ))
}

/// Whether there is a device for a driver to drive, as far as the system tells.
fn hardware(devices: &Path, visible: Option<&str>) -> Result<()> {
    if let Some(visible @ ("" | "-1" | "NoDevFiles")) = visible {
        return Err(StageError::invalid(format!("CUDA_VISIBLE_DEVICES is `{visible}`: it hides every GPU"))
            .hint("unset it, or use the device `cpu`"));
    }
    if ["nvidiactl", "dxg"].iter().any(|name| devices.join(name).exists()) {
        return Ok(());
    }
    Err(StageError::invalid("this machine shows no NVIDIA GPU (there is no /dev/nvidiactl)").hint(
        "load the NVIDIA driver, or give the container its GPUs (`docker run --gpus all`); or use the device \
         `cpu`",
    ))
}

/// Loads the CUDA part of libtorch, where it is not loaded yet. Must come before any question to libtorch about CUDA: the
/// first one settles for the life of the process whether there is such a part.
fn load_cuda() -> Result<()> {
    if loaded(CUDA_LIBRARY).is_some() {
        return Ok(());
    }
    let mut problems = Vec::new();
    let installed = candidates();
    for path in &installed {
        let flags = libloading::os::unix::RTLD_NOW | libloading::os::unix::RTLD_GLOBAL;
        #[expect(unsafe_code, reason = "loading a library runs its constructors, which register a backend")]
        let library = unsafe { libloading::os::unix::Library::open(Some(path), flags) };
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
    // The last candidate is only a name.
    let message = match (installed.len(), problems.first()) {
        (2.., Some(problem)) => format!("cannot load {CUDA_LIBRARY}: {problem}"),
        _ => format!("the CUDA part of libtorch ({CUDA_LIBRARY}) is not installed"),
    };
    Err(StageError::invalid(message).hint("`make setup-cuda` installs it; or use the device `cpu`"))
}

/// Where the CUDA part may be: beside the CPU part, in `cuda` there or one level up, or anywhere
/// the loader looks.
fn candidates() -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Some(folder) = loaded(CPU_LIBRARY).as_deref().and_then(Path::parent) {
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

/// The file of this name that this process has loaded.
fn loaded(library: &str) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let mut paths = maps.lines().filter_map(|line| Some(Path::new(&line[line.find('/')?..])));
    paths.find(|path| path.ends_with(library)).map(Path::to_owned)
}

/// What this machine can compute on, for people and programs.
#[must_use]
pub fn doctor() -> Value {
    let (devices, problem) = match cuda_devices() {
        Ok(count) => (count, None),
        Err(error) => (0, Some(error)),
    };
    let reason = problem.as_ref().map(|error| error.message.clone());
    let fix = problem.and_then(|error| error.hint);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "libtorch": LIBTORCH,
        "libtorch_path": loaded(CPU_LIBRARY),
        "cuda": {"available": reason.is_none(), "devices": devices, "reason": reason, "fix": fix},
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
    fn a_missing_gpu_is_explained() {
        let devices = tempfile::tempdir().unwrap();
        let message = |visible| hardware(devices.path(), visible).unwrap_err().message;
        assert!(message(None).contains("shows no NVIDIA GPU"));
        assert!(message(Some("")).contains("CUDA_VISIBLE_DEVICES"));
        std::fs::write(devices.path().join("nvidiactl"), "").unwrap();
        assert!(hardware(devices.path(), Some("0")).is_ok());
        if !Path::new("/dev/nvidiactl").exists() {
            let error = find(Name::Cuda(0)).unwrap_err();
            assert!(error.message.starts_with("cannot use the device `cuda:0`: "), "{error}");
            assert!(error.hint.unwrap().contains("`cpu`"));
        }
    }

    #[test]
    fn a_number_beyond_the_last_gpu_is_said() {
        assert_eq!(numbered(1, 2).unwrap(), Device::Cuda(1));
        let error = numbered(2, 2).unwrap_err();
        assert!(error.message.contains("no device `cuda:2`: the last one is `cuda:1`"), "{error}");
        assert!(error.hint.unwrap().contains("CUDA_VISIBLE_DEVICES"));
    }

    #[test]
    fn a_libtorch_without_its_cuda_part_names_the_command_that_installs_it() {
        if candidates().len() == 1 && loaded(CUDA_LIBRARY).is_none() {
            let error = load_cuda().unwrap_err();
            assert!(error.message.contains("(libtorch_cuda.so) is not installed"), "{error}");
            assert!(error.hint.unwrap().contains("make setup-cuda"));
        }
    }

    #[test]
    fn the_cpu_part_is_found() {
        single_thread();
        assert!(loaded(CPU_LIBRARY).unwrap().is_absolute());
        assert_eq!(doctor()["cpu"]["threads"], 1);
    }
}
