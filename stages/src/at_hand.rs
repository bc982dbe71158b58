//! What some tests need and not every machine has: public data sets, a sandbox. A test without them says so, and
//! is counted as skipped where `BSTAR_SKIPPED` names a list, which `scripts/test.sh` shows in the end.

use std::path::PathBuf;

use crate::sandbox::Sandbox;

#[path = "../../cache/tests-support/skipped.rs"]
mod skipped;

pub(crate) use skipped::skipped;

/// The text of a file of the public data sets: in `$BSTAR_SHARED`, or the folder `shared` beside the checkout.
pub(crate) fn shared(name: &str) -> Option<String> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let folder = std::env::var_os("BSTAR_SHARED").map_or(beside, PathBuf::from);
    let text = std::fs::read_to_string(folder.join("data").join(name));
    if text.is_err() {
        skipped(&format!("the data set {name} is not at hand"));
    }
    text.ok()
}

/// A way to run untrusted code.
pub(crate) fn sandbox() -> Option<Sandbox> {
    Sandbox::find().inspect_err(|reason| skipped(&reason.to_string())).ok()
}
