//! How much work each group is, and which group should be led elsewhere for it. Every replica applies the same commands, so all
//! nodes see the same loads without asking each other, and who leads what is known to all: each leader decides by itself. Two that
//! decide at one moment may choose the same receiver; the next look sees that.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// A difference that nobody moves a group for, in bytes a second.
const SLACK: u64 = 128 << 10;

/// How many looks the average goes over; one look is a second.
const LOOKS: u64 = 8;

/// What the cores of a node know of each other: the work of all groups, in bytes a second, each written by its core alone; and
/// how many of them find no room on the disk that they share.
#[derive(Debug, Default)]
pub struct Loads {
    groups: Box<[AtomicU64]>,
    full_cores: AtomicU64,
}

impl Loads {
    /// For groups 0 to `groups`.
    pub fn new(groups: u32) -> Loads {
        Loads {
            groups: (0..=groups).map(|_| AtomicU64::new(0)).collect(),
            full_cores: AtomicU64::new(0),
        }
    }

    /// A core finds no room any more, or some again.
    pub fn core_is_full(&self, is_full: bool) {
        if is_full {
            self.full_cores.fetch_add(1, Ordering::Relaxed);
        } else {
            self.full_cores.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Some core finds no room.
    pub fn is_full(&self) -> bool {
        self.full_cores.load(Ordering::Relaxed) > 0
    }

    /// A group's work now.
    pub fn get(&self, group: u32) -> u64 {
        let load = self.groups.get(group as usize);
        load.map_or(0, |load| load.load(Ordering::Relaxed))
    }

    /// Takes in what a group did in the last second.
    pub fn note(&self, group: u32, bytes: u64) {
        if let Some(load) = self.groups.get(group as usize) {
            let before = load.load(Ordering::Relaxed);
            load.store(before - before / LOOKS + bytes / LOOKS, Ordering::Relaxed);
        }
    }
}

/// What the nodes' leadership costs them, in bytes a second.
#[derive(Debug, Default)]
pub struct NodeLoads(BTreeMap<u64, u64>);

impl NodeLoads {
    /// By the node that leads each group, 0: nobody.
    pub fn new(leaders: &[u64], loads: &Loads) -> NodeLoads {
        let mut nodes = BTreeMap::new();
        for (group, node) in leaders.iter().enumerate().filter(|(_, node)| **node != 0) {
            *nodes.entry(*node).or_default() += loads.get(group as u32);
        }
        NodeLoads(nodes)
    }

    fn of(&self, node: u64) -> u64 {
        self.0.get(&node).copied().unwrap_or(0)
    }

    /// Whether a group of this load may go to a node that is preferred for other reasons.
    pub fn allows(&self, from: u64, to: u64, load: u64) -> bool {
        self.of(to) + load <= self.of(from).saturating_sub(load) + SLACK
    }

    /// What the busier of the two has once a group of this load has moved, if it is worth moving: that must be clearly less
    /// than what the giver has now, so that no move is ever taken back while loads stay as they are.
    fn busier_after(&self, from: u64, to: u64, load: u64) -> Option<u64> {
        let before = self.of(from);
        let receiver = self.of(to) + load;
        let helps = load > SLACK && receiver + SLACK + before / 10 < before;
        helps.then(|| receiver.max(before.saturating_sub(load)))
    }

    /// The group that should go, and to which of the nodes that could lead it: what leaves the busier of both with least.
    pub fn relief(&self, from: u64, groups: &[(u32, u64, Vec<u64>)]) -> Option<(u32, u64)> {
        let options = groups.iter().filter_map(|(group, load, able)| {
            let to = able.iter().copied().min_by_key(|node| self.of(*node))?;
            let busier = self.busier_after(from, to, *load)?;
            Some((busier, *group, to))
        });
        options.min().map(|(_, group, to)| (group, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    fn loads(of: &[u64]) -> Loads {
        let loads = Loads::new(of.len() as u32 - 1);
        for (group, load) in of.iter().enumerate() {
            for _ in 0..200 {
                loads.note(group as u32, load * KIB);
            }
        }
        loads
    }

    /// Moves until nothing helps; where each group is then led, and the moves.
    fn settle(mut leaders: Vec<u64>, loads: &Loads) -> (Vec<u64>, usize) {
        for moves in 0..100 {
            let nodes = NodeLoads::new(&leaders, loads);
            let step = (1..=3).find_map(|node| {
                let led = (0..leaders.len()).filter(|g| leaders[*g] == node);
                let able = (1..=3).filter(|n| *n != node).collect::<Vec<_>>();
                let groups: Vec<_> = led
                    .map(|g| (g as u32, loads.get(g as u32), able.clone()))
                    .collect();
                nodes.relief(node, &groups)
            });
            match step {
                Some((group, to)) => leaders[group as usize] = to,
                None => return (leaders, moves),
            }
        }
        panic!("it does not end: {leaders:?}");
    }

    #[test]
    fn an_average_follows_what_is_done() {
        let loads = loads(&[0, 1000]);
        assert_eq!(loads.get(0), 0);
        assert!((990 * KIB..=1000 * KIB).contains(&loads.get(1)));
        (0..8).for_each(|_| loads.note(1, 0));
        assert!(loads.get(1) < 400 * KIB);
    }

    #[test]
    fn busy_groups_spread_and_then_stay() {
        let loads = loads(&[0, 4000, 4000, 4000, 900, 0, 0]);
        let (leaders, moves) = settle(vec![1, 1, 1, 1, 2, 2, 3], &loads);
        let led = |node: u64| {
            let groups = (0..leaders.len()).filter(|g| leaders[*g] == node);
            groups.map(|g| loads.get(g as u32)).sum::<u64>()
        };
        assert!((1..=3).all(|n| led(n) < 5000 * KIB), "{leaders:?}");
        assert!(moves <= 3, "{moves}");
    }

    #[test]
    fn one_busy_group_is_not_sent_around() {
        let loads = loads(&[0, 9000, 10, 10]);
        assert_eq!(settle(vec![1, 1, 2, 3], &loads).1, 0);
    }

    #[test]
    fn preference_does_not_undo_what_load_did() {
        let loads = loads(&[0, 4000, 4000, 4000, 900, 0, 0]);
        let (leaders, _) = settle(vec![1, 1, 1, 1, 2, 2, 3], &loads);
        let nodes = NodeLoads::new(&leaders, &loads);
        for (group, from) in leaders.into_iter().enumerate().take(4).skip(1) {
            let load = loads.get(group as u32);
            let others = (1..=3).filter(|n| *n != from);
            assert!(others.into_iter().all(|to| !nodes.allows(from, to, load)));
        }
        let idle = Loads::new(3);
        assert!(NodeLoads::new(&[1, 1, 1, 1], &idle).allows(1, 2, 0));
    }
}
