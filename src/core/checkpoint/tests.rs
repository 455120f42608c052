//! What writing a checkpoint leaves in its directory.

use super::cut::planned;
use super::*;

fn plan(index: u64, packs: Vec<u32>) -> CheckpointPlan {
    let key = StreamKey::from_stored(&format!("b/{}", index % 3));
    planned(index, vec![(key, None)], packs)
}

fn one_chunk(number: u32) -> PackPlan {
    let mut pack = PackPlan::new(7, number);
    pack.add("b/0", 1, 0, vec![bytes::Bytes::from_static(b"x")]);
    pack
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(group_dir(dir, 7)).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn expected(manifest: &GroupManifest) -> Vec<String> {
    let packs = manifest.packs.iter().map(|p| format!("pack-{p}"));
    let tables = tables(manifest).map(|t| format!("table-{t}"));
    let mut names: Vec<String> = packs.chain(tables).collect();
    names.push("manifest".to_owned());
    names.sort();
    names
}

#[test]
fn only_the_files_of_the_newest_checkpoint_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut manifest = GroupManifest::default();
    for index in 1..=40 {
        let pack = one_chunk(manifest.next_pack.max(1));
        let plan = plan(index, vec![pack.number()]);
        manifest = write(&System, dir.path(), 7, manifest, &plan, &pack)
            .unwrap()
            .0;
        assert_eq!(names(dir.path()), expected(&manifest), "round {index}");
    }
    assert!(manifest.base > 0);
    let own = group_dir(dir.path(), 7);
    for left in ["pack-99", "table-99", "pack-100.tmp", "manifest.tmp"] {
        std::fs::write(own.join(left), b"").unwrap();
    }
    sweep(dir.path(), &manifest).unwrap();
    assert_eq!(names(dir.path()), expected(&manifest));
}

#[test]
fn without_room_the_checkpoint_before_stands_and_the_same_is_written_later() {
    let dir = tempfile::tempdir().unwrap();
    let write = |before: &GroupManifest, index, pack: u32| {
        let plan = plan(index, vec![pack]);
        write(
            &System,
            dir.path(),
            7,
            before.clone(),
            &plan,
            &one_chunk(pack),
        )
    };
    let before = write(&GroupManifest::default(), 1, 1).unwrap().0;
    for full in ["pack-2.tmp", "table-2.tmp", "manifest.tmp"] {
        let path = group_dir(dir.path(), 7).join(full);
        std::os::unix::fs::symlink("/dev/full", path).unwrap();
        let error = write(&before, 2, 2).unwrap_err();
        assert!(matches!(error, StorageError::NoSpace { .. }), "{error}");
        assert_eq!(names(dir.path()), expected(&before), "{full}");
    }
    let after = write(&before, 2, 2).unwrap().0;
    assert_eq!(names(dir.path()), expected(&after));
    assert_eq!(after.packs, [2]);
}

#[test]
fn a_key_that_is_not_text_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = GroupManifest {
        group: 7,
        base: 1,
        ..GroupManifest::default()
    };
    std::fs::create_dir_all(group_dir(dir.path(), 7)).unwrap();
    let path = table_path(dir.path(), 7, 1);
    table::write(&path, [(&b"b/\xff"[..], None)].into_iter()).unwrap();
    let text = read_tables(dir.path(), &manifest).unwrap_err().to_string();
    assert!(
        text.contains("table-1 is damaged") && text.contains("not text"),
        "{text}"
    );
}
