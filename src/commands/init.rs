//! `bstar init`: a pipeline file to begin with.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::cli::{Format, Global};
use crate::commands::{answer, answer_json};
use crate::failure::Failure;
use crate::pipeline::Pipeline;

/// The pipelines that come with bstar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Template {
    /// From scratch on a laptop: a small model learns word problems (minutes)
    Math,
    /// The same in seconds, for first looks
    Tiny,
    /// GSM8K with a model of a billion parameters, on one GPU
    #[value(name = "gsm8k-1b")]
    Gsm8k1b,
    /// MATH at the paper's sizes
    #[value(name = "math-7b")]
    Math7b,
    /// Programs, judged by their tests
    Code,
    /// ARC-Challenge
    Arc,
}

impl Template {
    fn text(self) -> &'static str {
        match self {
            Self::Math => include_str!("../../pipelines/math.yaml"),
            Self::Tiny => include_str!("../../pipelines/tiny.yaml"),
            Self::Gsm8k1b => include_str!("../../pipelines/gsm8k-1b.yaml"),
            Self::Math7b => include_str!("../../pipelines/math-7b.yaml"),
            Self::Code => include_str!("../../pipelines/code.yaml"),
            Self::Arc => include_str!("../../pipelines/arc.yaml"),
        }
    }

    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// The file it is written to where no other is named.
    fn file(self) -> PathBuf {
        PathBuf::from(format!("{}.yaml", self.name()))
    }

    /// The text, whose first lines name the file that it is written to.
    fn text_of(self, file: &Path) -> String {
        let (own, new) = (self.file(), file.file_name().unwrap_or(file.as_os_str()));
        let (own, new) = (own.to_string_lossy(), new.to_string_lossy());
        let line = |line: &str| match line.starts_with("#   bstar ") {
            true => line.replace(&*own, &new),
            false => line.to_owned(),
        };
        self.text().split_inclusive('\n').map(line).collect()
    }
}

/// Writes a pipeline file that does not exist yet.
///
/// # Errors
/// When the file exists or cannot be written.
pub fn init(global: &Global, template: Template, file: Option<&Path>) -> Result<u8, Failure> {
    let file = file.map_or_else(|| template.file(), Path::to_owned);
    let text = template.text_of(&file);
    let written = File::create_new(&file).and_then(|mut new| new.write_all(text.as_bytes()));
    written.map_err(|error| Failure::Usage {
        message: format!("cannot write {}: {error}", file.display()),
        hint: (error.kind() == ErrorKind::AlreadyExists)
            .then(|| format!("name another file: bstar init {} my.yaml", template.name())),
    })?;
    // Nothing else is wrong with the pipelines that come with bstar.
    let missing = Pipeline::load(&file, &[]).err().unwrap_or_default();
    let missing: Vec<String> = missing.into_iter().map(|problem| problem.message).collect();
    match global.format {
        Format::Json => answer_json(&serde_json::json!({"file": file, "missing": missing}))?,
        Format::Text => {
            let file = file.display();
            let run = format!("bstar pipeline run {file}");
            answer(&match &missing[..] {
                [] => format!("wrote {file}; next: {run}"),
                missing => format!(
                    "wrote {file}; it needs what is not there yet:\n  {}\nits first lines have the commands that fetch it; \
                     after these: {run}",
                    missing.join("\n  ")
                ),
            })?;
        }
    }
    Ok(0)
}
