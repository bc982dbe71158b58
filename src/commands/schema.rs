//! `bstar schema`: what editors need to know of pipeline files.

use crate::cli::Failure;
use crate::commands::answer;
use crate::pipeline;

/// Prints the JSON Schema of pipeline files.
///
/// # Errors
/// Never: JSON is written to text.
pub fn schema() -> Result<u8, Failure> {
    let text = serde_json::to_string_pretty(&pipeline::schema())
        .map_err(|error| Failure::usage(format!("cannot write JSON: {error}")))?;
    answer(&text);
    Ok(0)
}
