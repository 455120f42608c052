//! What a fuzzer calls: any bytes, given to the code that reads what clients and disks hand in. Beside not crashing,
//! each reader has to keep what it promises, which is checked here.

mod files;
mod messages;
mod requests;

pub use files::files;
pub use messages::messages;
pub use requests::requests;
