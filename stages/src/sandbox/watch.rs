//! What all processes of a sandbox use together, seen from outside.

use std::fs;
use std::path::PathBuf;

use rustix::process::Pid;

use super::{Ended, Limits};

/// Compares what is used with what may be.
pub(super) fn look(root: Pid, limits: Limits) -> Result<(), Ended> {
    let processes = descendants(root);
    // Pages that processes share are counted once for each: only beyond the limit is it worth the precise figure.
    let roughly: u64 = processes.iter().filter_map(|pid| resident(*pid)).sum();
    if roughly > limits.memory {
        let precisely: u64 = processes.iter().filter_map(|pid| proportional(*pid)).sum();
        if precisely > limits.memory {
            return Err(Ended::Memory);
        }
    }
    match processes.iter().find_map(|pid| files(*pid, limits.folder)) {
        Some(files) if files > limits.files => Err(Ended::Files),
        Some(_) | None => Ok(()),
    }
}

fn entry(pid: i32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

/// The first process and everything below it; orphans are below the first.
fn descendants(root: Pid) -> Vec<i32> {
    let mut found = vec![root.as_raw_nonzero().get()];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        for task in fs::read_dir(entry(pid, "task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        }
    }
    found
}

/// Bytes of memory, shared pages included.
fn resident(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(entry(pid, "statm")).ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Bytes of memory, of shared pages a share.
fn proportional(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(entry(pid, "smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Files in the process's `/tmp`, once that is the folder of the sandbox: at first it is still this machine's own.
fn files(pid: i32, size: u64) -> Option<u64> {
    let folder = rustix::fs::statvfs(entry(pid, "root/tmp")).ok()?;
    (folder.f_blocks.checked_mul(folder.f_frsize)? == size)
        .then(|| folder.f_files.saturating_sub(folder.f_ffree))
}
