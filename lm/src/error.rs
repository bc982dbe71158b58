//! Turning the errors of libraries into stage errors.

use std::path::Path;

use bstar_stages::protocol::{FailureKind, StageError};

/// What the functions of this crate return.
pub type Result<T> = std::result::Result<T, StageError>;

/// A failure to read or write `path`.
pub(crate) fn io<'a>(action: &'a str, path: &'a Path) -> impl FnOnce(std::io::Error) -> StageError + 'a {
    move |error| StageError::io(format_args!("{action} `{}`", path.display()), &error)
}

/// A failure of the tokenizers library, whose errors are boxed.
pub(crate) fn tokenizers(action: &str) -> impl FnOnce(tokenizers::Error) -> StageError + '_ {
    move |error| StageError::failed(format!("cannot {action}: {error}"))
}

/// A failure inside libtorch.
pub(crate) fn torch(error: &tch::TchError) -> StageError {
    torch_text(&error.to_string())
}

/// A failure inside libtorch, known by its text only: the first line says what happened, the rest is
/// a stack of C++ frames. Running out of device memory may pass when others finish.
pub(crate) fn torch_text(text: &str) -> StageError {
    let text = text.replace("\\n", "\n");
    let first = text.lines().next().unwrap_or_default().trim();
    let mut error = StageError::failed(format!("libtorch: {first}"));
    // A device says the former, the system the latter.
    if text.contains("out of memory") || text.contains("can't allocate memory") {
        error.kind = FailureKind::Transient;
        error = error.hint(
            "run fewer workers on the device; train with a smaller `micro_batch`, or with `activation_checkpointing: \
             true`; or use a smaller model",
        );
    }
    error
}
