//! Generating and drawing queries.

use serde_json::{Map, Value};

use super::{Work, metrics};
use crate::config::{Draw, Problems};
use crate::files;
use crate::problems;
use crate::protocol::StageError;
use crate::record::Query;

pub(super) fn problems(config: &Problems, work: &Work) -> Result<Map<String, Value>, StageError> {
    let sets = problems::generate(config, work.seed)?;
    let problems::Sets { pretrain, flawed, sft, train, validation, test } = &sets;
    for (name, rows) in [("pretrain", pretrain), ("flawed", flawed), ("sft", sft)] {
        files::write_rows(&work.path(&format!("{name}.jsonl")), rows)?;
    }
    for (name, rows) in [("train", train), ("validation", validation), ("test", test)] {
        files::write_rows(&work.path(&format!("{name}.jsonl")), rows)?;
    }
    Ok(sets.counts().into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect())
}

pub(super) fn draw(config: &Draw, work: &Work) -> Result<Map<String, Value>, StageError> {
    let Draw { queries: _, count, iteration } = config;
    let pool: Vec<Query> = work.rows("queries")?;
    if *count > pool.len() {
        return Err(StageError::invalid(format!("{count} queries were asked of a pool of {}", pool.len()))
            .hint("lower `count`, or use the pool itself"));
    }
    let first = iteration.unwrap_or(0) * count % pool.len();
    files::write_rows(&work.path("queries.jsonl"), pool.iter().cycle().skip(first).take(*count))?;
    Ok(metrics([("queries", (*count).into()), ("first", first.into())]))
}
