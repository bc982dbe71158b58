//! `bstar pipeline graph`.

use std::collections::BTreeMap;

use crate::cli::{Format, Global, GraphFormat, Source, is_absent, open_store};
use crate::commands::pipeline::{load, preview_failure};
use crate::commands::{answer, answer_json};
use crate::executor::preview::preview;
use crate::failure::Failure;
use crate::graph::Drawing;
use crate::plan::Plan;

/// Draws the plan of a pipeline, coloured by what is stored.
///
/// # Errors
/// When the pipeline or the store cannot be read.
pub async fn pipeline_graph(
    global: &Global,
    source: &Source,
    to: GraphFormat,
    all: bool,
    no_store: bool,
) -> Result<u8, Failure> {
    let pipeline = load(&source.file, &source.overrides)?;
    let plan = Plan::new(&pipeline);
    let states = if no_store || is_absent(&global.store) {
        BTreeMap::new()
    } else {
        let fates = preview(&open_store(global).await?, &plan).await.map_err(preview_failure)?;
        fates.into_iter().map(|(id, fate)| (id, fate.state())).collect()
    };
    let drawing = Drawing::of(&plan, &states, all);
    match (global.format, to) {
        (Format::Json, _) => answer_json(&drawing)?,
        (Format::Text, GraphFormat::Dot) => answer(&drawing.dot())?,
        (Format::Text, GraphFormat::Mermaid) => answer(&drawing.mermaid())?,
    }
    Ok(0)
}
