//! Compiles `proto/*.proto` with protox, a protobuf compiler in Rust: no system `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = [
        "proto/command.proto",
        "proto/checkpoint.proto",
        "proto/peer.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])?;
    prost_build::Config::new()
        .bytes(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
