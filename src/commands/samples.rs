//! `bstar run samples`: what an iteration sampled, how it was judged, and what it learned from.

use std::collections::{BTreeMap, BTreeSet};

use bstar_cache::{Digest, Store, StoreError};
use bstar_stages::record::{Example, FinishReason, Query, Response, Reward};
use clap::Args;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::export::{files_of, gone};
use super::runs::find_run;
use crate::cli::{Format, Global, existing_store};
use crate::commands::{answer, answer_json};
use crate::failure::Failure;
use crate::pipeline::nearest;
use crate::report::count;
use crate::run_record::RunInfo;

/// Which samples are wanted.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Samples {
    /// The iteration, from 0 [default: the last one]
    #[arg(short, long, value_name = "N")]
    iteration: Option<usize>,
    /// Only responses to this query
    #[arg(long, value_name = "ID")]
    query: Option<String>,
    /// Only right answers
    #[arg(long, conflicts_with = "wrong")]
    right: bool,
    /// Only wrong answers
    #[arg(long)]
    wrong: bool,
    /// Only what the iteration learned from
    #[arg(long)]
    kept: bool,
    /// Most responses; 0 is all
    #[arg(short, long, default_value_t = 5, value_name = "N")]
    limit: usize,
}

/// A response and what became of it.
struct Sample {
    query: Query,
    response: Response,
    reward: Reward,
    kept: bool,
}

/// Shows responses that the `filter` of an iteration chose from.
///
/// # Errors
/// When there is no such run or iteration, it has no `filter`, or its results are no longer stored.
pub async fn run_samples(global: &Global, run: &str, wanted: &Samples) -> Result<u8, Failure> {
    let store = existing_store(&global.store).await?;
    let run = find_run(&store, run).await?;
    let samples = read(&store, &run, wanted).await?;
    if let Some(id) = wanted.query.as_ref().filter(|id| !samples.iter().any(|sample| sample.query.id == **id))
    {
        let ids: BTreeSet<&str> = samples.iter().map(|sample| sample.query.id.as_str()).collect();
        let hint = nearest(id, ids.iter().copied()).map(|meant| format!("did you mean `{meant}`?"));
        let message = format!("no response of this iteration answers a query `{id}`");
        return Err(Failure::Usage { message, hint });
    }
    let fits = |sample: &&Sample| {
        wanted.query.as_ref().is_none_or(|id| sample.query.id == *id)
            && (!wanted.right || sample.reward.correct)
            && (!wanted.wrong || !sample.reward.correct)
            && (!wanted.kept || sample.kept)
    };
    let found: Vec<&Sample> = samples.iter().filter(fits).collect();
    let most = if wanted.limit == 0 { found.len() } else { wanted.limit };
    let shown = &found[..most.min(found.len())];
    match global.format {
        Format::Json => shown.iter().try_for_each(|sample| answer_json(&sample.json()))?,
        Format::Text => answer(&format!(
            "{}{} of {}",
            text(shown),
            shown.len(),
            if found.len() == samples.len() {
                count(samples.len(), "response")
            } else {
                format!("{} such, of {}", found.len(), count(samples.len(), "response"))
            }
        ))?,
    }
    Ok(0)
}

impl Sample {
    fn json(&self) -> Value {
        json!({
            "query_id": self.query.id, "prompt": self.query.prompt, "answer": self.query.answer,
            "sample_index": self.response.sample_index, "temperature": self.response.temperature,
            "text": self.response.text, "tokens": self.response.tokens, "logprob": self.response.logprob,
            "finish_reason": self.response.finish_reason,
            "extracted": self.reward.extracted, "correct": self.reward.correct, "reward": self.reward.reward,
            "step_scores": self.reward.step_scores, "kept": self.kept,
        })
    }
}

/// Each query once, its responses below it.
fn text(samples: &[&Sample]) -> String {
    let indented = |text: &str, by: &str| {
        text.trim_end().lines().map(|line| format!("{by}{line}\n")).collect::<String>()
    };
    let (mut text, mut last) = (String::new(), None);
    for Sample { query, response, reward, kept } in samples {
        if last != Some(&query.id) {
            text.push_str(&format!(
                "query {}, answer {}\n{}\n",
                query.id,
                query.answer,
                indented(&query.prompt, "  ")
            ));
            last = Some(&query.id);
        }
        text.push_str(&format!(
            "  sample {} at t {}: {}, reward {:.3}{}{}\n{}\n",
            response.sample_index,
            response.temperature,
            if reward.correct { "right" } else { "wrong" },
            reward.reward,
            if *kept { ", kept" } else { "" },
            if response.finish_reason == FinishReason::Length { ", truncated" } else { "" },
            indented(&response.text, "    "),
        ));
    }
    text
}

/// All responses of the iteration, in the order of its files.
async fn read(store: &Store, run: &RunInfo, wanted: &Samples) -> Result<Vec<Sample>, Failure> {
    let id = &run.start.id;
    let Some(summary) = run.summary.as_ref().filter(|summary| summary.variants.is_empty()) else {
        let what = if run.summary.is_some() { "is a sweep" } else { "has not ended" };
        return Err(Failure::Usage {
            message: format!("the run {id} {what}"),
            hint: Some("`bstar run list` shows all runs; those of single pipelines have samples".to_owned()),
        });
    };
    let last = summary.iterations.len().saturating_sub(1);
    let iteration = wanted.iteration.unwrap_or(last);
    let stages = run.start.resolved.get("iteration").and_then(Value::as_object);
    let filter = stages.into_iter().flatten().find(|(_, stage)| stage["uses"] == "filter");
    let Some((stage, filter)) = filter.filter(|_| iteration <= last) else {
        let what = if iteration > last {
            format!("no iteration {iteration}: its last one is {last}")
        } else {
            "no `filter` stage".to_owned()
        };
        return Err(Failure::usage(format!("the run {id} has {what}")));
    };
    let of = |field: &str| {
        let references = match &filter["with"][field] {
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect::<Vec<_>>(),
        };
        let of = |reference: &str| {
            result(summary, iteration, reference).ok_or_else(|| {
                match run.start.resolved["inputs"][reference] {
                    Value::Null => Failure::Usage {
                        message: format!(
                            "the run {id} did not come to `{reference}` of iteration {iteration}"
                        ),
                        hint: Some(format!(
                            "`bstar run show {id}` says why; to go on: {}",
                            run.start.typed()
                        )),
                    },
                    _ => Failure::usage(format!("`{reference}` is a file outside of the store")),
                }
            })
        };
        references.into_iter().map(of).collect::<Result<Vec<_>, _>>()
    };
    let queries: Vec<Query> = rows(store, run, &of("queries")?).await?;
    let responses: Vec<Response> = rows(store, run, &of("responses")?).await?;
    let rewards: Vec<Reward> = rows(store, run, &of("rewards")?).await?;
    let dataset = format!("{stage}.dataset");
    let kept: Vec<Example> =
        rows(store, run, &result(summary, iteration, &dataset).into_iter().collect::<Vec<_>>()).await?;
    let kept: BTreeSet<(String, u32, String)> =
        kept.into_iter().filter_map(|row| Some((row.query_id?, row.sample_index?, row.completion))).collect();
    let queries: BTreeMap<&str, &Query> = queries.iter().map(|query| (query.id.as_str(), query)).collect();
    let name = |query: &str, sample: u32, temperature: f64| (query.to_owned(), sample, temperature.to_bits());
    let mut rewards: BTreeMap<_, Reward> = rewards
        .into_iter()
        .map(|reward| (name(&reward.query_id, reward.sample_index, reward.temperature), reward))
        .collect();
    let pairs = responses.into_iter().filter_map(|response| {
        let query = (*queries.get(response.query_id.as_str())?).clone();
        let reward = rewards.remove(&name(&query.id, response.sample_index, response.temperature))?;
        let kept = kept.contains(&(query.id.clone(), response.sample_index, response.text.clone()));
        Some(Sample { query, response, reward, kept })
    });
    let mut samples: Vec<Sample> = pairs.collect();
    samples.sort_by(|a, b| {
        let (one, other) = (&a.response, &b.response);
        let place = (&a.query.id, one.sample_index).cmp(&(&b.query.id, other.sample_index));
        place.then(one.temperature.total_cmp(&other.temperature))
    });
    Ok(samples)
}

/// The name and digest of what a reference in an iteration means.
fn result<'a>(
    summary: &'a crate::event::Summary,
    iteration: usize,
    reference: &str,
) -> Option<(&'a String, &'a String)> {
    let (step, output) =
        reference.split_once('.').map_or((reference, None), |(step, output)| (step, Some(output)));
    [format!("iteration[{iteration}].{step}."), format!("setup.{step}.")].iter().find_map(|begins| {
        summary.results.iter().find(|(name, _)| {
            name.strip_prefix(begins.as_str())
                .is_some_and(|rest| output.map_or(!rest.contains('.'), |output| rest == output))
        })
    })
}

async fn rows<T: DeserializeOwned>(
    store: &Store,
    run: &RunInfo,
    results: &[(&String, &String)],
) -> Result<Vec<T>, Failure> {
    let mut rows = Vec::new();
    for (name, digest) in results {
        let gone = || gone(store, run, name);
        let digest: Digest = digest.parse().map_err(|_| gone())?;
        let files = files_of(store, run, name, &digest).await?.ok_or_else(gone)?;
        for (_, artifact) in files {
            let bytes = match store.read(&artifact.digest).await {
                Err(StoreError::Missing { .. }) => return Err(gone()),
                other => other?,
            };
            for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let row = serde_json::from_slice(line);
                rows.push(row.map_err(|error| Failure::usage(format!("`{name}` has an odd row: {error}")))?);
            }
        }
    }
    Ok(rows)
}
