//! Hashing in parallel: BLAKE3 is a tree, and its halves can be hashed side by side.
//!
//! Files are read in blocks and not mapped into memory: a mapped file that another program shortens ends
//! the process with a signal, and a block that is hashed while it is still in the processor's cache costs
//! no more than one that was mapped.

use std::cell::RefCell;
use std::io;

use blake3::hazmat::{self, ChainingValue, HasherExt, Mode};

use super::{BLOCK, Digest};

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The digest of `length` bytes, which `read` gives block by block, in any order and on several threads.
pub(crate) fn digest(
    length: u64,
    read: &(impl Fn(u64, &mut [u8]) -> io::Result<()> + Sync),
) -> io::Result<Digest> {
    if length <= BLOCK as u64 {
        return block(0, length, read, Digest::of);
    }
    let left = hazmat::left_subtree_len(length);
    let (one, other) = rayon_core::join(|| subtree(0, left, read), || subtree(left, length - left, read));
    let root = hazmat::merge_subtrees_root(&one?, &other?, Mode::Hash);
    Ok(Digest(*root.as_bytes()))
}

fn subtree(
    start: u64,
    length: u64,
    read: &(impl Fn(u64, &mut [u8]) -> io::Result<()> + Sync),
) -> io::Result<ChainingValue> {
    if length <= BLOCK as u64 {
        return block(start, length, read, |bytes| {
            blake3::Hasher::new().set_input_offset(start).update(bytes).finalize_non_root()
        });
    }
    let left = hazmat::left_subtree_len(length);
    let (one, other) =
        rayon_core::join(|| subtree(start, left, read), || subtree(start + left, length - left, read));
    Ok(hazmat::merge_subtrees_non_root(&one?, &other?, Mode::Hash))
}

/// Reads one block into the thread's buffer.
fn block<T>(
    start: u64,
    length: u64,
    read: &(impl Fn(u64, &mut [u8]) -> io::Result<()> + Sync),
    hash: impl FnOnce(&[u8]) -> T,
) -> io::Result<T> {
    BUFFER.with_borrow_mut(|buffer| {
        let length = usize::try_from(length).unwrap_or(BLOCK);
        if buffer.len() < length {
            buffer.resize(length, 0);
        }
        read(start, &mut buffer[..length])?;
        Ok(hash(&buffer[..length]))
    })
}
