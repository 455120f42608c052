//! State tables: sorted keys with values, or with a mark that the key is gone. Written once, read in one pass.
//!
//! ```text
//! magic "URSTABL1" | blocks | end block
//! block: length u32 | crc32c u32 | entries      end block: length 0 | crc32c of the count | count u64
//! entry: key length u16 | value length u32, or u32::MAX for a key that is gone | key | value
//! ```

use std::io::{BufReader, Read, Write};
use std::path::Path;

use crate::files::{Files, InOrder, System};
use crate::{StorageError, framed, io_error, mutation};

const MAGIC: &[u8; 8] = b"URSTABL1";
const BLOCK_BYTES: usize = 64 << 10;
const GONE: u32 = u32::MAX;

/// Writes a table under its name, synced; keys must ascend. Blocks; not for an executor. Answers its size.
///
/// # Errors
/// [`StorageError::NoSpace`] or [`StorageError::Io`].
pub fn write<'a>(
    path: &Path,
    entries: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
) -> Result<u64, StorageError> {
    write_to(&System, path, entries)
}

/// [`write()`], to these files.
///
/// # Errors
/// As [`write()`].
pub fn write_to<'a>(
    files: &dyn Files,
    path: &Path,
    mut entries: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
) -> Result<u64, StorageError> {
    let mut size = 8;
    framed::publish(files, path, &mut |out| {
        out.write_all(MAGIC)?;
        let mut block = Vec::new();
        let mut count = 0u64;
        for (key, value) in entries.by_ref() {
            block.extend_from_slice(&(key.len() as u16).to_le_bytes());
            block.extend_from_slice(&value.map_or(GONE, |v| v.len() as u32).to_le_bytes());
            block.extend_from_slice(key);
            block.extend_from_slice(value.unwrap_or_default());
            count += 1;
            if block.len() >= BLOCK_BYTES {
                size += put_block(out, &block)?;
                block.clear();
            }
        }
        if !block.is_empty() {
            size += put_block(out, &block)?;
        }
        let count = count.to_le_bytes();
        out.write_all(&0u32.to_le_bytes())?;
        out.write_all(&crc32c::crc32c(&count).to_le_bytes())?;
        out.write_all(&count)
    })?;
    Ok(size + 16)
}

fn put_block(out: &mut dyn Write, block: &[u8]) -> std::io::Result<u64> {
    out.write_all(&(block.len() as u32).to_le_bytes())?;
    out.write_all(&crc32c::crc32c(block).to_le_bytes())?;
    out.write_all(block)?;
    Ok(8 + block.len() as u64)
}

/// Takes an entry: its key, and its value unless the key is gone; or answers what is wrong with it.
pub type Take<'a> = dyn FnMut(&[u8], Option<&[u8]>) -> Result<(), &'static str> + 'a;

/// Reads a table in order, verifying each block. Blocks; not for an executor. It is not mapped: a sector that the
/// disk cannot read is an error here, and would be the end of the process there.
///
/// # Errors
/// [`StorageError::Corrupt`], or the system's.
pub fn read(path: &Path, take: &mut Take<'_>) -> Result<(), StorageError> {
    read_of(&System, path, take)
}

/// [`read`], of these files.
///
/// # Errors
/// As [`read`].
pub fn read_of(files: &dyn Files, path: &Path, take: &mut Take<'_>) -> Result<(), StorageError> {
    let corrupt = |offset: u64, what: &str| StorageError::Corrupt {
        path: path.to_owned(),
        offset,
        what: what.to_owned(),
    };
    let failed = |e| io_error(path, "read", e);
    let file = files.open(path).map_err(|e| io_error(path, "open", e))?;
    let size = file.length().map_err(failed)?;
    let file = InOrder {
        file: &*file,
        position: 0,
    };
    let buffer_bytes = size.min(4 * BLOCK_BYTES as u64) as usize;
    let mut file = BufReader::with_capacity(buffer_bytes, file);
    let mut magic = [0; 8];
    if size < 8 {
        return Err(corrupt(0, "not a state table"));
    }
    file.read_exact(&mut magic).map_err(failed)?;
    if &magic != MAGIC {
        return Err(corrupt(0, "not a state table"));
    }
    let mut position = 8;
    let mut seen = 0u64;
    let mut block = Vec::new();
    loop {
        let mut head = [0; 8];
        if size < position + 8 {
            return Err(corrupt(position, "the table ends early"));
        }
        file.read_exact(&mut head).map_err(failed)?;
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let crc = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        let content = if length == 0 { 8 } else { length };
        let end = position + 8 + content as u64;
        if size < end {
            return Err(corrupt(position, "the table ends early"));
        }
        block.resize(content, 0);
        file.read_exact(&mut block).map_err(failed)?;
        if crc32c::crc32c(&block) != crc && !mutation::is_on("checkpoint-unverified") {
            return Err(corrupt(position, "the checksum of a block is wrong"));
        }
        if length == 0 {
            if block != seen.to_le_bytes() || size != end {
                return Err(corrupt(position, "the number of entries is wrong"));
            }
            return Ok(());
        }
        let mut rest = &block[..];
        while !rest.is_empty() {
            let (key, value) =
                take_entry(&mut rest).ok_or_else(|| corrupt(position, "an entry is cut"))?;
            take(key, value).map_err(|what| corrupt(position, what))?;
            seen += 1;
        }
        position = end;
    }
}

fn take_entry<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let key_length = usize::from(u16::from_le_bytes(rest.get(..2)?.try_into().ok()?));
    let value_length = u32::from_le_bytes(rest.get(2..6)?.try_into().ok()?);
    let key = rest.get(6..6 + key_length)?;
    let value_bytes = if value_length == GONE {
        0
    } else {
        value_length as usize
    };
    let value = rest.get(6 + key_length..6 + key_length + value_bytes)?;
    *rest = &rest[6 + key_length + value_bytes..];
    Some((key, (value_length != GONE).then_some(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_reads_back_and_any_flipped_bit_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let entries: [(&[u8], Option<&[u8]>); 3] =
            [(b"a", Some(b"1")), (b"b", None), (b"c", Some(b""))];
        let size = write(&path, entries.into_iter()).unwrap();
        assert_eq!(size, std::fs::metadata(&path).unwrap().len());
        let mut found = Vec::new();
        read(&path, &mut |k, v| {
            found.push((k.to_vec(), v.map(<[u8]>::to_vec)));
            Ok(())
        })
        .unwrap();
        let expected: Vec<_> = entries
            .iter()
            .map(|(k, v)| (k.to_vec(), v.map(<[u8]>::to_vec)))
            .collect();
        assert_eq!(found, expected);
        let good = std::fs::read(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bad).unwrap();
            assert!(read(&path, &mut |_, _| Ok(())).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            std::fs::write(&path, &good[..length]).unwrap();
            assert!(read(&path, &mut |_, _| Ok(())).is_err(), "cut at {length}");
        }
        std::fs::write(&path, &good).unwrap();
        let error = read(&path, &mut |_, _| Err("wrong")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("t is damaged at byte 8: wrong"), "{text}");
    }
}
