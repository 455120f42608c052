//! How much work each group is, and which group should be led elsewhere for it. Every replica applies the same commands, so all
//! nodes see the same loads without asking each other, and who leads what is known to all: each leader decides by itself. Two that
//! decide at one moment may choose the same receiver; the next look sees that.
//!
//! What is made even is the load of each core, and that of each node by its number of cores, since cores share their disk and
//! network. Each move leaves the sum of the squares of both clearly smaller: so moves end, and none is taken back while loads stay.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::owners::Owners;

/// A difference that nobody moves a group for, in bytes a second.
const SLACK: u64 = 128 << 10;

/// How many looks the average goes over; one look is a second.
const LOOKS: u64 = 8;

/// What the cores of a node know of each other: who has which group, the work of all groups, in bytes a second, each written by its
/// core alone; and how many of them find no room on the disk that they share.
#[derive(Debug)]
pub struct Loads {
    pub(super) owners: Arc<Owners>,
    groups: Box<[AtomicU64]>,
    full_cores: AtomicU64,
    reliefs: AtomicU64,
}

impl Loads {
    /// Of groups that have these owners.
    pub fn new(owners: Owners) -> Loads {
        Loads {
            groups: (0..owners.groups()).map(|_| AtomicU64::new(0)).collect(),
            owners: Arc::new(owners),
            full_cores: AtomicU64::new(0),
            reliefs: AtomicU64::new(0),
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

    /// How many groups were given away for their load.
    pub fn reliefs(&self) -> u64 {
        self.reliefs.load(Ordering::Relaxed)
    }

    /// Whether the next is this core's to give: of cores that decide at one moment, each by the same loads, one does.
    pub fn relieve_after(&self, reliefs: u64) -> bool {
        let (next, order) = (reliefs + 1, Ordering::Relaxed);
        let taken = self.reliefs.compare_exchange(reliefs, next, order, order);
        taken.is_ok()
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

/// What the nodes' leadership costs them and their cores, in bytes a second.
pub struct NodeLoads<'a> {
    nodes: BTreeMap<u64, u64>,
    cores: BTreeMap<(u64, u16), u64>,
    /// By node.
    owners: &'a dyn Fn(u64) -> Arc<Owners>,
}

impl<'a> NodeLoads<'a> {
    /// By the node that leads each group, 0: nobody; and where its nodes' cores have it.
    pub fn new(
        leaders: &[u64],
        loads: &Loads,
        owners: &'a dyn Fn(u64) -> Arc<Owners>,
    ) -> NodeLoads<'a> {
        let mut found = NodeLoads {
            nodes: BTreeMap::new(),
            cores: BTreeMap::new(),
            owners,
        };
        for (group, node) in (0..).zip(leaders) {
            let load = loads.get(group);
            if *node != 0 && load > 0 {
                *found.nodes.entry(*node).or_default() += load;
                let core = owners(*node).of(group);
                *found.cores.entry((*node, core)).or_default() += load;
            }
        }
        found
    }

    /// A node's load for each of its cores, and that of the core which has a group there, with half of the group's own load added
    /// or taken away for what it is on average while it moves.
    fn around(&self, node: u64, group: u32, half: i64) -> i64 {
        let owners = (self.owners)(node);
        let of_node = self.nodes.get(&node).copied().unwrap_or(0) as i64;
        let place = (node, owners.of(group));
        let of_core = self.cores.get(&place).copied().unwrap_or(0) as i64;
        (of_node + half) / i64::from(owners.cores().max(1)) + of_core + half
    }

    /// How much lower the receiver of a group would be than its giver, node and core added. Back again it is the opposite.
    fn worth(&self, from: u64, to: u64, group: u32, load: u64) -> i64 {
        let half = (load / 2) as i64;
        self.around(from, group, -half) - self.around(to, group, half)
    }

    /// Whether a group of this load may go to a node that is preferred for other reasons.
    pub fn allows(&self, from: u64, to: u64, group: u32, load: u64) -> bool {
        self.worth(from, to, group, load) + 2 * SLACK as i64 >= 2 * load as i64
    }

    /// By how much a move makes the sum of the squares smaller, if it is worth it.
    fn gain(&self, from: u64, to: u64, group: u32, load: u64) -> Option<i128> {
        let worth = self.worth(from, to, group, load);
        let least = 2 * SLACK as i64 + self.around(from, group, 0) / 10;
        (load > SLACK && worth > least).then(|| i128::from(worth) * i128::from(load))
    }

    /// The group that should go, and to which of the nodes that could lead it.
    pub fn relief(&self, from: u64, groups: &[(u32, u64, Vec<u64>)]) -> Option<(u32, u64)> {
        let options = groups.iter().flat_map(|(group, load, able)| {
            let of = |to: &u64| Some((self.gain(from, *to, *group, *load)?, *group, *to));
            able.iter().filter_map(of)
        });
        let best = options.max_by_key(|(gain, group, to)| {
            (*gain, std::cmp::Reverse(*group), std::cmp::Reverse(*to))
        });
        best.map(|(_, group, to)| (group, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    fn loads(cores: u16, of: &[u64]) -> Loads {
        let loads = Loads::new(Owners::new(cores, of.len() as u32 - 1));
        for (group, load) in of.iter().enumerate() {
            for _ in 0..200 {
                loads.note(group as u32, load * KIB);
            }
        }
        loads
    }

    /// Moves until nothing helps, each core of each node in turn; where each group is then led, and the moves. Node n of three has so
    /// many cores.
    fn settle(mut leaders: Vec<u64>, loads: &Loads, cores: [u16; 3]) -> (Vec<u64>, usize) {
        let groups = leaders.len() as u32 - 1;
        let owners = cores.map(|cores| Arc::new(Owners::new(cores, groups)));
        let of_node = |node: u64| owners[node as usize - 1].clone();
        for moves in 0..1000 {
            let nodes = NodeLoads::new(&leaders, loads, &of_node);
            let places = (1..=3).flat_map(|n| (0..of_node(n).cores()).map(move |core| (n, core)));
            let step = places.into_iter().find_map(|(node, core)| {
                let is_own = |g: &usize| leaders[*g] == node && of_node(node).of(*g as u32) == core;
                let able = (1..=3).filter(|n| *n != node).collect::<Vec<_>>();
                let own: Vec<_> = (0..leaders.len())
                    .filter(is_own)
                    .map(|g| (g as u32, loads.get(g as u32), able.clone()))
                    .collect();
                nodes.relief(node, &own)
            });
            match step {
                Some((group, to)) => leaders[group as usize] = to,
                None => return (leaders, moves),
            }
        }
        panic!("it does not end: {leaders:?}");
    }

    /// What each node's leadership costs, and the busiest core's of all.
    fn costs(leaders: &[u64], loads: &Loads, cores: [u16; 3]) -> ([u64; 3], u64) {
        let owners = cores.map(|cores| Arc::new(Owners::new(cores, leaders.len() as u32 - 1)));
        let of_node = |node: u64| owners[node as usize - 1].clone();
        let found = NodeLoads::new(leaders, loads, &of_node);
        let nodes = [1, 2, 3].map(|n| found.nodes.get(&n).copied().unwrap_or(0) / KIB);
        (
            nodes,
            found.cores.values().max().copied().unwrap_or(0) / KIB,
        )
    }

    #[test]
    fn an_average_follows_what_is_done() {
        let loads = loads(1, &[0, 1000]);
        assert_eq!(loads.get(0), 0);
        assert!((990 * KIB..=1000 * KIB).contains(&loads.get(1)));
        (0..8).for_each(|_| loads.note(1, 0));
        assert!(loads.get(1) < 400 * KIB);
    }

    #[test]
    fn busy_groups_spread_and_then_stay() {
        let loads = loads(1, &[0, 4000, 4000, 4000, 900, 0, 0]);
        let (leaders, moves) = settle(vec![1, 1, 1, 1, 2, 2, 3], &loads, [1; 3]);
        let (nodes, _) = costs(&leaders, &loads, [1; 3]);
        assert!(nodes.iter().all(|n| *n < 5000), "{leaders:?}");
        assert!(moves <= 3, "{moves}");
    }

    #[test]
    fn one_busy_group_is_not_sent_around() {
        let loads = loads(1, &[0, 9000, 10, 10]);
        assert_eq!(settle(vec![1, 1, 2, 3], &loads, [1; 3]).1, 0);
    }

    #[test]
    fn busy_groups_of_one_core_go_where_cores_are_idle() {
        // Each node has as much, but node 1 on one of its cores.
        let owners = Owners::new(4, 95);
        let of_core = |core: u16| (0..96_u32).filter(move |g| owners.of(*g) == core);
        let mut of = vec![0; 96];
        let mut leaders: Vec<u64> = (0..96).map(|g| 1 + g % 3).collect();
        for group in of_core(2).take(12) {
            of[group as usize] = 1000;
            leaders[group as usize] = 1;
        }
        let idle: Vec<usize> = (0..96).filter(|g| of[*g] == 0).collect();
        for (place, group) in idle.into_iter().take(24).enumerate() {
            of[group] = 1000;
            leaders[group] = 2 + place as u64 % 2;
        }
        let loads = loads(4, &of);
        let (before, busiest) = costs(&leaders, &loads, [4; 3]);
        assert!(busiest >= 11_000, "{busiest}");
        let (leaders, moves) = settle(leaders, &loads, [4; 3]);
        let (after, busiest) = costs(&leaders, &loads, [4; 3]);
        assert!(busiest <= 6000, "{before:?} {after:?} {busiest}");
        assert!(
            after.iter().all(|n| (9000..15_000).contains(n)),
            "{after:?}"
        );
        assert!(moves <= 24, "{moves}");
    }

    #[test]
    fn a_node_with_more_cores_leads_more_and_any_start_comes_to_an_end() {
        let mut random = 7_u64;
        let mut draw = |below: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) % below
        };
        for cores in [[1, 2, 3], [1, 1, 1], [6, 6, 6], [64, 2, 8]] {
            for _ in 0..20 {
                let of: Vec<u64> = (0..64).map(|_| draw(4) * draw(1000)).collect();
                let leaders: Vec<u64> = (0..64).map(|_| 1 + draw(3)).collect();
                let loads = loads(cores[0], &of);
                let (after, moves) = settle(leaders, &loads, cores);
                assert!(moves <= 200, "{cores:?}: {moves}");
                if cores == [1, 2, 3] {
                    let (nodes, _) = costs(&after, &loads, cores);
                    assert!(nodes[0] < nodes[1] && nodes[1] < nodes[2], "{nodes:?}");
                }
            }
        }
    }

    #[test]
    fn preference_does_not_undo_what_load_did() {
        for cores in [[1; 3], [2, 2, 2], [1, 2, 3]] {
            let loads = loads(cores[0], &[0, 4000, 4000, 4000, 900, 0, 0]);
            let owners = cores.map(|cores| Arc::new(Owners::new(cores, 6)));
            let of_node = |node: u64| owners[node as usize - 1].clone();
            let before = vec![1, 1, 1, 1, 2, 2, 3];
            let (leaders, moves) = settle(before.clone(), &loads, cores);
            assert!(moves > 0);
            let nodes = NodeLoads::new(&leaders, &loads, &of_node);
            for (group, (from, to)) in (0..).zip(leaders.iter().zip(&before)) {
                let load = loads.get(group);
                assert!(from == to || !nodes.allows(*from, *to, group, load));
            }
            let idle = Loads::new(Owners::new(1, 3));
            let nodes = NodeLoads::new(&[1, 1, 1, 1], &idle, &of_node);
            assert!(nodes.allows(1, 2, 3, 0));
        }
    }

    #[test]
    fn of_cores_that_decide_at_once_one_gives() {
        let loads = Loads::new(Owners::new(2, 4));
        let seen = loads.reliefs();
        assert!(loads.relieve_after(seen) && !loads.relieve_after(seen));
        assert!(loads.relieve_after(loads.reliefs()));
    }
}
