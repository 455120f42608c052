//! Makes whole what spans groups. Each group is restored to a moment of its own, so a fork's group may know of a fork whose
//! hold its source's group does not have yet, or the other way round; and no command is under way any more that would
//! settle it (ARCHITECTURE.md, sagas). Pure.

use std::collections::{BTreeMap, BTreeSet};

use raftproto::checkpoint::{Bucket, HoldState, MetaState, StreamState};

/// What was done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// Holds of forks that do not stand.
    pub(super) holds_released: u64,
    /// Forks whose inherited bytes are not all there.
    pub(super) forks_dropped: u64,
}

/// See the module's head.
pub(super) fn settle(streams: &mut BTreeMap<String, StreamState>, meta: &mut MetaState) -> Settled {
    let mut settled = Settled::default();
    // Each round may take away what another stream rests on.
    loop {
        let lost: Vec<String> = streams
            .iter()
            .filter(|(_, stream)| !has_source(streams, stream))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &lost {
            log::warn!("event=fork_not_restored stream={key:?} its source was not restored so far");
            streams.remove(key);
            settled.forks_dropped += 1;
        }
        confirm_holds(streams);
        let ended = release_holds(streams, &mut settled);
        if lost.is_empty() && ended == 0 {
            break;
        }
    }
    add_buckets(streams, meta);
    settled
}

/// All that a fork inherits is there; true for what is none.
fn has_source(streams: &BTreeMap<String, StreamState>, stream: &StreamState) -> bool {
    let Some(fork) = &stream.fork else {
        return true;
    };
    streams.get(&fork.source_key).is_some_and(|source| {
        source.incarnation == fork.source_incarnation
            && source.tail >= fork.offset
            && source.kept_from <= source.start.max(fork.floor)
    })
}

/// Every fork that stands has a confirmed hold on its source.
fn confirm_holds(streams: &mut BTreeMap<String, StreamState>) {
    let forks: Vec<(String, HoldState)> = streams
        .iter()
        .filter_map(|(key, stream)| {
            let fork = stream.fork.as_ref()?;
            let hold = HoldState {
                fork_key: key.clone(),
                hold_id: fork.hold_id,
                offset: fork.offset,
                since_ms: stream.created_ms,
                confirmed: true,
            };
            Some((fork.source_key.clone(), hold))
        })
        .collect();
    for (source, hold) in forks {
        let Some(source) = streams.get_mut(&source) else {
            continue;
        };
        match source.holds.iter_mut().find(|h| h.hold_id == hold.hold_id) {
            Some(known) => known.confirmed = true,
            None => source.holds.push(hold),
        }
    }
}

/// Holds without their fork go, and soft-deleted streams that nothing holds any more. Answers how many of those.
fn release_holds(streams: &mut BTreeMap<String, StreamState>, settled: &mut Settled) -> usize {
    let standing: BTreeSet<(String, u64)> = streams
        .iter()
        .filter_map(|(key, stream)| Some((key.clone(), stream.fork.as_ref()?.hold_id)))
        .collect();
    for stream in streams.values_mut() {
        let before = stream.holds.len();
        let stands = |h: &HoldState| standing.contains(&(h.fork_key.clone(), h.hold_id));
        stream.holds.retain(stands);
        settled.holds_released += (before - stream.holds.len()) as u64;
    }
    let before = streams.len();
    streams.retain(|_, stream| !stream.soft_deleted || !stream.holds.is_empty());
    before - streams.len()
}

/// Buckets that have streams are there, whatever group 0 knows.
fn add_buckets(streams: &BTreeMap<String, StreamState>, meta: &mut MetaState) {
    let known: BTreeSet<String> = meta.buckets.iter().map(|b| b.name.clone()).collect();
    let used = streams.iter().filter_map(|(key, stream)| {
        let (bucket, _) = key.split_once('/')?;
        (!bucket.is_empty() && !known.contains(bucket)).then_some((bucket, stream.created_ms))
    });
    let mut missing: BTreeMap<&str, u64> = BTreeMap::new();
    for (bucket, created_ms) in used {
        let first_ms = missing.entry(bucket).or_insert(created_ms);
        *first_ms = created_ms.min(*first_ms);
    }
    for (bucket, created_ms) in missing {
        meta.next_generation += 1;
        meta.buckets.push(Bucket {
            name: bucket.to_owned(),
            generation: meta.next_generation,
            created_ms,
            ..Bucket::default()
        });
    }
}

#[cfg(test)]
mod tests {
    use raftproto::checkpoint::ForkState;

    use super::*;

    fn stream(tail: u64) -> StreamState {
        StreamState {
            incarnation: 1,
            tail,
            ..StreamState::default()
        }
    }

    fn fork(source: &str, offset: u64, hold_id: u64) -> StreamState {
        StreamState {
            start: offset,
            kept_from: offset,
            fork: Some(ForkState {
                source_key: source.to_owned(),
                source_incarnation: 1,
                offset,
                hold_id,
                ..ForkState::default()
            }),
            ..stream(offset)
        }
    }

    fn hold(fork: &str, hold_id: u64) -> HoldState {
        HoldState {
            fork_key: fork.to_owned(),
            hold_id,
            ..HoldState::default()
        }
    }

    fn settled(
        streams: Vec<(&str, StreamState)>,
    ) -> (BTreeMap<String, StreamState>, Settled, MetaState) {
        let mut streams = streams
            .into_iter()
            .map(|(k, s)| (k.to_owned(), s))
            .collect();
        let mut meta = MetaState::default();
        let done = settle(&mut streams, &mut meta);
        (streams, done, meta)
    }

    #[test]
    fn a_fork_whose_source_is_behind_goes_and_all_that_rests_on_it() {
        let (streams, done, _) = settled(vec![
            ("/a", stream(10)),
            ("/b", fork("/a", 11, 1)),
            ("/c", fork("/b", 11, 2)),
            ("/d", fork("/a", 10, 3)),
        ]);
        assert_eq!(streams.keys().collect::<Vec<_>>(), ["/a", "/d"]);
        assert_eq!(done.forks_dropped, 2);
        let holds = &streams["/a"].holds;
        assert!(holds.len() == 1 && holds[0].confirmed && holds[0].hold_id == 3);
    }

    #[test]
    fn a_hold_without_its_fork_is_released_and_what_only_it_kept_goes() {
        let mut held = stream(10);
        held.holds = vec![hold("/gone", 7)];
        held.soft_deleted = true;
        let mut kept = stream(10);
        kept.holds = vec![hold("/gone", 8), hold("/f", 9)];
        kept.soft_deleted = true;
        let (streams, done, _) = settled(vec![
            ("/held", held),
            ("/kept", kept),
            ("/f", fork("/kept", 5, 9)),
        ]);
        assert_eq!(streams.keys().collect::<Vec<_>>(), ["/f", "/kept"]);
        assert_eq!((done.holds_released, done.forks_dropped), (2, 0));
        assert!(streams["/kept"].holds[0].confirmed);
    }

    #[test]
    fn a_bucket_with_streams_is_there() {
        let (_, _, meta) = settled(vec![("demo/a", stream(1)), ("/b", stream(1))]);
        assert_eq!(meta.buckets.len(), 1);
        assert_eq!(meta.buckets[0].name, "demo");
    }
}
