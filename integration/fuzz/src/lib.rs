//! What a fuzzer calls: any bytes, given to the code that reads what clients and disks hand in. Beside not crashing,
//! each reader has to keep what it promises, which is checked here.

mod files;
mod requests;

pub use files::files;
pub use requests::requests;
