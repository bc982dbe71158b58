//! `bstar grade`: judges answers, JSON lines in and out.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::num::NonZero;
use std::path::PathBuf;
use std::thread;

use bstar_stages::code::{Comparison, Judge, Rules, Tests, exact};
use bstar_stages::config::Grader;
use bstar_stages::grade::{Conventions, Verdict, choices, choose, judge};
use bstar_stages::sandbox::Sandbox;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value};

use crate::commands::unwritten;
use crate::failure::{Failure, tell};
use crate::report::count;

/// What to judge, and how.
#[derive(Debug, Clone, Args)]
pub struct Grade {
    /// JSON lines [default: standard input]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// What the rows hold
    #[arg(long, default_value = "math", value_name = "TASK")]
    task: Task,
    /// How answers are compared
    #[arg(long, default_value = "math", value_name = "GRADER")]
    grader: Comparer,
    /// Change what counts as equal, as in `percent=hundredth`, `list_order=true` or `rounding=none` (graders of the
    /// field disagree; more than once for several)
    #[arg(long, value_name = "NAME=VALUE")]
    convention: Vec<String>,
    /// Print counts to standard error at the end
    #[arg(long)]
    summary: bool,
    /// Compare with each row's `expected`, and print the agreement and every disagreement to standard error
    #[arg(long)]
    check: bool,
    /// Compare what programs print line by line, not as leniently as the harness of APPS
    #[arg(long)]
    strict: bool,
    /// Run code as it is, with your rights: only on a machine that is a sandbox itself
    #[arg(long)]
    unsafe_no_sandbox: bool,
    /// Threads [default: number of cores]
    #[arg(short, long, value_name = "N")]
    jobs: Option<NonZero<usize>>,
}

/// What rows hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Task {
    /// {gold, pred}
    Math,
    /// {question, choices: {text, label}, answerKey, pred}
    Choice,
    /// {code, tests}, a list of statements, or {code, inputs, outputs, fn_name?}
    Code,
}

/// How answers are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Comparer {
    /// By value
    Math,
    /// As the published B-STaR code does
    Official,
    /// Character by character
    Exact,
}

impl From<Comparer> for Grader {
    fn from(comparer: Comparer) -> Self {
        match comparer {
            Comparer::Math => Self::Math,
            Comparer::Official => Self::Official,
            Comparer::Exact => Self::Exact,
        }
    }
}

/// Rows judged before any is written, at most.
const BATCH: usize = 4096;
/// What is read at once.
const BUFFER: usize = 1 << 20;

/// How rows were judged.
#[derive(Debug, Default)]
struct Counts {
    rows: usize,
    correct: usize,
    malformed: usize,
    expected: usize,
    agreed: usize,
    /// Right by the grader, wrong by `expected`.
    false_accepts: usize,
}

/// A line, judged: the row to print, or what is wrong with it.
type Judged = Result<(Map<String, Value>, bool), String>;

/// Judges every row and prints it with `correct` and `reason`, in order.
///
/// # Errors
/// When the file cannot be read.
pub fn grade(options: &Grade) -> Result<u8, Failure> {
    let name =
        options.file.as_ref().map_or_else(|| "standard input".to_owned(), |file| file.display().to_string());
    let unreadable = |error: &std::io::Error| Failure::Usage {
        message: format!("cannot read {name}: {error}"),
        hint: Some("give a file of JSON lines, or pipe them in".to_owned()),
    };
    let source: Box<dyn Read> = match &options.file {
        Some(file) => Box::new(File::open(file).map_err(|error| unreadable(&error))?),
        None => Box::new(std::io::stdin()),
    };
    let conventions = conventions(&options.convention)?;
    let sandbox = match options.task {
        Task::Code => Some(sandbox(options)?),
        Task::Math | Task::Choice => None,
    };
    let jobs = options.jobs.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZero::get);
    let mut reader = BufReader::with_capacity(BUFFER, source);
    let mut output = BufWriter::with_capacity(BUFFER, std::io::stdout().lock());
    let mut counts = Counts::default();
    let mut line = 0;
    loop {
        let lines = batch(&mut reader).map_err(|error| unreadable(&error))?;
        if lines.is_empty() {
            break;
        }
        let make = || Bench {
            options,
            conventions: &conventions,
            judge: sandbox.clone().map(|sandbox| Judge::new(sandbox, rules(options))),
        };
        let least = if options.task == Task::Code { 1 } else { 16 };
        for judged in in_parallel(&lines, jobs, least, make, |bench, line| bench.judged(line)) {
            line += 1;
            let Some(judged) = judged else { continue };
            let printed = judged.and_then(|(row, correct)| {
                counts.note(&row, correct);
                if options.check
                    && row.get("expected").is_some_and(|expected| expected.as_bool() == Some(!correct))
                {
                    tell(format_args!("{name}:{line}: {}", disagreement(&row, correct)));
                }
                serde_json::to_string(&row).map_err(|error| error.to_string())
            });
            match printed {
                Ok(text) => {
                    if let Err(error) = writeln!(output, "{text}") {
                        return unwritten(&error).map(|()| 0);
                    }
                }
                Err(problem) => {
                    counts.malformed += 1;
                    tell(format_args!("{name}:{line}: {problem}"));
                }
            }
        }
        if let Err(error) = output.flush() {
            return unwritten(&error).map(|()| 0);
        }
    }
    if options.summary {
        let Counts { rows, correct, malformed, .. } = counts;
        tell(format_args!(
            "{}, {correct} correct, {} wrong, {malformed} malformed",
            count(rows, "row"),
            rows - correct
        ));
    }
    if options.check {
        let Counts { expected, agreed, false_accepts, .. } = counts;
        let rejected = expected - agreed - false_accepts;
        tell(format_args!(
            "{agreed} of {expected} as expected, {false_accepts} accepted and {rejected} rejected against `expected`"
        ));
    }
    if counts.malformed > 0 {
        return Err(Failure::usage(format!(
            "{} of {name} could not be judged",
            count(counts.malformed, "line")
        )));
    }
    Ok(0)
}

/// The usual conventions with the changes that were asked for.
fn conventions(changes: &[String]) -> Result<Conventions, Failure> {
    let mut conventions = Conventions::default();
    for change in changes {
        let (name, value) = change
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("`--convention {change}` is not NAME=VALUE")))?;
        conventions.set(name, value).map_err(Failure::usage)?;
    }
    Ok(conventions)
}

/// The next lines: as many as are there without waiting, and at least one unless all are read.
fn batch<R: Read>(reader: &mut BufReader<R>) -> std::io::Result<Vec<Vec<u8>>> {
    let mut lines = Vec::new();
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(lines);
        }
        lines.push(line);
        if lines.len() >= BATCH || !reader.buffer().contains(&b'\n') {
            return Ok(lines);
        }
    }
}

/// Applies a function to every item, on several threads, each of which gets `least` items or more and makes itself
/// what it needs; the results are in order.
fn in_parallel<I: Sync, S, O: Send>(
    items: &[I],
    jobs: usize,
    least: usize,
    make: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &I) -> O + Sync,
) -> Vec<O> {
    let size = items.len().div_ceil(jobs.max(1)).max(least);
    let carry_out = |chunk: &[I]| -> Vec<O> {
        let mut state = make();
        chunk.iter().map(|item| work(&mut state, item)).collect()
    };
    if items.len() <= size {
        return carry_out(items);
    }
    let carry_out = &carry_out;
    thread::scope(|scope| {
        let threads: Vec<_> = items.chunks(size).map(|chunk| scope.spawn(move || carry_out(chunk))).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// Where code is run.
fn sandbox(options: &Grade) -> Result<Sandbox, Failure> {
    let found = if options.unsafe_no_sandbox { Sandbox::nothing() } else { Sandbox::find() };
    found.map_err(|error| Failure::Usage { message: error.to_string(), hint: Some(error.hint) })
}

fn rules(options: &Grade) -> Rules {
    let comparison = if options.strict { Comparison::Strict } else { Comparison::Official };
    Rules { comparison, ..Rules::default() }
}

/// What one thread needs to judge.
struct Bench<'a> {
    options: &'a Grade,
    conventions: &'a Conventions,
    /// For code.
    judge: Option<Judge>,
}

impl Bench<'_> {
    /// Judges one line; `None` for an empty one.
    fn judged(&mut self, line: &[u8]) -> Option<Judged> {
        if line.trim_ascii().is_empty() {
            return None;
        }
        Some(self.judge_row(line))
    }

    fn judge_row(&mut self, line: &[u8]) -> Judged {
        let mut row: Map<String, Value> =
            serde_json::from_slice(line).map_err(|error| format!("not a JSON object: {error}"))?;
        let options = self.options;
        let (correct, reason) = match &mut self.judge {
            Some(judge) => {
                let verdict = code(judge, &row, line)?;
                row.insert("passed".to_owned(), verdict.passed.into());
                (verdict.correct, verdict.reason.unwrap_or_else(|| "all tests pass".to_owned()))
            }
            None if options.task == Task::Choice => {
                let verdict = choice(&row)?;
                (verdict.correct, verdict.reason.to_owned())
            }
            None => {
                let (gold, pred) = (text(&row, "gold")?, text(&row, "pred")?);
                let verdict = judge(&gold, &pred, options.grader.into(), self.conventions);
                (verdict.correct, verdict.reason.to_owned())
            }
        };
        row.insert("correct".to_owned(), correct.into());
        row.insert("reason".to_owned(), reason.into());
        Ok((row, correct))
    }
}

/// Runs a row's code against its tests.
fn code(
    judge: &mut Judge,
    row: &Map<String, Value>,
    line: &[u8],
) -> Result<bstar_stages::code::Verdict, String> {
    let program = row.get("code").and_then(Value::as_str).ok_or("`code` must be text")?;
    // What programs are compared with is not rounded, as the row is.
    let tests: Tests = serde_json::from_str(&exact(&String::from_utf8_lossy(line)))
        .map_err(|_| "give `tests`: [statements], or `inputs` and `outputs` of equal length".to_owned())?;
    judge.judge(program, &tests).map_err(|error| format!("the sandbox failed: {error}"))
}

/// A field that is text or a number.
fn text(row: &Map<String, Value>, field: &str) -> Result<String, String> {
    match row.get(field) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        Some(Value::Null) => Ok(String::new()),
        Some(_) => Err(format!("`{field}` must be text")),
        None => Err(format!("`{field}` is missing")),
    }
}

fn choice(row: &Map<String, Value>) -> Result<Verdict, String> {
    let choices = row.get("choices").and_then(choices);
    let choices = choices.ok_or("`choices` must be {text: [...], label: [...]} of equal length")?;
    Ok(choose(&choices, &text(row, "answerKey")?, &text(row, "pred")?))
}

impl Counts {
    fn note(&mut self, row: &Map<String, Value>, correct: bool) {
        self.rows += 1;
        self.correct += usize::from(correct);
        if let Some(expected) = row.get("expected").and_then(Value::as_bool) {
            self.expected += 1;
            self.agreed += usize::from(expected == correct);
            self.false_accepts += usize::from(correct && !expected);
        }
    }
}

fn disagreement(row: &Map<String, Value>, correct: bool) -> String {
    let short = |field: &str| {
        let text = text(row, field).unwrap_or_default().replace('\n', " ");
        let skipped = text.chars().count().saturating_sub(60);
        text.chars().skip(skipped).collect::<String>()
    };
    let said = if correct { "accepted" } else { "rejected" };
    let reason = row.get("reason").and_then(Value::as_str).unwrap_or("");
    format!("{said} ({reason}): gold `{}`, pred `{}`", short("gold"), short("pred"))
}
