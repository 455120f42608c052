//! Which objects of a backup no time needs any more that it can be restored to. Pure.

use std::collections::BTreeMap;

use raftproto::backup::{Index, Section};
use storage::cold::ColdKey;

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
            return true;
        };
        let is_beyond = (section.last_term, section.last) > (*term, *last);
        is_beyond || (section.is_base && *base_key == key)
    };
    let is_dead =
        |(key, index): &(&ColdKey, &Index)| !index.sections.iter().any(|s| is_needed(key, s));
    own().filter(is_dead).map(|(key, _)| key.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
