//! The result of a step that was cut into shards: their files, and the sums of their figures.

use std::collections::BTreeMap;
use std::sync::Arc;

use bstar_cache::{Artifact, Manifest};
use bstar_stages::Output;
use bstar_stages::protocol::StageError;
use serde_json::{Map, Value};

/// The outputs of a whole: the only file of each shard, at its path.
///
/// # Errors
/// When they are not the declared `outputs`: such a result would be found again, and be of no use.
pub(super) fn joined(
    shards: &[(String, Arc<Manifest>)],
    outputs: &[Output],
) -> Result<BTreeMap<String, Artifact>, StageError> {
    let holds = |output: &Output, path: &str| match path.strip_prefix(&output.path) {
        Some(below) if output.folder => below.len() > 1 && below.starts_with('/'),
        below => below == Some(""),
    };
    let mut files = BTreeMap::new();
    for (path, manifest) in shards {
        let wrong = |what: &str| {
            let message = format!("its shard {} {what}", manifest.provenance.step);
            StageError::failed(message).hint("this is an error of the stage, not of the pipeline")
        };
        let file = manifest.outputs.values().next().ok_or_else(|| wrong("has no output"))?;
        if !outputs.iter().any(|output| holds(output, path)) {
            return Err(wrong(&format!("goes to `{path}`, which is in no output")));
        }
        if files.insert(path.clone(), *file).is_some() {
            return Err(wrong(&format!("goes to `{path}`, as another one does")));
        }
    }
    match outputs.iter().find(|output| !files.keys().any(|path| holds(output, path))) {
        Some(Output { path, .. }) => Err(StageError::failed(format!("no shard wrote the output `{path}`"))),
        None => Ok(files),
    }
}

/// The figures of a whole from those of its shards: counts and seconds add up; averages do not, and
/// are left out.
pub(super) fn sum<'a>(metrics: impl Iterator<Item = &'a Map<String, Value>>) -> Map<String, Value> {
    let mut sums: Map<String, Value> = Map::new();
    for (name, value) in metrics.flatten() {
        let before = sums.get(name);
        let sum = match (value.as_u64(), value.as_f64()) {
            (Some(value), _) => Value::from(before.and_then(Value::as_u64).unwrap_or(0) + value),
            (None, Some(value)) if name.ends_with("_s") && !name.ends_with("_per_s") => {
                Value::from(before.and_then(Value::as_f64).unwrap_or(0.0) + value)
            }
            _ => continue,
        };
        sums.insert(name.clone(), sum);
    }
    sums
}

#[cfg(test)]
mod tests {
    use bstar_cache::Digest;

    use super::*;

    #[test]
    fn shards_that_are_not_the_declared_outputs_are_refused() {
        let shard = |path: &str, files: &[&str]| {
            let artifact = Artifact { digest: Digest::of(b"row"), size: 3 };
            let outputs = files.iter().map(|file| ((*file).to_owned(), artifact)).collect();
            let action = bstar_cache::Action {
                stage: "score".to_owned(),
                version: 1,
                config: bstar_cache::Ingredient::Absent,
                seed: None,
                inputs: BTreeMap::new(),
            };
            let provenance =
                bstar_cache::Provenance { step: format!("r/{path}"), ..bstar_cache::Provenance::default() };
            (path.to_owned(), Arc::new(Manifest::new(action, outputs, Map::new(), provenance)))
        };
        let outputs = [Output::folder("rewards")];
        let good =
            [shard("rewards/a.jsonl", &["rewards.jsonl"]), shard("rewards/b.jsonl", &["rewards.jsonl"])];
        let files = joined(&good, &outputs).unwrap();
        assert_eq!(files.into_keys().collect::<Vec<_>>(), ["rewards/a.jsonl", "rewards/b.jsonl"]);
        let refused = |shards: &[(String, Arc<Manifest>)]| joined(shards, &outputs).unwrap_err().message;
        for path in ["rewards/", "rewards", "rewards.jsonl", "other/a.jsonl"] {
            let message = refused(&[shard(path, &["rewards.jsonl"])]);
            assert_eq!(message, format!("its shard r/{path} goes to `{path}`, which is in no output"));
        }
        assert_eq!(refused(&[shard("rewards/a", &[])]), "its shard r/rewards/a has no output");
        let twice = refused(&[good[0].clone(), good[0].clone()]);
        assert!(twice.ends_with("as another one does"), "{twice}");
        assert_eq!(refused(&[]), "no shard wrote the output `rewards`");
    }
}
