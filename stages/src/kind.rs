//! What a file that a program writes holds, and whether it does.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use schemars::JsonSchema;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use crate::files;
use crate::protocol::StageError;
use crate::record::{Example, LabelledSteps, Query, Response, Reward};

/// What a file holds; of a folder, what each of its files holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Rows of [`Query`], each with an id of its own.
    Queries,
    /// Rows of [`Response`].
    Responses,
    /// Rows of [`Reward`].
    Rewards,
    /// Rows of [`Example`].
    Dataset,
    /// Rows of [`LabelledSteps`].
    Labels,
    /// Any JSON values, one a line.
    Jsonl,
    /// One JSON value.
    Json,
    /// One finite number, as JSON: what a setting can refer to.
    Number,
}

/// How a row is told from the others of its file, or what is wrong with it beyond its types.
type Examined = Result<Option<String>, String>;

impl Kind {
    /// The name in pipelines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queries => "queries",
            Self::Responses => "responses",
            Self::Rewards => "rewards",
            Self::Dataset => "dataset",
            Self::Labels => "labels",
            Self::Jsonl => "jsonl",
            Self::Json => "json",
            Self::Number => "number",
        }
    }

    /// What each row has, for advice.
    fn content(self) -> &'static str {
        match self {
            Self::Queries => "rows with id, prompt and answer",
            Self::Responses => {
                "rows with query_id, sample_index, temperature, text, tokens, logprob and finish_reason"
            }
            Self::Rewards => "rows with query_id, sample_index, temperature, text_id, correct and reward",
            Self::Dataset => "rows with prompt and completion",
            Self::Labels => {
                "rows with query_id, prompt, steps and labels, which are shares of continuations that are right \
                 (write 0 where other software has -1)"
            }
            Self::Jsonl => "one JSON value a line",
            Self::Json => "one JSON value",
            Self::Number => "one number",
        }
    }

    /// Reads the file at `path`, called `name` in errors, and refuses it when it holds anything else.
    ///
    /// # Errors
    /// The file, the row and the field that does not fit.
    pub fn check(self, path: &Path, name: &str) -> Result<(), StageError> {
        match self {
            Self::Queries => rows(path, name, |row: Query| Ok(Some(format!("query `{}`", row.id)))),
            Self::Responses => rows(path, name, |row: Response| {
                Ok(Some(sample(&row.query_id, row.sample_index, row.temperature)))
            }),
            Self::Rewards => rows(path, name, |row: Reward| {
                if row.text_id.len() > 16 || u64::from_str_radix(&row.text_id, 16).is_err() {
                    return Err(format!("field `text_id`: `{}` is not 16 hexadecimal digits", row.text_id));
                }
                Ok(Some(sample(&row.query_id, row.sample_index, row.temperature)))
            }),
            Self::Dataset => rows(path, name, |_: Example| Ok(None)),
            Self::Labels => rows(path, name, |row: LabelledSteps| {
                if row.steps.len() != row.labels.len() {
                    return Err(format!("{} steps have {} labels", row.steps.len(), row.labels.len()));
                }
                if let Some(at) = row.labels.iter().position(|label| !(0.0..=1.0).contains(label)) {
                    let (label, query) = (row.labels[at], row.query_id);
                    return Err(format!(
                        "field `labels[{at}]`: {label} (query `{query}`) is not a number from 0 to 1"
                    ));
                }
                Ok(None)
            }),
            Self::Jsonl => rows(path, name, |_: IgnoredAny| Ok(None)),
            Self::Json => value::<IgnoredAny>(path, name).map(drop),
            Self::Number => value::<f64>(path, name).map(drop),
        }
        .map_err(|error| {
            let hint = format!("`outputs` declares `{name}` as {}: {}", self.name(), self.content());
            error.hint(hint)
        })
    }
}

fn sample(query_id: &str, sample_index: u32, temperature: f64) -> String {
    format!("sample {sample_index} of query `{query_id}` at temperature {temperature}")
}

fn rows<T: DeserializeOwned>(
    path: &Path,
    name: &str,
    examine: impl Fn(T) -> Examined,
) -> Result<(), StageError> {
    let unreadable = |error: std::io::Error| StageError::io(format_args!("read `{name}`"), &error);
    let mut reader = BufReader::new(File::open(path).map_err(unreadable)?);
    let mut seen = HashSet::new();
    let mut line = Vec::new();
    for row in 1_usize.. {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(unreadable)? == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let wrong = |what: String| StageError::failed(format!("`{name}`, row {row}, {what}"));
        match examine(parse(&line).map_err(wrong)?) {
            Ok(None) => {}
            Ok(Some(identity)) if seen.contains(&identity) => {
                return Err(StageError::failed(format!("`{name}`, row {row}: {identity} occurs twice")));
            }
            Ok(Some(identity)) => drop(seen.insert(identity)),
            Err(what) => return Err(wrong(what)),
        }
    }
    Ok(())
}

fn value<T: DeserializeOwned>(path: &Path, name: &str) -> Result<T, StageError> {
    let bytes = std::fs::read(path).map_err(|error| StageError::io(format_args!("read `{name}`"), &error))?;
    parse(&bytes).map_err(|what| StageError::failed(format!("`{name}`, {what}")))
}

/// One JSON value of a type; an error names the field.
fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.inner().to_string();
        // Of a row, only the column says anything.
        let reason = reason.replace(" at line 1 column ", ", column ");
        if path == "." { reason } else { format!("field `{path}`: {reason}") }
    })?;
    reader.end().map_err(|_| "there is more than one value".to_owned())?;
    Ok(value)
}

/// What a reward has in common with the response it judges.
#[derive(Deserialize, JsonSchema)]
struct Judged {
    query_id: String,
    sample_index: u32,
    temperature: f64,
}

/// Refuses rewards (a file or folder, called `name` in errors) that are not exactly one for each response.
///
/// # Errors
/// A response without a reward, or a reward without a response.
pub fn covers(rewards: &Path, name: &str, responses: &Path) -> Result<(), StageError> {
    let identities = |path: &Path| -> Result<HashSet<String>, StageError> {
        let rows = files::read_rows::<Judged>(path)?.into_iter();
        Ok(rows.map(|row| sample(&row.query_id, row.sample_index, row.temperature)).collect())
    };
    let (judged, given) = (identities(rewards)?, identities(responses)?);
    let first = |missing: HashSet<&String>, what: &str| {
        let count = missing.len();
        let first = missing.into_iter().min()?;
        let more = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
        Some(StageError::failed(format!("`{name}` {what} {first}{more}")).hint(
            "the input `responses` and the rewards must be of the same samples: copy query_id, \
             sample_index and temperature from each response",
        ))
    };
    let without = first(given.difference(&judged).collect(), "has no reward for");
    match without.or_else(|| first(judged.difference(&given).collect(), "has a reward for an unknown")) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(kind: Kind, text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, text).unwrap();
        match kind.check(&path, "out.jsonl") {
            Ok(()) => String::new(),
            Err(error) => {
                assert!(error.hint.unwrap().contains(kind.name()));
                error.message
            }
        }
    }

    const REWARD: &str =
        r#"{"query_id":"q","sample_index":0,"temperature":0.7,"text_id":"00ff","correct":true,"reward":1.5}"#;

    #[test]
    fn rows_of_the_kind_are_accepted_whatever_else_they_hold() {
        assert_eq!(checked(Kind::Rewards, &format!("{REWARD}\n\n")), "");
        assert_eq!(checked(Kind::Rewards, &REWARD.replace('}', r#","mine":[1]}"#)), "");
        assert_eq!(checked(Kind::Queries, r#"{"id":"a","prompt":"?","answer":"1"}"#), "");
        assert_eq!(checked(Kind::Dataset, r#"{"prompt":"?","completion":"1"}"#), "");
        assert_eq!(checked(Kind::Jsonl, "1\n[]\n\"x\""), "");
        assert_eq!(checked(Kind::Json, "{\n}\n"), "");
        assert_eq!(checked(Kind::Number, "0.5\n"), "");
    }

    #[test]
    fn an_error_names_the_file_the_row_and_the_field() {
        let text = format!("{REWARD}\n{}", REWARD.replace("1.5", "\"high\""));
        assert_eq!(
            checked(Kind::Rewards, &text),
            "`out.jsonl`, row 2, field `reward`: invalid type: string \"high\", expected f64, column 98"
        );
        let missing = checked(Kind::Rewards, &REWARD.replace("\"correct\":true,", ""));
        assert!(missing.starts_with("`out.jsonl`, row 1, missing field `correct`"), "{missing}");
        let nan = checked(Kind::Rewards, &REWARD.replace("1.5", "NaN"));
        assert!(nan.contains("row 1, field `reward`"), "{nan}");
        let id = checked(Kind::Rewards, &REWARD.replace("00ff", "none"));
        assert_eq!(id, "`out.jsonl`, row 1, field `text_id`: `none` is not 16 hexadecimal digits");
        let cut = checked(Kind::Jsonl, "{\"a\": 1}\n{\"a\":");
        assert!(cut.starts_with("`out.jsonl`, row 2, "), "{cut}");
        assert!(checked(Kind::Number, "\"0.5\"").starts_with("`out.jsonl`, invalid type"));
        assert_eq!(checked(Kind::Json, "{} {}"), "`out.jsonl`, there is more than one value");
        let labels = r#"{"query_id":"q","prompt":"?","steps":["a","b"],"labels":[1]}"#;
        assert_eq!(checked(Kind::Labels, labels), "`out.jsonl`, row 1, 2 steps have 1 labels");
        for (label, fits) in [("0", true), ("1.0", true), ("-1", false), ("1.5", false)] {
            let found = checked(Kind::Labels, &labels.replace("[1]", &format!("[1, {label}]")));
            assert_eq!(found.is_empty(), fits, "{found}");
        }
        assert_eq!(
            checked(Kind::Labels, &labels.replace("[1]", "[0.25, -1]")),
            "`out.jsonl`, row 1, field `labels[1]`: -1 (query `q`) is not a number from 0 to 1"
        );
    }

    #[test]
    fn a_row_that_occurs_twice_is_refused() {
        let twice = checked(Kind::Rewards, &format!("{REWARD}\n{REWARD}\n"));
        assert_eq!(twice, "`out.jsonl`, row 2: sample 0 of query `q` at temperature 0.7 occurs twice");
    }

    #[test]
    fn rewards_are_exactly_those_of_the_responses() {
        let folder = tempfile::tempdir().unwrap();
        let row =
            |query: &str| format!("{{\"query_id\":\"{query}\",\"sample_index\":0,\"temperature\":1.0}}\n");
        let (rewards, responses) = (folder.path().join("rewards"), folder.path().join("responses"));
        let compare = |judged: &[&str], given: &[&str]| {
            std::fs::write(&rewards, judged.iter().map(|id| row(id)).collect::<String>()).unwrap();
            std::fs::write(&responses, given.iter().map(|id| row(id)).collect::<String>()).unwrap();
            covers(&rewards, "r.jsonl", &responses).err().map(|error| error.message).unwrap_or_default()
        };
        assert_eq!(compare(&["b", "a"], &["a", "b"]), "");
        assert_eq!(
            compare(&["a"], &["a", "b", "c"]),
            "`r.jsonl` has no reward for sample 0 of query `b` at temperature 1 (and 1 more)"
        );
        assert_eq!(
            compare(&["a", "b"], &["a"]),
            "`r.jsonl` has a reward for an unknown sample 0 of query `b` at temperature 1"
        );
    }
}
