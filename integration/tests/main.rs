//! One binary: the server as its users meet it.

mod commands;
mod conformance;
mod faults;
mod hostile;
mod http;
mod kills;
mod limits;
mod live;
mod protocol;
mod restart;
mod sagas;
mod scrub;
mod tidy;
