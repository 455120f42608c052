//! Deliberate bugs that the simulator must find (`integration/sim/src/mutations` lists them). Without the feature
//! `mutations`, [`is_on`] is the constant `false`.

#[cfg(all(feature = "mutations", not(debug_assertions)))]
compile_error!(
    "deliberate bugs are for the simulator: no release build may have the feature `mutations`"
);

#[cfg(feature = "mutations")]
thread_local! {
    static ON: std::cell::Cell<&'static str> = const { std::cell::Cell::new("") };
}

/// Switches one deliberate bug on in this thread, and all others off; an empty name: none.
#[cfg(feature = "mutations")]
pub fn switch_on(name: &'static str) {
    ON.set(name);
}

/// This deliberate bug is switched on.
#[cfg(feature = "mutations")]
pub fn is_on(name: &str) -> bool {
    let on = ON.get();
    // Nearly always none is: this is asked in the middle of everything.
    !on.is_empty() && on == name
}

/// Never, in this build.
#[cfg(not(feature = "mutations"))]
pub const fn is_on(_name: &str) -> bool {
    false
}
