//! What a fuzzer calls: any bytes, given to the code that reads what clients, other nodes and disks hand in. Beside not
//! crashing, each reader has to keep what it promises, which is checked here. A target has the name of its module.

mod answers;
mod backup;
mod config;
mod connection;
mod edits;
mod frames;
mod head;
mod http;
mod json;
mod manifest;
mod pack;
mod raft;
mod stub;
mod tables;
mod wal;
mod wire;

pub use backup::backup;
pub use config::config;
pub use connection::connection;
pub use frames::frames;
pub use head::head;
pub use http::http;
pub use json::json;
pub use manifest::manifest;
pub use pack::pack;
pub use raft::raft;
pub use stub::Stub;
pub use tables::tables;
pub use wal::wal;
pub use wire::wire;

#[cfg(test)]
mod tests {
    type Target = (&'static str, fn(&[u8]));

    /// The corpus is also what fuzzing begins with.
    #[test]
    fn each_target_reads_its_corpus() {
        let targets: &[Target] = &[
            ("http", super::http),
            ("json", super::json),
            ("wal", super::wal),
            ("tables", super::tables),
            ("pack", super::pack),
            ("manifest", super::manifest),
            ("frames", super::frames),
            ("wire", super::wire),
            ("raft", super::raft),
            ("config", super::config),
            ("backup", super::backup),
            ("head", super::head),
            ("connection", super::connection),
        ];
        for (name, read) in targets {
            let corpus = format!("{}/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
            let mut count = 0;
            for file in std::fs::read_dir(&corpus).unwrap() {
                read(&std::fs::read(file.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count > 0, "{name} has no corpus");
            read(b"");
        }
    }
}
