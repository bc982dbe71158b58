//! Lets the worker find libtorch without LD_LIBRARY_PATH: in the tree and when installed.

fn main() {
    if let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
        println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib/bstar");
    }
}
