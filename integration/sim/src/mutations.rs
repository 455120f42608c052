//! Deliberate bugs, and within how many seeds the simulator must find each. They stand in the product's code, behind
//! `mutation::is_on`, which is the constant `false` but in a build with the feature `mutations`; no release build can have it.

#[macro_use]
mod sets;
mod cold;
mod list;

/// A deliberate bug.
pub struct Mutation {
    /// As in the code.
    pub name: &'static str,
    /// What it breaks.
    pub area: &'static str,
    /// It is found by one of the first so many seeds.
    pub within: u64,
    /// What its finding says: any of these. Other findings do not count.
    pub finds: &'static [&'static str],
    /// Changes of their plans, as `--set` has them: what is rare among all seeds is looked for where it is not.
    pub set: &'static str,
}

impl Mutation {
    /// That is what it looks like.
    pub fn is_shown_by(&self, finding: &str) -> bool {
        self.finds.iter().any(|says| finding.contains(says))
    }
}

type Finds = &'static [&'static str];

const fn bug(area: &'static str, name: &'static str, within: u64, finds: Finds) -> Mutation {
    aimed(area, name, within, finds, "")
}

const fn aimed(
    area: &'static str,
    name: &'static str,
    within: u64,
    finds: Finds,
    set: &'static str,
) -> Mutation {
    Mutation {
        name,
        area,
        within,
        finds,
        set,
    }
}

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Mutation> {
    list::MOST.iter().chain(cold::COLD)
}

/// The deliberate bug of that name.
pub fn named(name: &str) -> Option<&'static Mutation> {
    all().find(|m| m.name == name)
}

/// Whether this build has them.
pub const HAS_THEM: bool = cfg!(feature = "mutations");

/// Switches one on in this thread; empty: none.
pub fn switch_on(name: &'static str) {
    #[cfg(feature = "mutations")]
    ursula::mutation::switch_on(name);
    assert!(HAS_THEM || name.is_empty(), "built without mutations");
}
