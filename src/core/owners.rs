//! Which core of a node has which groups: each as many as any other, and of those that one node of a cluster prefers to lead
//! as many too. A node prefers each n-th group of n nodes' (`balance.rs`), so with `group % cores` its leaders would stand on a part of
//! its cores wherever the two have a common divisor: of three nodes with six cores each, each would lead on two of its six.
//!
//! It is a node's own affair: other nodes name groups, never cores. It depends on the number of cores alone, not on the members, so it
//! stays when those change.

/// Clusters of so many nodes are cared for.
const NODES_MAX: usize = 7;

/// What most clusters have counts double.
const USUAL: [usize; 2] = [3, 5];

/// See the module's head.
#[derive(Debug)]
pub struct Owners {
    cores: u16,
    /// By group.
    of: Box<[u16]>,
}

impl Owners {
    /// For groups 0 to `groups`. Takes the groups in their order and gives each to that core, of those that lack one of this round,
    /// which has the fewest of the same remainder by each number of nodes.
    pub fn new(cores: u16, groups: u32) -> Owners {
        let count = usize::from(cores);
        // By number of nodes, remainder and core.
        let mut given: Vec<Vec<u32>> = (0..=NODES_MAX).map(|n| vec![0; n * count]).collect();
        let mut has_one = vec![false; count];
        let mut of = Vec::with_capacity(groups as usize + 1);
        for group in 0..=groups as usize {
            if group.is_multiple_of(count) {
                has_one.fill(false);
            }
            let cost = |core: usize| -> usize {
                let of_nodes = |n: usize| {
                    let weight = if USUAL.contains(&n) { 2 * n } else { n };
                    weight * given[n][group % n * count + core] as usize
                };
                (2..=NODES_MAX).map(of_nodes).sum()
            };
            let free = (0..count).filter(|core| !has_one[*core]);
            let best = free.min_by_key(|core| (cost(*core), *core));
            let core = best.expect("a round has as many groups as there are cores");
            has_one[core] = true;
            for (n, given) in given.iter_mut().enumerate().skip(2) {
                given[group % n * count + core] += 1;
            }
            of.push(core as u16);
        }
        Owners {
            cores,
            of: of.into(),
        }
    }

    /// The core that has a group; any for one that there is not, which others may name.
    pub fn of(&self, group: u32) -> u16 {
        let known = self.of.get(group as usize).copied();
        known.unwrap_or((group % u32::from(self.cores)) as u16)
    }

    /// How many groups, the meta group with them.
    pub fn groups(&self) -> u32 {
        self.of.len() as u32
    }

    /// How many cores there are.
    pub fn cores(&self) -> u16 {
        self.cores
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(owners: &Owners, groups: impl Iterator<Item = u32>) -> Vec<u32> {
        let mut counts = vec![0; usize::from(owners.cores())];
        groups.for_each(|group| counts[usize::from(owners.of(group))] += 1);
        counts
    }

    /// The most that a core has above an even share.
    fn above_even(counts: &[u32]) -> u32 {
        let even = counts.iter().sum::<u32>().div_ceil(counts.len() as u32);
        counts.iter().max().expect("there are cores") - even
    }

    #[test]
    fn each_core_has_its_share_of_the_groups_and_of_those_that_its_node_prefers() {
        let (mut all, mut uneven) = (0, 0);
        for cores in 1..=64 {
            for groups in [16, 64, 100, 256, 1024] {
                let owners = Owners::new(cores, groups);
                let has = counts(&owners, 0..groups);
                assert_eq!(above_even(&has), 0, "{cores} cores, {groups} groups");
                for nodes in 1..=7 {
                    for place in 0..nodes {
                        let led = (place..groups).step_by(nodes as usize);
                        let above = above_even(&counts(&owners, led));
                        assert!(
                            above <= 3,
                            "{cores} cores, {groups} groups, node {place} of {nodes}: {above}"
                        );
                        all += 1;
                        uneven += u32::from(above > 1);
                    }
                }
            }
        }
        assert!(uneven * 100 < all, "{uneven} of {all}");
    }

    #[test]
    fn three_nodes_lead_on_all_their_cores() {
        for (cores, groups) in [(6, 36), (6, 96), (3, 96), (12, 144), (64, 1024)] {
            let owners = Owners::new(cores, groups);
            for place in 0..3 {
                let led = counts(&owners, (place..groups).step_by(3));
                let (least, most) = (led.iter().min(), led.iter().max());
                assert!(*least.unwrap() > 0, "{cores} {groups}: {led:?}");
                assert!(most.unwrap() - least.unwrap() <= 3, "{led:?}");
            }
        }
    }

    #[test]
    fn any_number_of_a_group_has_a_core() {
        let owners = Owners::new(3, 4);
        assert_eq!(owners.of(0), 0, "the meta group is on the first");
        assert!(owners.of(5) < 3 && owners.of(u32::MAX) < 3);
    }
}
