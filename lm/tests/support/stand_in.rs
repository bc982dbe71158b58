//! A GPU for tests: one that this machine has, or what stands in for it (`lm/tests/stand_in/cuda.cpp`).

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use bstar_cache::Digest;

use super::skipped::skipped;

/// The part of libtorch that is stood in for.
const CUDA_LIBRARY: &str = "libtorch_cuda.so";

/// The folder of a library for processes that are to compute on `cuda:0`, for their `LD_LIBRARY_PATH`; compiled once. Where
/// libtorch's own CUDA part is installed, which they load instead, they need a GPU; without one the test is skipped.
pub(crate) fn gpu_library() -> Option<PathBuf> {
    let libtorch = PathBuf::from(std::env::var_os("LIBTORCH").expect("cargo sets LIBTORCH"));
    if ["cuda", "lib"].iter().any(|folder| libtorch.join(folder).join(CUDA_LIBRARY).exists()) {
        let has_gpu = ["/dev/nvidiactl", "/dev/dxg"].iter().any(|path| Path::new(path).exists());
        if !has_gpu {
            skipped("libtorch's CUDA part is installed, but this machine has no GPU");
        }
        return has_gpu.then(|| libtorch.join("cuda"));
    }
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let source = above.map(|folder| folder.join("lm/tests/stand_in/cuda.cpp")).find(|path| path.exists());
    let source = source.expect("the source of the stand-in");
    let version = std::fs::read(libtorch.join("build-version")).unwrap_or_default();
    let identity = [std::fs::read(&source).expect("the source of the stand-in"), version].concat();
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("stand-in-{}", Digest::of(&identity).short()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let lock = File::create(folder.join("lock")).expect("a lock file");
    lock.lock().expect("a lock");
    let library = folder.join(CUDA_LIBRARY);
    if !library.exists() {
        let partial = folder.join("partial");
        let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
        let (include, lib) = (libtorch.join("include"), libtorch.join("lib"));
        let status = Command::new(compiler)
            .args(["-std=c++17", "-O1", "-fPIC", "-shared", "-ltorch_cpu", "-lc10"])
            .args(["-Wl,--no-as-needed", &format!("-Wl,-soname,{CUDA_LIBRARY},-rpath,{}", lib.display())])
            .arg("-isystem")
            .arg(&include)
            .arg("-isystem")
            .arg(include.join("torch/csrc/api/include"))
            .arg("-L")
            .arg(lib)
            .arg("-o")
            .args([&partial, &source])
            .status();
        assert!(status.expect("a C++ compiler").success());
        std::fs::rename(partial, library).expect("a library");
    }
    Some(folder)
}
