//! Finding the pipeline file.

use std::path::{Path, PathBuf};

use super::diagnostic::Diagnostic;
use super::suggest;

/// Where pipelines are looked for besides the path as given.
const FOLDER: &str = "pipelines";

/// The file meant by `path`: as given, or under `pipelines/`; both below `root`.
pub(crate) fn locate(root: &Path, path: &Path) -> Result<PathBuf, Box<Diagnostic>> {
    let mut tried = vec![path.to_path_buf()];
    if path.is_relative() && !path.starts_with(FOLDER) {
        tried.push(Path::new(FOLDER).join(path));
    }
    if let Some(found) = tried.iter().map(|path| root.join(path)).find(|path| path.is_file()) {
        return Ok(found);
    }
    if root.join(path).is_dir() {
        let message = format!("{} is a folder, not a pipeline file", path.display());
        return Err(Diagnostic::of_file(path.to_path_buf(), message, None).into());
    }
    let list = tried.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    let message = format!("no pipeline file {} (tried {list})", path.display());
    Err(Diagnostic::of_file(path.to_path_buf(), message, hint(root, path)).into())
}

fn hint(root: &Path, path: &Path) -> Option<String> {
    let mut names: Vec<String> = std::fs::read_dir(root.join(FOLDER))
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| Path::new(name).extension().is_some_and(|end| end == "yaml" || end == "yml"))
        .collect();
    names.sort();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let word = path.file_name()?.to_str()?;
    suggest::hint(word, &names, &format!("pipelines in {FOLDER}/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_tried_as_given_and_under_pipelines() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("pipelines")).unwrap();
        std::fs::write(root.path().join("pipelines/math.yaml"), "name: math").unwrap();
        let found = locate(root.path(), Path::new("math.yaml")).unwrap();
        assert_eq!(found, root.path().join("pipelines/math.yaml"));

        let error = locate(root.path(), Path::new("maths.yaml")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "error: no pipeline file maths.yaml (tried maths.yaml, pipelines/maths.yaml)\n  \
             hint: did you mean `math.yaml`?"
        );
        let error = locate(root.path(), Path::new("pipelines")).unwrap_err();
        assert_eq!(error.to_string(), "error: pipelines is a folder, not a pipeline file");
        let error = locate(root.path(), Path::new("x.yaml")).unwrap_err();
        assert_eq!(error.hint.unwrap(), "pipelines in pipelines/: `math.yaml`");
    }
}
