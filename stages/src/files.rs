//! Reading and writing rows, which are JSON lines, one record a line; and single JSON files.

use std::fs;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::protocol::StageError;

/// The rows of a file, or of all files below a folder in the order of their paths.
///
/// # Errors
/// [`StageError::invalid`] naming the file and the line that cannot be read.
pub fn read_rows<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, StageError> {
    let mut rows = Vec::new();
    for file in files(path)? {
        read_file(&file, &mut rows)?;
    }
    Ok(rows)
}

/// The files below a folder, sorted by path; a file stands for itself.
///
/// # Errors
/// [`StageError::invalid`] naming the folder that cannot be read.
pub fn files(path: &Path) -> Result<Vec<PathBuf>, StageError> {
    let unreadable =
        |error: std::io::Error| StageError::invalid(format!("cannot read {}: {error}", path.display()));
    if !fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        found.extend(files(&entry.map_err(unreadable)?.path())?);
    }
    found.sort();
    Ok(found)
}

/// The JSON object in a file, if there is such a file.
///
/// # Errors
/// [`StageError::invalid`] naming the file that cannot be read.
pub fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, StageError> {
    let unreadable = |error: &dyn std::fmt::Display| {
        StageError::invalid(format!("cannot read `{}`: {error}", path.display()))
    };
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(path).map_err(|error| unreadable(&error))?;
    serde_json::from_str(&text).map(Some).map_err(|error| unreadable(&error))
}

fn read_file<T: DeserializeOwned>(path: &Path, rows: &mut Vec<T>) -> Result<(), StageError> {
    let unreadable =
        |error: std::io::Error| StageError::invalid(format!("cannot read {}: {error}", path.display()));
    let file = fs::File::open(path).map_err(unreadable)?;
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(unreadable)?;
        if line.trim().is_empty() {
            continue;
        }
        let row = serde_json::from_str(&line).map_err(|error| {
            StageError::invalid(format!(
                "{}:{}: not a row of the expected kind: {error}",
                path.display(),
                index + 1
            ))
            .hint("each line must be one JSON object with the fields this stage reads")
        })?;
        rows.push(row);
    }
    Ok(())
}

/// Writes rows to a file, creating its folder.
///
/// # Errors
/// [`StageError::failed`] naming the file that cannot be written.
pub fn write_rows<'a, T: Serialize + 'a>(
    path: &Path,
    rows: impl IntoIterator<Item = &'a T>,
) -> Result<(), StageError> {
    write(path, |file| {
        rows.into_iter().try_for_each(|row| {
            serde_json::to_writer(&mut *file, row)?;
            file.write_all(b"\n")
        })
    })
}

/// Writes one JSON value to a file, creating its folder.
///
/// # Errors
/// [`StageError::failed`] naming the file that cannot be written.
pub fn write_json<T: Serialize + ?Sized>(path: &Path, value: &T) -> Result<(), StageError> {
    write(path, |file| {
        serde_json::to_writer(&mut *file, value)?;
        file.write_all(b"\n")
    })
}

fn write(
    path: &Path,
    content: impl FnOnce(&mut BufWriter<fs::File>) -> std::io::Result<()>,
) -> Result<(), StageError> {
    let write = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = BufWriter::new(fs::File::create(path)?);
        content(&mut file)?;
        file.flush()
    };
    write().map_err(|error| StageError::io(format_args!("write {}", path.display()), &error))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::protocol::FailureKind;

    type Row = BTreeMap<String, f64>;

    fn row(value: f64) -> Row {
        Row::from([("value".to_owned(), value)])
    }

    #[test]
    fn rows_come_back_as_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/rows.jsonl");
        let rows = [row(0.1), row(-3.0)];
        write_rows(&path, &rows).unwrap();
        assert_eq!(read_rows::<Row>(&path).unwrap(), rows);
    }

    #[test]
    fn a_folder_is_read_in_the_order_of_its_paths() {
        let folder = tempfile::tempdir().unwrap();
        for (name, value) in [("t=0.9/1.jsonl", 3.0), ("t=0.5/2.jsonl", 2.0), ("t=0.5/1.jsonl", 1.0)] {
            write_rows(&folder.path().join(name), &[row(value)]).unwrap();
        }
        assert_eq!(read_rows::<Row>(folder.path()).unwrap(), [row(1.0), row(2.0), row(3.0)]);
    }

    #[test]
    fn a_bad_row_is_named_by_file_and_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        fs::write(&path, "{\"value\": 1}\n\n{\"value\": \"x\"}\n").unwrap();
        let error = read_rows::<Row>(&path).unwrap_err();
        assert_eq!(error.kind, FailureKind::Invalid);
        assert!(error.message.contains("rows.jsonl:3: "), "{error}");
        assert!(error.hint.is_some());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read_rows::<Row>(Path::new("nowhere/rows.jsonl")).unwrap_err();
        assert_eq!(error.kind, FailureKind::Invalid);
        assert!(error.message.contains("nowhere/rows.jsonl"), "{error}");
    }

    #[test]
    fn a_number_is_written_bare() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("temperature.json");
        write_json(&path, &0.7).unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "0.7\n");
    }
}
