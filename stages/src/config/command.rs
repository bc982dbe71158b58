//! Any program as a stage.

use std::collections::BTreeMap;
use std::time::Duration;

use bstar_cache::Ingredient;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::check::Checks;
use super::declared::{self, Declared};
use crate::holds::Holds;
use crate::reference::Reference;
use crate::stage::{Input, Output, Problem, Runner, Stage};
use crate::units::{parse_duration, parse_size};

/// Runs a program. In `argv`, `{in.NAME}`, `{out}`, `{scratch}` and `{params}` are replaced by paths.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Its inputs. Names are of letters, digits, `_`, `-` and `.`.
    #[serde(default)]
    pub inputs: BTreeMap<String, Reference>,
    /// Programs and other files whose content is part of the identity, relative to the pipeline file.
    #[serde(default)]
    pub files: Vec<String>,
    /// What it must write below `{out}`: paths, or `path: kind` to have the rows checked. A folder
    /// ends in `/`.
    #[serde(deserialize_with = "declared::read")]
    #[schemars(with = "declared::Entries")]
    pub outputs: Vec<Declared>,
    /// Its environment, added to that of the engine; only this part is in the key. Names that begin with
    /// `BSTAR_` are the engine's.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Written as JSON to `{params}`.
    #[serde(default)]
    pub params: BTreeMap<String, Value>,
    /// Most time it may take, for example `10m` (not part of the result).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// CPU cores it uses.
    #[serde(default = "one")]
    pub cpu: usize,
    /// GPUs it uses.
    #[serde(default)]
    pub gpu: usize,
    /// Memory it takes, for example `4GB`: steps that do not fit together run in turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
}

/// Bytes of a file's name, on most file systems.
const LONGEST: usize = 255;

fn one() -> usize {
    1
}

impl Command {
    /// The variable that names an input to the program, with `_` for what cannot stand in such a name.
    #[must_use]
    pub fn variable(input: &str) -> String {
        let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '_' };
        format!("BSTAR_IN_{}", input.chars().map(plain).collect::<String>())
    }

    /// Most time it may take, where `timeout` is set and readable.
    #[must_use]
    pub fn time_limit(&self) -> Option<Duration> {
        self.timeout.as_deref().and_then(time_limit)
    }
}

/// Whether an input can have that name: it is that of a file, in `argv` it stands between braces, and the engine
/// gives names with a colon to `files`.
fn is_input_name(name: &str) -> bool {
    let plain = |letter: char| letter.is_alphanumeric() || "_-.".contains(letter);
    !matches!(name, "" | "." | "..") && name.len() <= LONGEST && name.chars().all(plain)
}

/// Some time.
fn time_limit(text: &str) -> Option<Duration> {
    parse_duration(text).ok().filter(|time| !time.is_zero())
}

/// Some memory.
fn bytes(text: &str) -> Option<u64> {
    parse_size(text).ok().filter(|bytes| *bytes > 0)
}

/// A JSON value as key material; object fields are ordered by name.
pub(super) fn ingredient(value: &Value) -> Ingredient {
    match value {
        Value::Null => Ingredient::Absent,
        Value::Bool(value) => (*value).into(),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(value), _, _) => value.into(),
            (None, Some(value), _) => value.into(),
            (None, None, Some(value)) => value.into(),
            (None, None, None) => number.to_string().into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => Ingredient::List(items.iter().map(ingredient).collect()),
        Value::Object(fields) => {
            Ingredient::Map(fields.iter().map(|(name, value)| (name.clone(), ingredient(value))).collect())
        }
    }
}

impl Stage for Command {
    fn runner(&self) -> Runner {
        Runner::Command
    }

    fn inputs(&self) -> Vec<Input> {
        self.inputs.iter().map(|(name, reference)| Input::required(name, reference)).collect()
    }

    fn outputs(&self) -> Vec<Output> {
        self.outputs
            .iter()
            .map(|output| {
                let name = output.name().to_owned();
                let holds = output.kind.and_then(Holds::of_kind);
                Output { path: name.clone(), folder: output.folder(), name, holds }
            })
            .collect()
    }

    /// The contents of `files` are inputs, added by the engine, so their names are not repeated here.
    fn identity(&self) -> Ingredient {
        let Self { argv, inputs: _, files: _, outputs, env, params, timeout: _, cpu: _, gpu: _, memory: _ } =
            self;
        let env = env.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
        let params = params.iter().map(|(name, value)| (name.clone(), ingredient(value))).collect();
        Ingredient::map([
            ("argv", argv.clone().into()),
            ("outputs", Ingredient::List(outputs.iter().map(Declared::identity).collect())),
            ("env", Ingredient::Map(env)),
            ("params", Ingredient::Map(params)),
        ])
    }

    fn check(&self) -> Vec<Problem> {
        let mut checks = Checks::default();
        if self.argv.first().is_none_or(String::is_empty) {
            checks.refuse(
                "argv",
                "argv names no program",
                "write the program first, for example [\"./stage\"]",
            );
        }
        if self.outputs.is_empty() {
            checks.refuse(
                "outputs",
                "outputs lists no path",
                "list what the program writes below {out}; a folder ends in `/`",
            );
        }
        for (index, output) in self.outputs.iter().enumerate() {
            let field = format!("outputs[{index}]");
            let (path, name) = (&output.path, output.name());
            let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
            if !name.split('/').all(plain) || name.contains('\\') {
                checks.refuse(
                    &field,
                    format!("`{path}` is not a path below the output folder"),
                    "write a relative path without `.` and `..`",
                );
            }
            if self.outputs[..index].iter().any(|other| other.name() == name) {
                checks.refuse(&field, format!("`{path}` is listed twice"), "remove one");
            }
        }
        let mut variables: BTreeMap<String, &str> = BTreeMap::new();
        for name in self.inputs.keys() {
            let (field, variable) = (format!("inputs.{name}"), Self::variable(name));
            if !is_input_name(name) {
                checks.refuse(
                    &field,
                    format!("`{name}` cannot be the name of an input"),
                    "write letters, digits, `_`, `-` and `.`, at most 255 bytes",
                );
            } else if let Some(other) = variables.insert(variable.clone(), name) {
                checks.refuse(
                    &field,
                    format!("the inputs `{other}` and `{name}` have the same variable, {variable}"),
                    "rename one: in variables everything but A-Z, a-z and 0-9 becomes `_`",
                );
            }
        }
        for text in &self.argv {
            for name in
                text.split("{in.").skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name)
            {
                if !self.inputs.contains_key(name) {
                    checks.refuse(
                        "argv",
                        format!("argv uses {{in.{name}}}, but inputs has no `{name}`"),
                        "add it to inputs",
                    );
                }
            }
        }
        if self.env.keys().any(|name| name.is_empty() || name.contains(['=', '\0'])) {
            checks.refuse("env", "env has a name that is empty or contains `=`", "write NAME: value");
        }
        for name in self.env.keys().filter(|name| name.starts_with("BSTAR_")) {
            checks.refuse(
                &format!("env.{name}"),
                format!("env sets {name}, but names that begin with `BSTAR_` are the engine's"),
                "use another name",
            );
        }
        if let Some(timeout) = &self.timeout
            && time_limit(timeout).is_none()
        {
            checks.refuse(
                "timeout",
                format!("`{timeout}` is not a time"),
                "write for example 90s, 10m or 1h30m",
            );
        }
        if let Some(memory) = &self.memory
            && bytes(memory).is_none()
        {
            checks.refuse("memory", format!("`{memory}` is not a size"), "write for example 500MB or 4GB");
        }
        checks.count("cpu", self.cpu);
        checks.0
    }

    fn cpu(&self) -> usize {
        self.cpu
    }

    fn memory(&self) -> u64 {
        self.memory.as_deref().and_then(bytes).unwrap_or(0)
    }
}
