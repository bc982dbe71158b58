//! Reading public data sets.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value, json};

use super::{Work, metrics};
use crate::code::{Tests, exact};
use crate::config::{AnswerStyle, Dataset, Format};
use crate::files;
use crate::grade;
use crate::protocol::StageError;
use crate::record::{Example, Query};

/// A row, understood.
struct Item {
    question: String,
    answer: String,
    /// The reference solutions, the first of which is the best known.
    solutions: Vec<String>,
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
        let longest = config.longest_solution.unwrap_or(usize::MAX);
        let short = item.solutions.iter().filter(|solution| solution.chars().count() <= longest);
        for solution in short.take(config.solutions.unwrap_or(1)) {
            let completion = config.completion.as_deref().unwrap_or(config.format.completion());
            let steps = if completion.contains("{steps}") { stepwise(solution) } else { String::new() };
            let values = [("{solution}", solution.as_str()), ("{steps}", &steps), ("{answer}", &item.answer)];
            let completion = filled(completion, &values);
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
            Some(Value::String(text)) => serde_json::from_str(&exact(text))
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
        let plain = |question, answer, solution: Option<String>| Item {
            question,
            answer,
            solutions: solution.into_iter().collect(),
            choices: None,
            tests: None,
            tags: self.tags(),
        };
        let tested = |question, solutions: Vec<String>, tests| Item {
            question,
            answer: String::new(),
            solutions: solutions.iter().map(|code| code.trim_end().to_owned()).collect(),
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
                let solution = self.text("canonical_solution")?.map(|body| format!("{prompt}{body}"));
                tested(prompt, solution.into_iter().collect(), Tests::Statements { tests })
            }
            Format::Mbpp => {
                let setup = self.text("test_setup_code")?.filter(|setup| !setup.trim().is_empty());
                let asserts = self.texts("test_list")?;
                if asserts.is_empty() {
                    return Err(self.wrong("it has no tests"));
                }
                let question = format!("{}\n\n{}", self.required("text")?.trim(), asserts.join("\n"));
                let tests = setup.into_iter().chain(asserts).collect();
                tested(question, self.text("code")?.into_iter().collect(), Tests::Statements { tests })
            }
            Format::Apps => {
                let examples = self.json("input_output")?.ok_or_else(|| self.wrong("it has no tests"))?;
                let tests = serde_json::from_value(examples)
                    .map_err(|_| self.wrong("`input_output` must hold `inputs` and `outputs`"))?;
                let starter = self.text("starter_code")?.filter(|code| !code.trim().is_empty());
                let question = self.required("question")?.trim().to_owned();
                let question =
                    starter.map(|code| format!("{question}\n\n```python\n{code}\n```")).unwrap_or(question);
                tested(question, self.texts("solutions")?, tests)
            }
        })
    }

    /// Choices are lettered by position, whatever their labels: the right one's letter is the answer.
    fn choice(&self) -> Result<Item, StageError> {
        // As AI2 has it, `question` holds all but the key, and every choice is an object.
        let (stem, choices) = match self.value("question") {
            Some(Value::Object(whole)) => {
                let stem = whole.get("stem").and_then(Value::as_str).map(str::to_owned);
                let stem = stem.ok_or_else(|| self.wrong("`question` has no `stem`"))?;
                (stem, whole.get("choices").cloned())
            }
            _ => (self.required("question")?, self.json("choices")?),
        };
        let choices = choices.ok_or_else(|| self.wrong("it has no `choices`"))?;
        let choices = match choices {
            Value::Array(each) => {
                let column = |name| each.iter().map(|one| one.get(name).cloned()).collect::<Option<Vec<_>>>();
                json!({"text": column("text"), "label": column("label")})
            }
            columns => columns,
        };
        let wrong = || self.wrong("`choices` must hold `text` and `label`, of equal length");
        let choices = grade::choices(&choices).ok_or_else(wrong)?;
        let key = self.required("answerKey")?;
        let position = choices.iter().position(|(label, _)| label.eq_ignore_ascii_case(key.trim()));
        let letter = position.and_then(grade::choice_letter);
        let letter = letter.ok_or_else(|| self.wrong("`answerKey` is none of the labels"))?;
        let question = grade::choice_prompt(&stem, &choices);
        Ok(Item {
            question,
            answer: letter.to_string(),
            solutions: vec![String::new()],
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

/// A solution with a blank line after each step. A step is a line; where the whole solution is one paragraph, a
/// sentence. Formulas and environments that span lines stay whole.
fn stepwise(solution: &str) -> String {
    let mut steps: Vec<String> = Vec::new();
    let mut open = false;
    for line in solution.trim().lines() {
        match steps.last_mut().filter(|_| open) {
            Some(step) => {
                step.push('\n');
                step.push_str(line);
            }
            None if line.trim().is_empty() => continue,
            None => steps.push(line.trim().to_owned()),
        }
        open = steps.last().is_some_and(|step| spans(step));
    }
    match steps.as_slice() {
        [paragraph] => sentences(paragraph).join("\n\n"),
        _ => steps.join("\n\n"),
    }
}

/// Whether a text ends within a formula or an environment.
fn spans(text: &str) -> bool {
    let count = |mark: &str| text.matches(mark).count();
    let pairs = [("\\begin{", "\\end{"), ("\\[", "\\]"), ("\\(", "\\)"), ("[asy]", "[/asy]")];
    let dollars = count("$") - count("\\$");
    pairs.iter().any(|(begin, end)| count(begin) > count(end)) || dollars % 2 == 1
}

/// The sentences of a paragraph. A full stop ends one where a space and no lower-case letter follows, outside of
/// formulas; the words of abbreviations and initials are too short to end one.
fn sentences(paragraph: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut start = 0;
    for (at, _) in paragraph.match_indices(". ") {
        let (sentence, rest) = (&paragraph[start..=at], paragraph[at + 2..].trim_start());
        let word = sentence.trim_end_matches('.').rsplit(char::is_whitespace).next().unwrap_or_default();
        let abbreviated = word.chars().count() < 3 && word.chars().all(char::is_alphabetic);
        if !abbreviated && !spans(sentence) && !rest.starts_with(char::is_lowercase) && !rest.is_empty() {
            found.push(sentence.trim());
            start = at + 2;
        }
    }
    found.push(paragraph[start..].trim());
    found
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
