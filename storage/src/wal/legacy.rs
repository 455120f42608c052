//! Segments of earlier generations: each is kept until no group needs its records any more.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// A segment that recovery found.
#[derive(Debug)]
pub struct LegacySegment {
    /// The file.
    pub path: PathBuf,
    /// The highest index that each group has in it.
    pub last_index: BTreeMap<u32, u64>,
}

/// Deletes its file when the last pin is dropped.
#[derive(Debug)]
struct LegacyFile(PathBuf);

impl Drop for LegacyFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            log::warn!(
                "event=segment_not_removed path={} error=\"{error}\"",
                self.0.display()
            );
        }
    }
}

/// Keeps a segment of an earlier generation for one group, until the group's checkpoint reaches `index`.
#[derive(Debug)]
pub struct Pin {
    /// The group.
    pub group: u32,
    /// Its highest index in the segment.
    pub index: u64,
    _file: Arc<LegacyFile>,
}

/// Turns found segments into pins; `is_needed` says whether a group still needs an index. A segment that
/// nobody needs is deleted here.
pub(super) fn pins(segments: Vec<LegacySegment>, is_needed: &dyn Fn(u32, u64) -> bool) -> Vec<Pin> {
    let mut pins = Vec::new();
    for segment in segments {
        let file = Arc::new(LegacyFile(segment.path));
        let needed = segment
            .last_index
            .into_iter()
            .filter(|(group, index)| is_needed(*group, *index));
        pins.extend(needed.map(|(group, index)| Pin {
            group,
            index,
            _file: file.clone(),
        }));
    }
    pins
}
