//! Compiles `proto/*.proto` with protox, a protobuf compiler in Rust: no system `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut config = prost_build::Config::new();
    config.bytes(["."]);
    let base = ["proto/command.proto", "proto/checkpoint.proto"];
    config.compile_fds(protox::compile(base, ["proto"])?)?;
    // What imports messages of those two takes their types, not copies.
    config.extern_path(".ursula.command.v1", "crate::command");
    config.extern_path(".ursula.checkpoint.v1", "crate::checkpoint");
    let sent = ["proto/peer.proto", "proto/wire.proto"];
    config.compile_fds(protox::compile(sent, ["proto"])?)?;
    Ok(())
}
