//! `bstar pipeline sweep`.

use crate::cli::{Execution, Format, Global, Source, SweepOptions, TableFormat, open_store, store_or_none};
use crate::commands::pipeline::{Run, carry_out, conclude, exit_code, options, preview_failure};
use crate::commands::{answer, answer_json};
use crate::estimate::Past;
use crate::event::{Event, VariantSummary};
use crate::executor::survey::survey;
use crate::failure::Failure;
use crate::report::{Human, Report, variants_csv, variants_markdown, variants_text};
use crate::run_record::RunStart;
use crate::sweep::forecast::{Forecast, forecast};
use crate::sweep::{Refused, Request, Sweep, outcome};

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Problems(problems) => Self::Pipeline(problems),
            Refused::Usage { message, hint } => Self::Usage { message, hint },
        }
    }
}

/// Runs all variants of a pipeline as one plan, and compares them.
///
/// # Errors
/// When the pipeline, a variant or the store cannot be read; failures of steps are an exit code.
pub async fn pipeline_sweep(
    global: &Global,
    source: &Source,
    wanted: &SweepOptions,
    execution: &Execution,
) -> Result<u8, Failure> {
    let request = Request {
        arguments: source.overrides.clone(),
        seeds: wanted.seeds.clone(),
        only: wanted.only.clone(),
        baseline: wanted.baseline.clone(),
    };
    let sweep = Sweep::load(&source.file, &request)?;
    let baseline = &sweep.variants[0].pipeline;
    let file = source.file.to_string_lossy();
    let mut start =
        RunStart::now(&baseline.name, &file, request.arguments.clone(), baseline.seed, baseline.resolved());
    start.sweep = Some(sweep.record(&request));
    let options = options(&start, baseline, execution)?;
    let store = if wanted.plan { store_or_none(global).await? } else { open_store(global).await? };
    let plan = sweep.plan();
    let standings = survey(&store, &plan).await.map_err(preview_failure)?;
    let (counted, left) = forecast(&plan, &standings);
    let past = if left.is_empty() { Past::default() } else { Past::read(&store).await? };
    let forecast = Forecast { variants: sweep.variants.len(), seeds: sweep.seeds.len(), ..counted }
        .expecting(&plan, &left, &past, &options);
    let notes = sweep.twins(&plan).into_iter().map(|message| Event::Note { level: "warn", message });
    if wanted.plan {
        notes.for_each(|note| Human::default().event(&note));
        match global.format {
            Format::Text => answer(&forecast.to_string())?,
            Format::Json => answer_json(&forecast)?,
        }
        return Ok(0);
    }
    let run = Run { global, store, plan: &plan, start: &start, options };
    let finished = carry_out(run, notes.chain([Event::Forecast(Box::new(forecast))]).collect(), |finished| {
        outcome::complete(&sweep, &finished.parts, &mut finished.summary);
    })
    .await?;
    if global.format == Format::Text {
        show(&finished.summary.variants, wanted.table)?;
        conclude(&source.file, &finished.summary, &finished.outcome);
    }
    exit_code(finished)
}

/// Prints the table of a sweep.
fn show(variants: &[VariantSummary], format: TableFormat) -> Result<(), Failure> {
    match format {
        TableFormat::Text => answer(&format!("\n{}", variants_text(variants).unwrap_or_default()))?,
        TableFormat::Markdown => answer(&variants_markdown(variants).unwrap_or_default())?,
        TableFormat::Csv => answer(&variants_csv(variants))?,
        TableFormat::Json => answer_json(&variants)?,
    }
    Ok(())
}
