//! Judging code: does a response's program pass the tests of its problem?
//!
//! Three kinds of tests, as the data sets have them: programs that read and write text (APPS), functions that
//! are called (APPS), and Python statements that assert (HumanEval, MBPP). The program runs in a
//! [`Sandbox`], which holds nothing else: expected outputs are compared here, and
//! statements are executed in a second sandbox that calls the first. So whatever the program does, it can only
//! pass by being right.
//!
//! Time is counted in seconds of processor time, so that a verdict does not depend on how busy the machine
//! is; only a program that sleeps is ended by the clock.

mod compare;
mod extract;
#[cfg(test)]
mod tests;
mod whole;

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::sandbox::{Ended, Limits, Sandbox, Session};

pub use extract::extract;
pub use whole::exact;

/// Runs code.
const HOST: &str = concat!(include_str!("values.py"), "\n", include_str!("host.py"));
/// Runs tests.
const JUDGE: &str = concat!(include_str!("values.py"), "\n", include_str!("judge.py"));

/// The version of the verdicts; a change that can make one differ raises it.
pub const CODE_VERSION: u32 = 3;

/// The tests of a problem.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Tests {
    /// Programs or functions, given inputs.
    Examples(Examples),
    /// Python statements that fail by raising something.
    Statements {
        /// Executed one after the other.
        tests: Vec<String>,
    },
}

/// Inputs, and what is to come out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Examples {
    /// Text for standard input, or lists of arguments. Here and in `outputs` whole numbers beyond 64 bits are as
    /// [`exact`] has them.
    pub inputs: Vec<Value>,
    /// What is printed or returned.
    pub outputs: Vec<Value>,
    /// The function that is called; without it the program reads and prints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fn_name: Option<String>,
}

/// How outputs are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Comparison {
    /// As the harness of APPS: the order and number of tokens and lines hardly matter.
    #[default]
    Official,
    /// Line by line, but for white space at the ends of lines and of the text; numbers may be rounded.
    Strict,
}

impl Comparison {
    /// The name in pipelines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Official => "official",
            Self::Strict => "strict",
        }
    }
}

/// How code is judged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rules {
    /// How outputs are compared.
    pub comparison: Comparison,
    /// Processor seconds for one test; 4 in the harness of APPS.
    pub seconds: u32,
    /// What a sandbox may use.
    pub limits: Limits,
}

impl Default for Rules {
    fn default() -> Self {
        Self { comparison: Comparison::default(), seconds: 4, limits: Limits::default() }
    }
}

/// What the tests said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether all tests passed.
    pub correct: bool,
    /// Tests that passed before the first that did not.
    pub passed: usize,
    /// Why a test failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Verdict {
    fn passed(tests: usize) -> Self {
        Self {
            correct: tests > 0,
            passed: tests,
            reason: (tests == 0).then(|| "there are no tests".to_owned()),
        }
    }

    fn failed(passed: usize, reason: impl Into<String>) -> Self {
        Self { correct: false, passed, reason: Some(reason.into()) }
    }
}

/// Judges code, one response after the other.
#[derive(Debug)]
pub struct Judge {
    sandbox: Sandbox,
    rules: Rules,
    /// Where statements are executed, once there were any.
    statements: Option<Session>,
}

impl Judge {
    /// A judge that runs code in that sandbox.
    #[must_use]
    pub fn new(sandbox: Sandbox, rules: Rules) -> Self {
        Self { sandbox, rules, statements: None }
    }

    /// Runs a program against tests until one fails. A sandbox of its own is made for it, and removed.
    ///
    /// # Errors
    /// When a sandbox cannot be started: that says nothing about the code.
    pub fn judge(&mut self, code: &str, tests: &Tests) -> Result<Verdict, std::io::Error> {
        let outcome = match tests {
            Tests::Examples(examples) => self.examples(code, examples),
            Tests::Statements { tests } => self.statements(code, tests),
        };
        match outcome {
            Ok(verdict) => Ok(verdict),
            Err(Broken { passed: _, ended: Ended::Failed(error) }) => Err(error),
            Err(Broken { passed, ended }) => Ok(Verdict::failed(passed, ended.to_string())),
        }
    }

    /// A sandbox with the code in it; what it defines, or what was wrong with it.
    fn host(&self, code: &str, mode: &str, tests: usize, limits: Limits) -> Result<(Session, Value), Broken> {
        let mut session = self.sandbox.start(HOST, limits)?;
        let seconds = f64::from(self.rules.seconds) * if mode == "session" { clamped(tests) } else { 1.0 };
        let request = json!({"mode": mode, "code": code, "seconds": seconds});
        let answer = session.ask(&request.to_string(), self.patience(seconds))?;
        Ok((session, parsed(&answer)?))
    }

    fn examples(&self, code: &str, examples: &Examples) -> Result<Verdict, Broken> {
        if examples.inputs.len() != examples.outputs.len() {
            return Ok(Verdict::failed(0, "the problem has not as many outputs as inputs"));
        }
        // What is expected fits in, however JSON spells its characters.
        let longest = examples.outputs.iter().map(|output| compare::text(output).len()).max().unwrap_or(0);
        let usual = self.rules.limits;
        let limits = Limits { output: usual.output.max(longest.saturating_mul(8)), ..usual };
        let (mut session, answer) = self.host(code, "each", examples.inputs.len(), limits)?;
        if let Some(error) = raised(&answer) {
            return Ok(Verdict::failed(0, error));
        }
        let seconds = f64::from(self.rules.seconds);
        let wall = self.patience(seconds);
        for (index, (input, output)) in examples.inputs.iter().zip(&examples.outputs).enumerate() {
            let broken = |ended| Broken { passed: index, ended };
            let mut request = json!({"seconds": seconds, "wall": wall.as_secs_f64()});
            match &examples.fn_name {
                Some(name) => {
                    request["name"] = name.as_str().into();
                    request["args"] = compare::arguments(input).into();
                }
                None => request["input"] = compare::text(input).into(),
            }
            // The host waits that long itself, and has more to do.
            let answer = session.ask(&request.to_string(), wall * 2).map_err(broken)?;
            let answer = parsed(&answer).map_err(|problem| broken(problem.ended))?;
            let Some(found) = answer.get("output").and_then(Value::as_str) else {
                return Ok(Verdict::failed(index, told(&answer)));
            };
            let right = match &examples.fn_name {
                Some(_) => compare::returned(found, output),
                None => compare::printed(found, &compare::text(output), self.rules.comparison),
            };
            if !right {
                return Ok(Verdict::failed(index, "the output is not the expected one"));
            }
        }
        Ok(Verdict::passed(examples.inputs.len()))
    }

    fn statements(&mut self, code: &str, tests: &[String]) -> Result<Verdict, Broken> {
        let (mut host, answer) = self.host(code, "session", tests.len(), self.rules.limits)?;
        if let Some(error) = raised(&answer) {
            return Ok(Verdict::failed(0, error));
        }
        let names = answer.get("names").cloned().unwrap_or(Value::Null);
        let mut judge = match self.statements.take() {
            Some(judge) => judge,
            None => {
                let mut judge = self.sandbox.start(JUDGE, self.rules.limits)?;
                judge.hear(Duration::from_secs(60))?;
                judge
            }
        };
        // All tests share the time of all; what a broken session leaves is not used again.
        let wall = self.patience(f64::from(self.rules.seconds) * clamped(tests.len()));
        let began = std::time::Instant::now();
        let mut message = judge.ask(&json!({"tests": tests, "names": names}).to_string(), wall)?;
        loop {
            let request = parsed(&message)?;
            if let Some(verdict) = request.get("verdict") {
                self.statements = Some(judge);
                let Some(index) = verdict.get("failed").and_then(Value::as_u64) else {
                    return Ok(Verdict::passed(tests.len()));
                };
                let word = |name| verdict.get(name).and_then(Value::as_str).unwrap_or_default();
                let reason = format!("{}: {}", word("kind"), word("text"));
                return Ok(Verdict::failed(usize::try_from(index).unwrap_or(0), reason));
            }
            let left = wall.saturating_sub(began.elapsed());
            // The judge waits for an answer; if none comes, it is started anew for the next response.
            let answer = host.ask(&message, left)?;
            parsed(&answer)?;
            message = judge.ask(&answer, left.max(Duration::from_secs(1)))?;
        }
    }

    /// How long something may take that needs so much processor time.
    fn patience(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64(10.0 + 3.0 * seconds)
    }
}

/// So many tests get time of their own.
fn clamped(tests: usize) -> f64 {
    f64::from(u32::try_from(tests.clamp(1, 20)).unwrap_or(20))
}

/// A session gave no answer.
#[derive(Debug)]
struct Broken {
    passed: usize,
    ended: Ended,
}

impl From<Ended> for Broken {
    fn from(ended: Ended) -> Self {
        Self { passed: 0, ended }
    }
}

/// What a program says is JSON as long as it does not meddle.
fn parsed(line: &str) -> Result<Value, Broken> {
    serde_json::from_str(line).map_err(|_| Ended::Exited.into())
}

fn raised(answer: &Value) -> Option<String> {
    let kind = answer.get("kind").or_else(|| answer.get("raised"))?.as_str()?;
    Some(format!("{kind}: {}", answer.get("text").and_then(Value::as_str).unwrap_or_default()))
}

/// Why a test gave no output.
fn told(answer: &Value) -> String {
    match answer.get("ended").and_then(Value::as_str) {
        Some("time") => Ended::Time.to_string(),
        Some("output") => Ended::Output.to_string(),
        Some("signal") => format!("ended by signal {}", answer.get("number").unwrap_or(&Value::Null)),
        Some(_) | None => {
            let text = answer.get("text").and_then(Value::as_str).unwrap_or_default();
            serde_json::from_str(text)
                .ok()
                .and_then(|error| raised(&error))
                .unwrap_or_else(|| "it failed".to_owned())
        }
    }
}
