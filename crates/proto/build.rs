//! Compiles proto/ with protox, so that a build needs no protoc.

use std::{env, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let public = [
        "mi/v1/access.proto",
        "mi/v1/access_service.proto",
        "mi/v1/activity_service.proto",
        "mi/v1/agent_service.proto",
        "mi/v1/log_service.proto",
        "mi/v1/office_service.proto",
    ];
    let out = PathBuf::from(env::var("OUT_DIR")?);

    // Two sets: what reflection shows to strangers, and everything. Encoded by protox itself, because prost_types drops
    // the method options that carry the access rules.
    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(public)?;
    fs::write(out.join("public.bin"), compiler.encode_file_descriptor_set())?;
    compiler.open_file("mi/internal/v1/internal.proto")?;
    fs::write(out.join("all.bin"), compiler.encode_file_descriptor_set())?;

    tonic_prost_build::configure().bytes(".").compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
