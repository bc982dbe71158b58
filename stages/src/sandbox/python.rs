//! Which Python runs the programs: what is right in one version need not be in the next.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::str::FromStr;
use std::sync::OnceLock;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Unavailable;

/// Where interpreters are looked for: those of a home folder cannot be executed by every user, and a sandbox has no
/// other folders.
const FOLDERS: [&str; 2] = ["/usr/bin", "/usr/local/bin"];

/// A version of Python's language, such as 3.11.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Python {
    major: u32,
    minor: u32,
}

impl Python {
    /// The version of this machine's `python3`; looked up once.
    ///
    /// # Errors
    /// When there is none.
    pub fn here() -> Result<Self, Unavailable> {
        static HERE: OnceLock<Result<Python, Unavailable>> = OnceLock::new();
        HERE.get_or_init(|| Ok(asked(&usual()?)?.1)).clone()
    }

    /// The interpreter of this version.
    pub(super) fn interpreter(self) -> Result<String, Unavailable> {
        let named = found(&format!("python{self}"));
        let (path, version) = asked(&named.map_or_else(usual, Ok)?)?;
        if version != self {
            return Err(Unavailable {
                reason: format!("programs are to be judged by Python {self}, and {path} is Python {version}"),
                hint: format!(
                    "install Python {self} below {}, or write `code: {{python: \"{version}\"}}`, by which they are \
                     judged anew",
                    FOLDERS[0]
                ),
            });
        }
        Ok(path)
    }
}

fn found(name: &str) -> Option<String> {
    FOLDERS.into_iter().map(|folder| format!("{folder}/{name}")).find(|path| Path::new(path).exists())
}

/// The interpreter that is used where none is named.
pub(super) fn usual() -> Result<String, Unavailable> {
    found("python3").ok_or_else(|| Unavailable {
        reason: format!("there is no {}/python3", FOLDERS[0]),
        hint: "install Python 3 from the system's packages".to_owned(),
    })
}

/// The version that an interpreter says it has.
fn asked(path: &str) -> Result<(String, Python), Unavailable> {
    let unclear = |said: String| Unavailable {
        reason: format!("{path} does not say which version it is: {said}"),
        hint: "install Python 3 from the system's packages".to_owned(),
    };
    let output = Command::new(path).args(["-I", "--version"]).output();
    let output = output.map_err(|error| unclear(error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let version = said.strip_prefix("Python ").and_then(|version| version.parse().ok());
    version.map(|version| (path.to_owned(), version)).ok_or_else(|| unclear(format!("{said:?}")))
}

impl fmt::Display for Python {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Python {
    type Err = String;

    /// `3.11`, or with more after it: `3.11.2`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no version of Python: write for example \"3.11\"");
        let mut parts = text.split('.');
        let mut number =
            || parts.next().filter(|part| part.len() < 4).and_then(|part| part.parse::<u32>().ok());
        let (major, minor) = number().zip(number()).ok_or_else(wrong)?;
        if major != 3 {
            return Err(wrong());
        }
        Ok(Self { major, minor })
    }
}

impl Serialize for Python {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Python {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Quoted;
        impl Visitor<'_> for Quoted {
            type Value = Python;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a version in quotes (\"3.10\": without them it is the number 3.1)")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Python, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Quoted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_two_numbers_in_quotes() {
        let read = |json: &str| serde_json::from_str::<Python>(json).map_err(|error| error.to_string());
        assert_eq!(read("\"3.11\"").map(|python| python.to_string()), Ok("3.11".to_owned()));
        assert_eq!(read("\"3.10.4\"").map(|python| python.to_string()), Ok("3.10".to_owned()));
        assert!(read("3.1").unwrap_err().contains("a version in quotes"));
        for text in ["\"3\"", "\"2.7\"", "\"py311\"", "\"3.x\"", "\"\"", "\"3.99999\""] {
            assert!(read(text).unwrap_err().contains("no version of Python"), "{text}");
        }
    }

    #[test]
    fn another_version_than_the_one_that_is_there_is_refused() {
        let Ok(here) = Python::here() else { return crate::at_hand::skipped("there is no Python") };
        assert!(here.interpreter().is_ok());
        let other: Python = "3.1".parse().unwrap();
        let error = other.interpreter().unwrap_err();
        assert!(error.reason.contains("judged by Python 3.1, and "), "{error}");
        assert!(error.hint.contains(&format!("code: {{python: \"{here}\"}}")), "{}", error.hint);
    }
}
