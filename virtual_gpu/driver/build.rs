//! Names the library inside itself `libcuda.so`: once it is loaded by its path, a search for that name finds it, before
//! any other on the path.

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libcuda.so");
    println!("cargo:rerun-if-changed=build.rs");
}
