//! Rendering prompts by a template.

use serde_json::{Map, Value, json};

use super::{Work, metrics};
use crate::chat::Chat;
use crate::config::Prompts;
use crate::files;
use crate::protocol::StageError;

pub(super) fn prompts(config: &Prompts, work: &Work) -> Result<Map<String, Value>, StageError> {
    let Prompts { rows: _, policy, template, system, variables } = config;
    let folder = policy.as_ref().map(|_| work.input("policy")).transpose()?;
    let chat = Chat::new(folder, template.as_deref())?;
    let mut rows: Vec<Map<String, Value>> = work.rows("rows")?;
    for (number, row) in rows.iter_mut().enumerate() {
        let place = |error: StageError| StageError {
            message: format!("row {} of `rows`: {}", number + 1, error.message),
            ..error
        };
        let Some(Value::String(prompt)) = row.get("prompt") else {
            return Err(place(StageError::invalid("it has no text `prompt`")));
        };
        let rendered = chat.render(system.as_deref(), prompt, variables).map_err(place)?;
        drop(row.insert("prompt".to_owned(), json!(rendered)));
    }
    files::write_rows(&work.path("rows.jsonl"), &rows)?;
    Ok(metrics([("rows", rows.len().into())]))
}
