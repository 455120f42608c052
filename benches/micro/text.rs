//! Text in and out: JSON bodies to messages, updates to events.

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use std::hint::black_box;
use ursula::http::sse_text::{Control, Representation, data};
use ursula::protocol::{Offset, json};

/// An array of small messages as a client posts it.
pub fn json(c: &mut Criterion) {
    let messages: Vec<String> = (0..100)
        .map(|n| format!("{{\"n\":{n},\"text\":\"a line of a chat, with \\\"quotes\\\"\"}}"))
        .collect();
    let body = format!("[{}]", messages.join(","));
    let mut group = c.benchmark_group("json_flattening");
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("100_messages", |b| {
        b.iter(|| json::frame(black_box(body.as_bytes()), false));
    });
    let one = messages[0].as_bytes();
    group.throughput(Throughput::Bytes(one.len() as u64));
    group.bench_function("one_message", |b| {
        b.iter(|| json::frame(black_box(one), false));
    });
    group.finish();
}

/// One update of 256 bytes as each representation shows it.
pub fn sse(c: &mut Criterion) {
    let control = Control {
        next: Offset(4096),
        cursor: 1_234_567,
        up_to_date: true,
        closed: false,
    };
    let text = [Bytes::from(vec![b'x'; 256])];
    let mut group = c.benchmark_group("sse_rendering_256_bytes");
    for (name, representation) in [
        ("text", Representation::Text),
        ("json", Representation::Json),
        ("base64", Representation::Binary),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| data(representation, black_box(&text), &control));
        });
    }
    group.finish();
}
