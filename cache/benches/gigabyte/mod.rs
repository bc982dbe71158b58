//! The file that is stored, and what that takes.

use std::io::Write;
use std::path::Path;

/// Its bytes.
pub(crate) const SIZE: usize = 1 << 30;

/// A file of numbers that no file system can make smaller.
pub(crate) fn write(path: &Path) -> std::io::Result<()> {
    let mut state = 1_u64;
    let mut block = vec![0; 1 << 20];
    let mut file = std::fs::File::create(path)?;
    for _ in 0..SIZE >> 20 {
        for bytes in block.chunks_exact_mut(8) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bytes.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block)?;
    }
    // What is still to be written to the disk would slow down whoever is measured next.
    file.sync_all()
}

/// The most memory this process has had so far.
pub(crate) fn peak_megabytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    peak.and_then(|peak| peak.trim().parse::<u64>().ok()).unwrap_or(0) / 1000
}
