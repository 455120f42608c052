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
    // A run of its own, since the commands that it imports are generated already: it only names them.
    let descriptors = protox::compile(["proto/wire.proto"], ["proto"])?;
    prost_build::Config::new()
        .bytes(["."])
        .extern_path(".ursula.command.v1", "crate::command")
        .compile_fds(descriptors)?;
    Ok(())
}
