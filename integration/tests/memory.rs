//! A node holds many times what its memory does. `URSULA_TEST_COLD_GB=20` writes and reads back so much with the default
//! settings and `--hot-bytes-max` of 256 MiB for the node; below `target/scratch` there must be room for about as much.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use integration::random::Random;
use integration::{Client, Server, metric, scratch_dir};

const BYTES: &str = "application/octet-stream";
const STREAMS: u64 = 64;
const CLIENTS: u64 = 8;

/// Longest wait for one append to be taken: the disk is slower than the clients.
const PATIENCE: Duration = Duration::from_secs(60);

/// What streams hold: text of letters that carry four bits each, so that objects are half as long, and each
/// append begins with its stream and number.
struct Text {
    letters: Vec<u8>,
}

impl Text {
    fn new() -> Text {
        const LETTERS: &[u8; 16] = b"abcdefghijklmnop";
        let mut random = Random::new(1);
        let letters = (0..4 << 20).map(|_| LETTERS[(random.draw() & 15) as usize]);
        Text {
            letters: letters.collect(),
        }
    }

    /// Bytes of each append to a stream: from 4 KiB to 484 KiB.
    fn append_bytes(stream: u64) -> u64 {
        (stream % 16 * 32 + 4) << 10
    }

    fn append(&self, stream: u64, number: u64) -> Vec<u8> {
        let length = Text::append_bytes(stream) as usize;
        let mut body = format!("{stream:08}.{number:08}").into_bytes();
        let shift = (number * 7919 + stream * 104_729) as usize % (self.letters.len() - length);
        let rest = length - body.len();
        body.extend_from_slice(&self.letters[shift..shift + rest]);
        body
    }

    /// Whether `found` is what a stream has from `position` on.
    fn is_at(&self, stream: u64, position: u64, found: &[u8]) -> bool {
        let length = Text::append_bytes(stream);
        let (mut number, mut skipped) = (position / length, (position % length) as usize);
        let mut rest = found;
        while !rest.is_empty() {
            let append = self.append(stream, number);
            let count = rest.len().min(append.len() - skipped);
            if rest[..count] != append[skipped..skipped + count] {
                return false;
            }
            rest = &rest[count..];
            (number, skipped) = (number + 1, 0);
        }
        true
    }
}

fn path_of(stream: u64) -> String {
    format!("/v1/stream/memory/{stream}")
}

/// Appends to the streams of one client in turn, until each has `each` bytes.
fn write(client: &mut Client, text: &Text, streams: &[u64], each: u64, written: &AtomicU64) {
    for stream in streams {
        assert_eq!(client.create(&path_of(*stream), BYTES).status, 201);
    }
    for number in 0.. {
        let mut is_over = true;
        for stream in streams {
            if number * Text::append_bytes(*stream) >= each {
                continue;
            }
            is_over = false;
            let body = text.append(*stream, number);
            let deadline = Instant::now() + PATIENCE;
            loop {
                let reply = client.append(&path_of(*stream), BYTES, &body);
                if reply.status == 204 {
                    break;
                }
                // At the bound of memory a client is told to come back; nothing was taken.
                let is_later = reply.status == 503 && Instant::now() < deadline;
                assert!(is_later, "{}: {}", reply.status, reply.text());
                std::thread::sleep(Duration::from_millis(20));
            }
            written.fetch_add(body.len() as u64, Ordering::Relaxed);
        }
        if is_over {
            return;
        }
    }
}

/// Reads a stream to its end; its bytes.
fn read(client: &mut Client, text: &Text, stream: u64) -> u64 {
    let path = path_of(stream);
    let (mut offset, mut position) = ("-1".to_owned(), 0);
    loop {
        let reply = client.get(&format!("{path}?offset={offset}"));
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        let is_right = text.is_at(stream, position, &reply.body);
        assert!(is_right, "{path} is another from {position} on");
        position += reply.body.len() as u64;
        offset = reply.next();
        if reply.header("stream-up-to-date") == "true" {
            return position;
        }
    }
}

/// Runs `work` for each client at once, and answers the most resident memory that was seen meanwhile.
fn watched(server: &Server, work: impl Fn(u64) + Sync) -> u64 {
    let is_over = AtomicBool::new(false);
    let (is_over, work) = (&is_over, &work);
    std::thread::scope(|scope| {
        let seen = scope.spawn(move || {
            let mut seen = 0;
            while !is_over.load(Ordering::Relaxed) {
                seen = server.resident_bytes().max(seen);
                std::thread::sleep(Duration::from_millis(10));
            }
            seen
        });
        let clients: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || work(n))).collect();
        let ended: Vec<_> = clients.into_iter().map(|c| c.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok), "{}", server.log());
        seen.join().expect("it only looks")
    })
}

/// For how much is written: the settings, and the most memory that the node may take.
fn settings(gigabytes: Option<u64>, dir: &Path) -> (Vec<String>, u64, u64) {
    let mut settings = vec![
        ("--wal-dir", dir.join("node").to_str().unwrap().to_owned()),
        ("--cold", dir.join("cold").to_str().unwrap().to_owned()),
        ("--core-count", "2".to_owned()),
    ];
    let (bytes, resident_max) = match gigabytes {
        Some(gigabytes) => {
            settings.push(("--hot-bytes-max", "128MiB".to_owned()));
            (gigabytes * 1_000_000_000, 1 << 30)
        }
        None => {
            // A thirty-second of hot bytes and of the other bounds. What does not shrink with them is most of what is resident
            // then: 45 MiB before any data, and some 100 to 150 that the allocator keeps for executors and blocking threads
            // which build, compress and read packs. The rest is the bound's use: it stays where more than all that is written.
            for (flag, value) in [
                ("--hot-bytes-max", "4MiB"),
                ("--cold-cache-bytes", "2MiB"),
                ("--cold-pack-bytes", "1MiB"),
                ("--checkpoint-bytes", "2MiB"),
                ("--wal-segment-bytes", "2MiB"),
                ("--cold-flush-age-ms", "2s"),
            ] {
                settings.push((flag, value.to_owned()));
            }
            (450_000_000, 256 << 20)
        }
    };
    let settings = settings.into_iter();
    let settings = settings.flat_map(|(flag, value)| [flag.to_owned(), value]);
    (settings.collect(), bytes, resident_max)
}

#[test]
fn many_times_the_memory_is_written_and_read_back_right_within_its_bound() {
    let gigabytes = std::env::var("URSULA_TEST_COLD_GB").ok();
    let gigabytes = gigabytes.map(|text| text.parse().expect("URSULA_TEST_COLD_GB is a number"));
    let dir = scratch_dir();
    let (settings, bytes, resident_max) = settings(gigabytes, dir.path());
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let text = Text::new();
    let (written, read_back) = (AtomicU64::new(0), AtomicU64::new(0));
    let streams_of = |client: u64| -> Vec<u64> {
        let all = 0..STREAMS;
        all.filter(|s| s % CLIENTS == client).collect()
    };
    let server = Server::start(&settings);
    let began = Instant::now();
    let writing = watched(&server, |number| {
        let mut client = server.client();
        let own = streams_of(number);
        write(&mut client, &text, &own, bytes / STREAMS, &written);
    });
    let wrote = began.elapsed();
    let read_all = |server: &Server, step: usize| {
        read_back.store(0, Ordering::Relaxed);
        watched(server, |number| {
            let mut client = server.client();
            for stream in streams_of(number).into_iter().step_by(step) {
                let bytes = read(&mut client, &text, stream);
                read_back.fetch_add(bytes, Ordering::Relaxed);
            }
        })
    };
    let began = Instant::now();
    let reading = read_all(&server, 1);
    let all = written.into_inner();
    assert_eq!(read_back.load(Ordering::Relaxed), all);
    assert!(all >= bytes);
    let mib = |bytes: u64| bytes >> 20;
    println!(
        "{all} bytes: {} MiB resident at most while they were written ({wrote:.0?}), {} MiB while they were read ({:.0?})",
        mib(writing),
        mib(reading),
        began.elapsed()
    );
    assert_eq!(
        metric(&mut server.client(), "ursula_cold_read_failures_total"),
        0
    );
    assert!(server.stop().success());
    // A start takes no more either.
    let server = Server::start(&settings);
    let again = read_all(&server, 4);
    println!("{} MiB after a restart", mib(again));
    let most = writing.max(reading).max(again);
    assert!(
        most <= resident_max,
        "{} MiB of {}",
        mib(most),
        mib(resident_max)
    );
    assert!(server.stop().success());
}
