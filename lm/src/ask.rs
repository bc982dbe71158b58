//! Asking a model: `bstar-lm model`, JSON lines in and out.

use std::io::{BufRead, ErrorKind, Write};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use bstar_stages::config::{Precision, SampleShard, is_temperature};
use bstar_stages::protocol::StageError;
use bstar_stages::{Device, hub};
use clap::{Args, Subcommand, ValueEnum};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tch::Kind;

use crate::batch::Packed;
use crate::checkpoint::{load_model, load_tokenizer};
use crate::error::{Result, io, torch};
use crate::generate::{Policy, Prompt, Sampling};
use crate::memory;
use crate::model::{Decoder, index, rounded};
use crate::progress::Control;
use crate::tokenizer::Tokenizer;
use crate::{device, inspect};

/// Tokens read at a time.
const TOKENS: usize = 8192;

/// What to ask a model. DIR is a folder, or `hf:ORGANISATION/NAME@REVISION` in the local cache.
#[derive(Debug, Subcommand)]
pub enum Ask {
    /// Tell its family, shape, size, files, and the memory it needs
    Inspect {
        /// The model
        #[arg(value_name = "DIR")]
        model: String,
        /// How to tell it
        #[arg(long, default_value = "text")]
        format: Format,
    },
    /// Tokens of texts: {"text"} to {"ids"}, a JSON object a line
    Tokenize {
        /// The model
        #[arg(value_name = "DIR")]
        model: String,
        /// The form of the answers
        #[command(flatten)]
        lines: Lines,
    },
    /// Logits of the token that follows: {"ids"} to {"logits"}, a JSON object a line
    Logits {
        /// The model
        #[arg(value_name = "DIR")]
        model: String,
        /// On what
        #[command(flatten)]
        computing: Computing,
        /// The form of the answers
        #[command(flatten)]
        lines: Lines,
    },
    /// Responses: {"prompt"} to {"responses": [{"text", "ids", "logprobs", "finish_reason"}]}, a JSON
    /// object a line
    Generate {
        /// The model
        #[arg(value_name = "DIR")]
        model: String,
        /// How
        #[command(flatten)]
        drawing: DrawingArgs,
        /// On what
        #[command(flatten)]
        computing: Computing,
        /// The form of the answers
        #[command(flatten)]
        lines: Lines,
    },
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Answers that are JSON lines in any case.
#[derive(Debug, Args)]
pub struct Lines {
    /// Answers are always JSON lines
    #[arg(long, hide = true)]
    format: Option<Format>,
}

/// On what, and in which numbers.
#[derive(Debug, Args)]
pub struct Computing {
    /// Compute on `cpu` or `cuda:N`
    #[arg(long, default_value_t)]
    device: Device,
    /// Compute in these numbers
    #[arg(long, default_value = "float32")]
    dtype: Dtype,
}

/// Numbers to compute in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// 32 bits.
    Float32,
    /// 16 bits, 8 of them for the exponent: for GPUs.
    Bfloat16,
}

/// How responses are drawn.
#[derive(Debug, Args)]
pub struct DrawingArgs {
    /// Responses a prompt
    #[arg(long, default_value_t = 1)]
    samples: u32,
    /// 0 takes the most likely token
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,
    /// Keep the most likely tokens that hold this share of probability
    #[arg(long, default_value_t = 1.0)]
    top_p: f64,
    /// Keep this many of the most likely tokens; 0 is all
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Keep the tokens that are at least this share as likely as the most likely one
    #[arg(long, default_value_t = 0.0)]
    min_p: f64,
    /// Most tokens a response
    #[arg(long, default_value_t = 256)]
    max_tokens: usize,
    /// Decides the random numbers, with the row's `id` (or line) and the number of the sample
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// A text that ends a response; may be given several times
    #[arg(long)]
    stop: Vec<String>,
}

#[derive(Deserialize)]
struct TextLine {
    text: String,
}

#[derive(Deserialize)]
struct IdsLine {
    ids: Vec<i64>,
}

#[derive(Deserialize)]
struct PromptLine {
    id: Option<String>,
    prompt: String,
}

#[derive(Serialize)]
struct LogitsLine {
    logits: Vec<f32>,
}

/// Answers on standard output.
///
/// # Errors
/// When the model cannot be used, or a line of the input is not what is asked for.
pub fn answer(ask: &Ask) -> Result<()> {
    match ask {
        Ask::Inspect { model, format } => {
            let facts = inspect::Facts::of(&hub::resolve(model)?)?;
            match format {
                Format::Text => say(facts.text().trim_end())?,
                Format::Json => say(&facts.json().to_string())?,
            }
        }
        Ask::Tokenize { model, .. } => {
            let tokenizer = Tokenizer::load(&hub::resolve(model)?)?;
            for_each_line(|TextLine { text }| say(&json!({"ids": tokenizer.encode(&text)?}).to_string()))?;
        }
        Ask::Logits { model, computing, .. } => logits(&computing.load(&hub::resolve(model)?)?)?,
        Ask::Generate { model, drawing, computing, .. } => {
            generate(&hub::resolve(model)?, drawing, computing)?;
        }
    }
    Ok(())
}

impl Computing {
    fn load(&self, folder: &Path) -> Result<Decoder> {
        let kind = match self.dtype {
            Dtype::Float32 => Kind::Float,
            Dtype::Bfloat16 => Kind::BFloat16,
        };
        let model = load_model(folder, device::find(self.device)?, kind)?;
        if model.config().scalar {
            return Err(StageError::invalid(format!("`{}` is a reward model", folder.display()))
                .hint("only policies have logits and responses"));
        }
        Ok(model)
    }
}

fn logits(model: &Decoder) -> Result<()> {
    let _guard = tch::no_grad_guard();
    let weights = model.weights();
    let mut rows: Vec<Vec<i64>> = Vec::new();
    let flush = |rows: &mut Vec<Vec<i64>>| -> Result<()> {
        let sequences: Vec<&[i64]> = rows.iter().map(Vec::as_slice).collect();
        if sequences.is_empty() {
            return Ok(());
        }
        let packed = Packed::new(&sequences, model.device());
        let hidden = packed.forward(model, &weights, |_, _| ());
        let ends =
            sequences.iter().enumerate().map(|(number, ids)| packed.start(number) + ids.len() as i64 - 1);
        let mut ends: Vec<i64> = ends.collect();
        ends.resize(rounded(ends.len() as i64) as usize, 0);
        let logits = weights.logits(&hidden.index_select(0, &index(&ends, model.device())));
        for number in 0..sequences.len() {
            let logits = Vec::try_from(logits.get(number as i64)).map_err(|error| torch(&error))?;
            let line = serde_json::to_string(&LogitsLine { logits })
                .map_err(|error| StageError::failed(format!("cannot write JSON: {error}")))?;
            say(&line)?;
        }
        rows.clear();
        Ok(())
    };
    for_each_line(|IdsLine { ids }| {
        model.config().check_ids("the row", &ids)?;
        if (rows.iter().map(Vec::len).sum::<usize>() + ids.len()) > TOKENS {
            flush(&mut rows)?;
        }
        rows.push(ids);
        Ok(())
    })?;
    flush(&mut rows)
}

fn generate(folder: &Path, drawing: &DrawingArgs, computing: &Computing) -> Result<()> {
    let DrawingArgs { samples, temperature, top_p, top_k, min_p, max_tokens, seed, stop } = drawing;
    let shares = *top_p > 0.0 && *top_p <= 1.0 && (0.0..=1.0).contains(min_p);
    if !(is_temperature(*temperature) && shares && *samples > 0 && *max_tokens > 0) {
        return Err(StageError::invalid("these settings draw nothing").hint(
            "--temperature 0 or at least 0.000001, --top-p above 0 and at most 1, --min-p from 0 to 1, --samples and \
             --max-tokens at least 1",
        ));
    }
    if *temperature == 0.0 && *samples > 1 {
        let message = format!("at temperature 0 all {samples} samples of a prompt are the same");
        return Err(StageError::invalid(message).hint("write `--samples 1`, or a temperature above 0"));
    }
    if stop.iter().any(String::is_empty) {
        return Err(StageError::invalid("a stop text is empty").hint("it would end every response at once"));
    }
    let model = computing.load(folder)?;
    let tokenizer = load_tokenizer(folder, model.config())?;
    let memory = memory::budget(model.device())?;
    let policy = Policy::new(model, tokenizer.clone());
    let settings = SampleShard {
        temperature: *temperature,
        start: 0,
        end: *samples,
        max_tokens: *max_tokens,
        top_p: *top_p,
        top_k: *top_k,
        min_p: *min_p,
        stop: stop.clone(),
        // The model is loaded in its numbers already.
        precision: Precision::default(),
        logprobs: false,
    };
    let sampling = Sampling { settings: &settings, seed: *seed, memory };
    let mut prompts: Vec<Prompt> = Vec::new();
    for_each_line(|PromptLine { id, prompt }| {
        let id = id.unwrap_or_else(|| (prompts.len() + 1).to_string());
        prompts.push(policy.prompt_of(&id, tokenizer.encode(&prompt)?, &sampling)?);
        Ok(())
    })?;
    let (never, mut answers) = (AtomicBool::new(false), vec![Vec::new(); prompts.len()]);
    for row in policy.draw(&prompts, &sampling, &mut Control::new(&never, |_| ()))? {
        let ids: Vec<i64> = row.ids.iter().chain(&row.end_token).copied().collect();
        let reason = row.finish_reason();
        answers[row.query].push(
            json!({"text": policy.text(&row)?, "ids": ids, "logprobs": row.logprobs, "finish_reason": reason}),
        );
    }
    answers.iter().try_for_each(|responses| say(&json!({"responses": responses}).to_string()))
}

/// Reads standard input, a JSON object a line.
fn for_each_line<T: DeserializeOwned>(mut take: impl FnMut(T) -> Result<()>) -> Result<()> {
    for (number, line) in std::io::stdin().lock().lines().enumerate() {
        let place = |what: &dyn std::fmt::Display| format!("line {} of standard input: {what}", number + 1);
        let line = line.map_err(|error| StageError::failed(place(&error)))?;
        if line.trim().is_empty() {
            continue;
        }
        let value = serde_json::from_str(&line).map_err(|error| StageError::invalid(place(&error)))?;
        take(value).map_err(|error| StageError { message: place(&error.message), ..error })?;
    }
    Ok(())
}

/// Writes an answer; when nobody reads any more, there is nothing left to do.
fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        written => written.map_err(io("write", Path::new("standard output"))),
    }
}
