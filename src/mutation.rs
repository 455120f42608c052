//! Deliberate bugs that the simulator must find; in every other build [`is_on`] is the constant `false`.

#[cfg(feature = "mutations")]
pub use storage::mutation::switch_on;

pub use storage::mutation::is_on;
