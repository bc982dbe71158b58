//! `bstar init`: a pipeline file to begin with.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::cli::{Failure, Format, Global};
use crate::commands::{answer, answer_json};

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

    /// The file it is written to where no other is named.
    fn file(self) -> PathBuf {
        let name = self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        PathBuf::from(name).with_extension("yaml")
    }
}

/// Writes a pipeline file that does not exist yet.
///
/// # Errors
/// When the file exists or cannot be written.
pub fn init(global: &Global, template: Template, file: Option<&Path>) -> Result<u8, Failure> {
    let file = file.map_or_else(|| template.file(), Path::to_owned);
    let written = File::create_new(&file).and_then(|mut new| new.write_all(template.text().as_bytes()));
    written.map_err(|error| Failure::Usage {
        message: format!("cannot write {}: {error}", file.display()),
        hint: (error.kind() == ErrorKind::AlreadyExists)
            .then(|| "name another file: bstar init math my.yaml".to_owned()),
    })?;
    match global.format {
        Format::Json => answer_json(&serde_json::json!({"file": file}))?,
        Format::Text => {
            let run = format!("bstar pipeline run {}", file.display());
            answer(&format!("wrote {}; next: {run}", file.display()));
        }
    }
    Ok(0)
}
