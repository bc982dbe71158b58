//! Reading public data sets.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value};

use super::{Work, metrics};
use crate::code::Tests;
use crate::config::{AnswerStyle, Dataset, Format};
use crate::files;
use crate::grade;
use crate::protocol::StageError;
use crate::record::{Example, Query};

/// A row, understood.
struct Item {
    question: String,
    answer: String,
    solution: Option<String>,
    choices: Option<Vec<String>>,
    tests: Option<Tests>,
    tags: BTreeMap<String, String>,
}

pub(super) fn dataset(config: &Dataset, work: &Work) -> Result<Map<String, Value>, StageError> {
    let rows: Vec<Map<String, Value>> = work.rows("file")?;
    let (mut queries, mut examples, mut ids) = (Vec::new(), Vec::new(), HashSet::new());
    let limit = config.limit.unwrap_or(usize::MAX);
    for (index, row) in rows.iter().enumerate().skip(config.skip).take(limit) {
        let row = Row { config, row, number: index + 1 };
        let item = row.item()?;
        let id = row.text("id")?.unwrap_or_else(|| format!("{}/{index}", config.format.name()));
        if !ids.insert(id.clone()) {
            return Err(row.wrong(&format!("its id `{id}` is that of an earlier row")));
        }
        let prompt = config.prompt.as_deref().unwrap_or(config.format.prompt());
        let prompt = prompt.replace("{question}", &item.question);
        if let Some(solution) = &item.solution {
            let completion = config.completion.as_deref().unwrap_or(config.format.completion());
            let completion = filled(completion, &[("{solution}", solution), ("{answer}", &item.answer)]);
            examples.push(Example {
                prompt: prompt.clone(),
                completion,
                query_id: Some(id.clone()),
                sample_index: None,
                reward: None,
            });
        }
        let Item { answer, choices, tests, tags, .. } = item;
        queries.push(Query { id, prompt, answer, prefix: None, choices, tests, tags });
    }
    if queries.is_empty() {
        let hint = "look at `skip`, `limit` and the file";
        return Err(StageError::invalid(format!("no row is left of {}", rows.len())).hint(hint));
    }
    files::write_rows(&work.path("queries.jsonl"), &queries)?;
    files::write_rows(&work.path("examples.jsonl"), &examples)?;
    Ok(metrics([("queries", queries.len().into()), ("examples", examples.len().into())]))
}

/// Replaces each placeholder once: what is put in may hold the others' names.
fn filled(template: &str, values: &[(&str, &str)]) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((at, name, value)) = values
        .iter()
        .filter_map(|(name, value)| Some((rest.find(name)?, *name, *value)))
        .min_by_key(|(at, _, _)| *at)
    {
        text.push_str(&rest[..at]);
        text.push_str(value);
        rest = &rest[at + name.len()..];
    }
    text + rest
}

/// A row of the file.
struct Row<'a> {
    config: &'a Dataset,
    row: &'a Map<String, Value>,
    number: usize,
}

impl Row<'_> {
    fn wrong(&self, what: &str) -> StageError {
        let columns = self.config.format.columns().join(", ");
        StageError::invalid(format!(
            "row {} of `file` cannot be read as {}: {what}",
            self.number,
            self.config.format.name()
        ))
        .hint(format!(
            "the format has the columns {columns}; `columns: {{problem: my_name}}` names them otherwise"
        ))
    }

    /// A column that is there and not null. The format's `id` goes by several names.
    fn value(&self, column: &str) -> Option<&Value> {
        let renamed = self.config.columns.get(column).map(String::as_str);
        let names: &[&str] = match (renamed, column) {
            (None, "id") => &["id", "task_id", "unique_id", "problem_id"],
            (None, "text") => &["text", "prompt"],
            _ => &[renamed.unwrap_or(column)],
        };
        names.iter().find_map(|name| self.row.get(*name)).filter(|value| !value.is_null())
    }

    /// A column of text, or of a number.
    fn text(&self, column: &str) -> Result<Option<String>, StageError> {
        match self.value(column) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(_) => Err(self.wrong(&format!("`{column}` is no text"))),
        }
    }

    fn required(&self, column: &str) -> Result<String, StageError> {
        self.text(column)?.ok_or_else(|| self.wrong(&format!("it has no `{column}`")))
    }

    /// A column of JSON, which some publish as text.
    fn json(&self, column: &str) -> Result<Option<Value>, StageError> {
        match self.value(column) {
            Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
            Some(Value::String(text)) => serde_json::from_str(text)
                .map(Some)
                .map_err(|error| self.wrong(&format!("`{column}`: {error}"))),
            other => Ok(other.cloned()),
        }
    }

    fn texts(&self, column: &str) -> Result<Vec<String>, StageError> {
        let items = self.json(column)?.unwrap_or(Value::Array(Vec::new()));
        serde_json::from_value(items).map_err(|_| self.wrong(&format!("`{column}` is no list of texts")))
    }

    fn item(&self) -> Result<Item, StageError> {
        let plain = |question, answer, solution| Item {
            question,
            answer,
            solution,
            choices: None,
            tests: None,
            tags: self.tags(),
        };
        let tested = |question, solution, tests| Item {
            question,
            answer: String::new(),
            solution,
            choices: None,
            tests: Some(tests),
            tags: self.tags(),
        };
        Ok(match self.config.format {
            Format::Gsm8k => {
                let text = self.required("answer")?;
                let parted = text.rsplit_once("####");
                let (solution, answer) = parted.ok_or_else(|| self.wrong("`answer` has no `####`"))?;
                let solution = without_calculations(solution.trim());
                plain(self.required("question")?, answer.trim().replace(',', ""), Some(solution))
            }
            Format::Math => {
                let solution = self.text("solution")?;
                let boxed = || {
                    grade::find(solution.as_deref()?, AnswerStyle::Boxed).map(|answer| answer.into_owned())
                };
                let answer = self.text("answer")?.or_else(boxed);
                let answer =
                    answer.ok_or_else(|| self.wrong("it has no `answer`, and no solution with \\boxed{}"))?;
                plain(self.required("problem")?, answer, solution)
            }
            Format::Arc => self.choice()?,
            Format::Humaneval => {
                let (prompt, entry) = (self.required("prompt")?, self.required("entry_point")?);
                let tests = vec![self.required("test")?, format!("check({entry})")];
                let solution = self
                    .text("canonical_solution")?
                    .map(|body| format!("{prompt}{body}").trim_end().to_owned());
                tested(prompt, solution, Tests::Statements { tests })
            }
            Format::Mbpp => {
                let setup = self.text("test_setup_code")?.filter(|setup| !setup.trim().is_empty());
                let asserts = self.texts("test_list")?;
                if asserts.is_empty() {
                    return Err(self.wrong("it has no tests"));
                }
                let question = format!("{}\n\n{}", self.required("text")?.trim(), asserts.join("\n"));
                let tests = setup.into_iter().chain(asserts).collect();
                tested(
                    question,
                    self.text("code")?.map(|code| code.trim_end().to_owned()),
                    Tests::Statements { tests },
                )
            }
            Format::Apps => {
                let examples = self.json("input_output")?.ok_or_else(|| self.wrong("it has no tests"))?;
                let tests = serde_json::from_value(examples)
                    .map_err(|_| self.wrong("`input_output` must hold `inputs` and `outputs`"))?;
                let starter = self.text("starter_code")?.filter(|code| !code.trim().is_empty());
                let question = self.required("question")?.trim().to_owned();
                let question =
                    starter.map(|code| format!("{question}\n\n```python\n{code}\n```")).unwrap_or(question);
                let solution = self.texts("solutions")?.into_iter().next();
                tested(question, solution.map(|code| code.trim_end().to_owned()), tests)
            }
        })
    }

    /// Choices are lettered by position, whatever their labels: the right one's letter is the answer.
    fn choice(&self) -> Result<Item, StageError> {
        let choices = self.json("choices")?.ok_or_else(|| self.wrong("it has no `choices`"))?;
        let wrong = || self.wrong("`choices` must hold `text` and `label`, of equal length");
        let choices = grade::choices(&choices).ok_or_else(wrong)?;
        let key = self.required("answerKey")?;
        let position = choices.iter().position(|(label, _)| label.eq_ignore_ascii_case(key.trim()));
        let letter = position.and_then(grade::choice_letter);
        let letter = letter.ok_or_else(|| self.wrong("`answerKey` is none of the labels"))?;
        let question = grade::choice_prompt(&self.required("question")?, &choices);
        Ok(Item {
            question,
            answer: letter.to_string(),
            solution: Some(String::new()),
            choices: Some(choices.into_iter().map(|(_, text)| text).collect()),
            tests: None,
            tags: self.tags(),
        })
    }

    /// What reports may group by.
    fn tags(&self) -> BTreeMap<String, String> {
        let tag = |name: &str| {
            let value = match self.row.get(name)? {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => return None,
            };
            Some((name.to_owned(), value))
        };
        ["subject", "type", "level", "difficulty"].into_iter().filter_map(tag).collect()
    }
}

/// Without the `<<48/2=24>>` of GSM8K.
fn without_calculations(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, inside)) = rest.split_once("<<") {
        let Some((_, after)) = inside.split_once(">>") else { break };
        plain.push_str(before);
        rest = after;
    }
    plain + rest
}
