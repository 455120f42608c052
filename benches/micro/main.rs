//! Micro benchmarks of the paths that each request takes. `cargo bench -p benches`.

mod disk;
mod group;
mod hop;
mod http;
mod text;

use criterion::{Criterion, criterion_group, criterion_main};

/// Times and counts that a noisy machine of two cores can keep.
fn settings() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(std::time::Duration::from_millis(500))
        .measurement_time(std::time::Duration::from_secs(2))
}

criterion_group! {
    name = micro;
    config = settings();
    targets = text::json, text::sse, group::apply, http::parse_to_reply, disk::append_and_sync, disk::recovery,
        hop::between_cores
}
criterion_main!(micro);
