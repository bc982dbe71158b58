//! Published files that are not part of the tree.

use std::path::{Path, PathBuf};

use super::skipped::skipped;

/// A folder of published files that may be beside the tree; where it is not, the test is skipped.
pub(crate) fn shared(name: &str) -> Option<PathBuf> {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().skip(1);
    let found = above.map(|folder| folder.join("shared/data").join(name)).find(|path| path.is_dir());
    if found.is_none() {
        skipped(&format!("there is no shared/data/{name} beside the tree"));
    }
    found
}
