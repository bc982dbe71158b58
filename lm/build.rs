//! Lets the worker find libtorch without LD_LIBRARY_PATH: in the tree and when installed.

use std::path::Path;

fn main() {
    if let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
        println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib/bstar");
        let version = std::fs::read_to_string(Path::new(&lib).join("../build-version")).unwrap_or_default();
        let version = if version.trim().is_empty() { "unknown" } else { version.trim() };
        println!("cargo:rustc-env=BSTAR_LIBTORCH_VERSION={version}");
    }
}
