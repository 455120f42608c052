//! Which objects of a backup no time needs any more that it can be restored to. Pure.

use std::collections::BTreeMap;

use raftproto::backup::{Index, Section};
use storage::cold::ColdKey;

use crate::mutation;

/// Where a base stands among those of its group.
type Place<'a> = (u64, u64, u64, &'a ColdKey);

fn place<'a>(key: &'a ColdKey, index: &Index, section: &Section) -> Place<'a> {
    (section.last_term, section.last, index.shipped_ms, key)
}

/// Of objects that are all old enough, those of which nothing is needed: for every group in them, another one of these has a
/// base that reaches as far as anything in them. Later times begin with that base or a later one (`chain.rs`).
/// Those of another history than this one are nobody's to delete.
pub fn collectable(objects: &BTreeMap<ColdKey, Index>, history: u64) -> Vec<ColdKey> {
    let own = || objects.iter().filter(|(_, i)| i.history == history);
    let mut bases: BTreeMap<u32, Place> = BTreeMap::new();
    for (key, index) in own() {
        for section in index.sections.iter().filter(|s| s.is_base) {
            let own = place(key, index, section);
            let newest = bases.entry(section.group).or_insert(own);
            *newest = own.max(*newest);
        }
    }
    let is_needed = |key: &ColdKey, section: &Section| {
        let Some((term, last, _, base_key)) = bases.get(&section.group) else {
            // Another one may be there that is not among these.
            return !mutation::is_on("unlisted-base-taken-for-none");
        };
        let is_beyond = (section.last_term, section.last) > (*term, *last);
        let is_kept = *base_key == key || mutation::is_on("old-bases-kept");
        is_beyond || (section.is_base && is_kept)
    };
    let is_dead =
        |(key, index): &(&ColdKey, &Index)| !index.sections.iter().any(|s| is_needed(key, s));
    own().filter(is_dead).map(|(key, _)| key.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::chain::{self, Chains};

    /// Group, whether it is a base, term and index of its end.
    type Part = (u32, bool, u64, u64);

    fn collected(objects: &[(&str, &[Part])]) -> Vec<String> {
        let objects = objects
            .iter()
            .enumerate()
            .map(|(number, (name, sections))| {
                let section = |(group, is_base, last_term, last): &Part| Section {
                    group: *group,
                    is_base: *is_base,
                    last_term: *last_term,
                    last: *last,
                    ..Section::default()
                };
                let index = Index {
                    shipped_ms: number as u64,
                    sections: sections.iter().map(section).collect(),
                    ..Index::default()
                };
                (ColdKey::new(*name).unwrap(), index)
            });
        let dead = collectable(&objects.collect(), 0);
        dead.iter().map(|key| key.as_str().to_owned()).collect()
    }

    #[test]
    fn what_a_later_base_covers_goes_unless_another_group_needs_its_object() {
        let all: [(&str, &[Part]); 6] = [
            ("a", &[(1, true, 1, 10), (2, true, 1, 5)]),
            ("b", &[(1, false, 1, 20)]),
            ("c", &[(1, false, 1, 30)]),
            ("d", &[(1, true, 1, 25)]),
            // Another leadership; the one before ships late.
            ("e", &[(1, true, 2, 31)]),
            ("f", &[(1, false, 1, 28)]),
        ];
        // Group 2 has no other base.
        assert_eq!(collected(&all), ["b", "c", "d", "f"]);
        assert_eq!(collected(&all[..4]), ["b"]);
        assert_eq!(collected(&all[1..3]), [""; 0]);
        // The same state once more, so that the object with the first can go.
        let again: [(&str, &[Part]); 2] = [("a", &[(1, true, 1, 10)]), ("b", &[(1, true, 1, 10)])];
        assert_eq!(collected(&again), ["a"]);
    }

    #[test]
    fn another_history_neither_goes_nor_lets_go() {
        let of = |history, last_term| Index {
            history,
            sections: vec![Section {
                is_base: true,
                last_term,
                last: 1,
                ..Section::default()
            }],
            ..Index::default()
        };
        let key = |name: &str| ColdKey::new(name).unwrap();
        let objects = [
            (key("a"), of(1, 5)),
            (key("b"), of(2, 9)),
            (key("c"), of(2, 10)),
        ];
        let objects = BTreeMap::from(objects);
        assert_eq!(collectable(&objects, 2), [key("b")]);
        assert_eq!(collectable(&objects, 1), []);
    }

    /// A shipped object with its index.
    type Shipped = (ColdKey, Index);

    /// What leaders of one log ship, each from a base of its own on, now and then with another base. Times are positions in the list.
    fn shipped(draw: &mut impl FnMut(u64) -> u64) -> Vec<Shipped> {
        let (mut all, mut last) = (Vec::new(), draw(5));
        for term in 1..=1 + draw(4) {
            let (mut is_base, mut first) = (true, last);
            for _ in 0..=draw(6) {
                last += draw(4);
                let ms = all.len() as u64;
                let section = Section {
                    group: 1,
                    chain: term,
                    is_base,
                    first: if is_base { last } else { first },
                    last,
                    last_term: term,
                    first_ms: ms,
                    last_ms: ms,
                    ..Section::default()
                };
                let index = Index {
                    shipped_ms: ms,
                    sections: vec![section],
                    ..Index::default()
                };
                let key = ColdKey::new(format!("c/dr/{ms:014}")).unwrap();
                all.push((key, index));
                first = last + 1;
                is_base = draw(4) == 0;
            }
        }
        all
    }

    fn reach<'a>(objects: impl Iterator<Item = &'a Shipped>, at_ms: u64) -> Option<(u64, u64)> {
        let mut chains = Chains::default();
        for (key, index) in objects {
            for section in &index.sections {
                chains.add(chain::Part {
                    key: key.clone(),
                    shipped_ms: index.shipped_ms,
                    section: *section,
                });
            }
        }
        chains.plan(at_ms).map(|plan| plan.reach())
    }

    #[test]
    fn a_list_that_lacks_objects_or_has_deleted_ones_loses_no_time_that_is_kept() {
        let mut state = 1u64;
        let mut draw = |end: u64| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (state >> 33) % end
        };
        let mut deleted = 0;
        for _ in 0..20_000 {
            let all = shipped(&mut draw);
            let kept_from_ms = draw(all.len() as u64 + 1);
            let mut there: BTreeMap<ColdKey, Index> = all.iter().cloned().collect();
            for _ in 0..2 {
                // The list has some of the old ones; of those that are gone by now no index is read.
                let listed = all.iter().filter(|(_, i)| i.shipped_ms < kept_from_ms);
                let listed = listed.filter(|_| draw(3) > 0);
                let listed = listed.filter(|(key, _)| there.contains_key(key)).cloned();
                for key in collectable(&listed.collect(), 0) {
                    there.remove(&key);
                    deleted += 1;
                }
            }
            let left = || all.iter().filter(|(key, _)| there.contains_key(key));
            for at_ms in kept_from_ms..=all.len() as u64 {
                let (before, after) = (reach(all.iter(), at_ms), reach(left(), at_ms));
                assert_eq!(
                    before, after,
                    "at {at_ms}, kept from {kept_from_ms}: {all:?}"
                );
            }
        }
        assert!(deleted > 10_000, "{deleted} were deleted");
    }
}
