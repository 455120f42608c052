//! Compiles `proto/*.proto` with protox, a protobuf compiler in Rust: no system `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut config = prost_build::Config::new();
    config.bytes(["."]);
    config.compile_fds(protox::compile(["proto/command.proto"], ["proto"])?)?;
    // What imports messages takes their types, not copies.
    config.extern_path(".ursula.command.v1", "crate::command");
    config.compile_fds(protox::compile(["proto/checkpoint.proto"], ["proto"])?)?;
    config.extern_path(".ursula.checkpoint.v1", "crate::checkpoint");
    config.compile_fds(protox::compile(["proto/backup.proto"], ["proto"])?)?;
    let sent = ["proto/peer.proto", "proto/wire.proto"];
    config.compile_fds(protox::compile(sent, ["proto"])?)?;
    Ok(())
}
