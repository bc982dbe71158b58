//! Temperatures that stay in a search, and queries that are worth more samples.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::candidates::{id_of, pooled};
use super::select::{configurations, write_surface};
use super::{Work, metrics};
use crate::balance::{self, Choice};
use crate::config::{Allocate, Halve};
use crate::files;
use crate::protocol::StageError;
use crate::record::{Query, Reward};
use crate::reference::Setting;

pub(super) fn halve(config: &Halve, work: &Work) -> Result<Map<String, Value>, StageError> {
    let Halve { search, keep } = config;
    let (mut surface, _) = configurations(search, work)?;
    write_surface(search, &surface, work)?;
    let mut kept: Vec<Choice> = Vec::new();
    while kept.len() < *keep {
        let best = balance::best(&surface, search.rules.ties).ok_or_else(|| {
            StageError::invalid(format!("{keep} temperatures are to stay; there are {}", kept.len()))
                .hint("compare more temperatures")
        })?;
        surface.retain(|choice| choice.temperature.total_cmp(&best.temperature).is_ne());
        kept.push(best);
    }
    kept.sort_by(|a, b| a.temperature.total_cmp(&b.temperature));
    for (index, choice) in kept.iter().enumerate() {
        files::write_json(&work.path(&format!("t{}.json", index + 1)), &choice.temperature)?;
    }
    let temperatures: Vec<f64> = kept.iter().map(|choice| choice.temperature).collect();
    Ok(metrics([("temperatures", temperatures.into())]))
}

pub(super) fn allocate(config: &Allocate, work: &Work) -> Result<Map<String, Value>, StageError> {
    let Allocate { queries: _, rewards: _, temperature, above, below, count } = config;
    let temperature = temperature.as_ref().and_then(Setting::value);
    let queries: Vec<Query> = work.rows("queries")?;
    let rewards: Vec<Reward> = pooled(work, "rewards", id_of)?;
    let mut judged: HashMap<&str, (u32, u32)> = HashMap::new();
    for reward in &rewards {
        if temperature.is_none_or(|wanted| wanted.total_cmp(&reward.temperature).is_eq()) {
            let (right, all) = judged.entry(&reward.query_id).or_default();
            *right += u32::from(reward.correct);
            *all += 1;
        }
    }
    let share = |query: &Query| {
        let (right, all) = judged.get(query.id.as_str())?;
        Some(f64::from(*right) / f64::from(*all))
    };
    let middle = f64::midpoint(*above, *below);
    let mut chosen: Vec<(f64, usize)> = Vec::new();
    for (position, query) in queries.iter().enumerate() {
        if let Some(share) = share(query).filter(|share| share > above && share < below) {
            chosen.push(((share - middle).abs(), position));
        }
    }
    chosen.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    chosen.truncate(count.unwrap_or(usize::MAX));
    if chosen.is_empty() {
        return Err(StageError::invalid(format!(
            "no query has a share of right responses above {above} and below {below}"
        ))
        .hint("widen the bounds, or sample more responses first"));
    }
    let mut positions: Vec<usize> = chosen.into_iter().map(|(_, position)| position).collect();
    positions.sort_unstable();
    files::write_rows(&work.path("queries.jsonl"), positions.iter().map(|position| &queries[*position]))?;
    Ok(metrics([("queries", positions.len().into()), ("of", queries.len().into())]))
}
