//! One binary: the server as its users meet it.

mod cold;
mod commands;
mod conformance;
mod console;
mod doctor;
mod faults;
mod full_disk;
mod hostile;
mod http;
mod kills;
mod limits;
mod live;
mod logs;
mod memory;
mod ops;
mod protocol;
mod restart;
mod retention;
mod sagas;
mod scrub;
mod service;
mod shells;
mod tidy;
