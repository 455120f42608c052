//! The peer service, as a gRPC client that is not ours sees it.

use std::path::Path;
use std::process::Command;

use integration::cluster::Cluster;
use integration::repository;
use integration::skip;

use crate::{beside_others, nodes};

#[test]
fn a_stock_grpc_client_asks_and_is_refused_in_words() {
    let _beside = beside_others();
    if nodes() == 1 {
        return skip("one node has no peer service");
    }
    let venv = repository().join("target/grpc-python");
    let python = venv.join("bin/python");
    if !venv.join("installed").exists() {
        let made = Command::new("python3")
            .args(["-m", "venv"])
            .arg(&venv)
            .status()
            .expect("python3 is installed");
        assert!(made.success(), "python3 -m venv failed");
        let installed = Command::new(&python)
            .args(["-m", "pip", "install", "-q", "grpcio"])
            .status()
            .expect("pip runs");
        assert!(installed.success(), "pip could not install grpcio");
        std::fs::write(venv.join("installed"), "").expect("the target directory is writable");
    }
    let mut cluster = Cluster::start(nodes(), &[]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/peer_status.py");
    for node in cluster.ids() {
        let output = Command::new(&python)
            .arg(&script)
            .arg(cluster.cluster_address(node))
            .output()
            .expect("python runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("all good"),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(text.contains(&format!("node {node} of cluster test")));
    }
    cluster.expect_all_alive();
    crate::formation::works(&cluster, "undisturbed");
}
