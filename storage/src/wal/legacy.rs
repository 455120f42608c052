//! Segments of earlier generations: each is kept until no group needs its records any more, and until those before it
//! in its lane are gone, since recovery takes a hole in a lane for damage.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::file::remove;
use super::segment::SegmentId;

/// A segment that recovery found.
#[derive(Debug)]
pub struct LegacySegment {
    /// Which.
    pub id: SegmentId,
    /// The file.
    pub path: PathBuf,
    /// The highest index that each group has in it; 0 for a group that has carried records only.
    pub last_index: BTreeMap<u32, u64>,
}

#[derive(Debug)]
struct LegacyFile {
    path: PathBuf,
    /// The next one of its lane, which stays as long as this one.
    next: Option<Arc<LegacyFile>>,
}

/// Keeps a segment of an earlier generation for one group, until the group's checkpoint reaches `index`. One that is
/// dropped without being released keeps its file for the next start.
#[derive(Debug)]
pub struct Pin {
    /// The group.
    pub group: u32,
    /// Its highest index in the segment; 0 if only its carried records are needed, until they stand elsewhere.
    pub index: u64,
    file: Arc<LegacyFile>,
}

impl Pin {
    /// The group does not need the segment any more. Deletes it if it was the last one to do so.
    pub(super) fn release(self) {
        release(self.file);
    }
}

fn release(file: Arc<LegacyFile>) {
    let mut next = Some(file);
    while let Some(file) = next.and_then(Arc::into_inner) {
        if !remove(&file.path) {
            // Then those after it must stay too.
            std::mem::forget(file.next);
            return;
        }
        next = file.next;
    }
}

/// Turns found segments, in the order of their ids, into pins; `is_needed` says whether a group still needs an index.
/// Only a segment in which no group has anything is deleted here.
pub(super) fn pins(segments: Vec<LegacySegment>, is_needed: &dyn Fn(u32, u64) -> bool) -> Vec<Pin> {
    let mut pins = Vec::new();
    let mut files = Vec::new();
    let mut after: Option<(SegmentId, Arc<LegacyFile>)> = None;
    for segment in segments.into_iter().rev() {
        let id = segment.id;
        let is_same_lane =
            |b: &(SegmentId, _)| (b.0.generation, b.0.lane) == (id.generation, id.lane);
        let file = Arc::new(LegacyFile {
            path: segment.path,
            next: after.take().filter(is_same_lane).map(|(_, file)| file),
        });
        pins.extend(segment.last_index.into_iter().map(|(group, index)| Pin {
            group,
            index: if is_needed(group, index) { index } else { 0 },
            file: file.clone(),
        }));
        files.push(file.clone());
        after = Some((id, file));
    }
    drop(after);
    files.into_iter().rev().for_each(release);
    pins
}
