//! Benchmarks come with the load generator; there is nothing to run yet.

fn main() {
    eprintln!("there are no benchmarks yet");
    std::process::exit(1);
}
