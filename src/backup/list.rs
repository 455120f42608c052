//! `ursula backup list`: which points in time a backup can be restored to.

use super::{BackupError, Inventory, Source, history_name};
use crate::config::Config;
use crate::protocol::rfc3339_from_ms;

/// What a backup has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Its cluster.
    pub cluster: String,
    /// Which of that name.
    pub history: String,
    /// Groups, group 0 not counted.
    pub group_count: u32,
    /// Those without a state.
    pub groups_without_base: u32,
    /// Objects.
    pub objects: u64,
    /// Their bytes, packs not counted.
    pub bytes: u64,
    /// Objects whose index is damaged.
    pub unreadable: u64,
    /// It can be restored to times from here on; `None`: to none.
    pub earliest_ms: Option<u64>,
    /// The newest entry.
    pub newest_ms: u64,
    /// When the newest object was shipped.
    pub shipped_ms: u64,
    /// When whole states were shipped, oldest first: restores to times soon after one are the quickest.
    pub bases_ms: Vec<u64>,
}

/// Most times that are listed; with more, the oldest are left out.
const BASES_MAX: usize = 100;

/// Looks at a backup. On an executor.
///
/// # Errors
/// [`BackupError`].
pub async fn list(
    config: &Config,
    from: Option<&str>,
    cluster: Option<&str>,
    history: Option<&str>,
) -> Result<Summary, BackupError> {
    let source = Source::open(config, from, cluster).await?;
    let objects = source.objects().await?;
    let inventory = Inventory::read(&source, &objects, history).await?;
    let mut bases_ms = Vec::new();
    let mut earliest_ms = Some(0);
    let mut without = 0;
    let (mut newest_ms, mut shipped_ms) = (0, 0);
    for group in 0..=inventory.group_count {
        let chains = inventory.groups.get(&group);
        let bases = || {
            let parts = chains.into_iter().flat_map(|c| c.parts());
            parts.filter(|p| p.section.is_base)
        };
        bases_ms.extend(bases().map(|p| p.shipped_ms));
        let oldest = bases().map(|p| p.section.last_ms).min();
        without += u32::from(oldest.is_none());
        earliest_ms = earliest_ms.zip(oldest).map(|(a, b)| a.max(b));
        if let Some(plan) = chains.and_then(|c| c.plan(u64::MAX)) {
            newest_ms = newest_ms.max(plan.last_ms());
            shipped_ms = shipped_ms.max(plan.shipped_ms());
        }
    }
    // Before, packs may be gone that only those times need.
    let earliest_ms = earliest_ms.map(|earliest_ms| earliest_ms.max(inventory.kept_from_ms));
    bases_ms.retain(|base_ms| Some(*base_ms) >= earliest_ms);
    bases_ms.sort_unstable();
    bases_ms.dedup();
    let surplus = bases_ms.len().saturating_sub(BASES_MAX);
    bases_ms.drain(..surplus);
    Ok(Summary {
        cluster: source.cluster,
        history: history_name(inventory.history),
        group_count: inventory.group_count,
        groups_without_base: without,
        objects: inventory.objects,
        bytes: inventory.bytes,
        unreadable: inventory.unreadable.len() as u64,
        earliest_ms,
        newest_ms,
        shipped_ms,
        bases_ms,
    })
}

impl Summary {
    /// As lines for people.
    pub fn text(&self) -> String {
        let earliest = self.earliest_ms.map(rfc3339_from_ms);
        let mut text = format!(
            "cluster {}\nhistory {}\ngroups {}\ngroups_without_base {}\nobjects {}\nbytes {}\ndamaged {}\nearliest {}\nnewest {}\nshipped {}\n",
            self.cluster,
            self.history,
            self.group_count,
            self.groups_without_base,
            self.objects,
            self.bytes,
            self.unreadable,
            earliest.as_deref().unwrap_or("none"),
            rfc3339_from_ms(self.newest_ms),
            rfc3339_from_ms(self.shipped_ms),
        );
        for base_ms in &self.bases_ms {
            text.push_str(&format!("base {}\n", rfc3339_from_ms(*base_ms)));
        }
        text
    }

    /// As JSON, times in milliseconds since 1970 and as text.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "cluster": self.cluster,
            "history": self.history,
            "groups": self.group_count,
            "groups_without_base": self.groups_without_base,
            "objects": self.objects,
            "bytes": self.bytes,
            "damaged": self.unreadable,
            "earliest": self.earliest_ms.map(rfc3339_from_ms),
            "earliest_ms": self.earliest_ms,
            "newest": rfc3339_from_ms(self.newest_ms),
            "newest_ms": self.newest_ms,
            "shipped": rfc3339_from_ms(self.shipped_ms),
            "shipped_ms": self.shipped_ms,
            "bases_ms": self.bases_ms,
        })
    }
}
