//! When a voter that hears of no leader campaigns. Two that do at once win no election, which costs a time-out more; so voters
//! take turns instead of drawing lots, and another term shuffles the turns: whoever cannot win does not stand in the way.

/// The ticks without a leader after which a voter campaigns: at least `span`, and below twice as many.
///
/// Never with the first tick that could be: the others' ticks come up to one later, and till then they hold to the leader.
pub(super) fn election_ticks(
    mut voters: Vec<u64>,
    (group, term, id): (u32, u64, u64),
    span: usize,
) -> usize {
    voters.sort_unstable();
    voters.dedup();
    let Some(place) = voters.iter().position(|voter| *voter == id) else {
        // It does not vote, and so never campaigns.
        return span;
    };
    let count = voters.len() as u64;
    let turn = ((place as u64 + u64::from(group) % count + term % count) % count) as usize;
    let between = voters.len().saturating_sub(1).max(1);
    let later = turn * span.saturating_sub(2) / between;
    (span + 1 + later).min(2 * span - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voters_take_turns_in_every_term() {
        for (voters, expected) in [
            (vec![2], vec![7]),
            (vec![1, 2], vec![7, 11]),
            (vec![3, 1, 2], vec![7, 9, 11]),
            (vec![1, 2, 3, 4, 5], vec![7, 8, 9, 10, 11]),
        ] {
            for (group, term) in [(0, 0), (1, 5), (7, 6), (9, u64::MAX)] {
                let ticks = |id: &u64| election_ticks(voters.clone(), (group, term, *id), 6);
                let mut turns: Vec<usize> = voters.iter().map(ticks).collect();
                turns.sort_unstable();
                assert_eq!(turns, expected, "{voters:?} {group} {term}");
            }
        }
    }

    #[test]
    fn every_voter_is_the_first_in_some_term() {
        let first = |term| {
            let ticks = |id: &u64| election_ticks(vec![1, 2, 3], (4, term, *id), 6);
            [1, 2, 3].into_iter().min_by_key(ticks)
        };
        let mut firsts: Vec<_> = (10..13).map(first).collect();
        firsts.sort_unstable();
        assert_eq!(firsts, [Some(1), Some(2), Some(3)]);
    }

    #[test]
    fn any_number_of_ticks_is_one_that_raft_takes() {
        for span in 1..20 {
            for id in 1..=9 {
                let ticks = election_ticks((1..=9).collect(), (3, 8, id), span);
                assert!((span..2 * span).contains(&ticks), "{span} {ticks}");
            }
        }
        assert_eq!(election_ticks(vec![1, 2], (0, 1, 9), 6), 6);
    }
}
