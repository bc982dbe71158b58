use super::*;

#[test]
fn the_cache_is_where_the_environment_says() {
    let find = |variables: &[(&str, &str)]| {
        cache(|name| {
            variables.iter().rev().find(|(found, _)| *found == name).map(|(_, value)| PathBuf::from(value))
        })
    };
    let mut variables = vec![("HOME", "/home/a")];
    for (more, expected) in [
        (("OTHER", ""), "/home/a/.cache/huggingface/hub"),
        (("XDG_CACHE_HOME", "/x"), "/x/huggingface/hub"),
        (("XDG_CACHE_HOME", "~/x"), "/home/a/x/huggingface/hub"),
        (("HF_HOME", "/hf"), "/hf/hub"),
        (("HF_HOME", "~"), "/home/a/hub"),
        (("HF_HUB_CACHE", "/hub"), "/hub"),
        (("HF_HUB_CACHE", "~/hub"), "/home/a/hub"),
        (("HF_HUB_CACHE", "/a/~/hub"), "/a/~/hub"),
        (("HF_HUB_CACHE", "~other/hub"), "~other/hub"),
    ] {
        variables.push(more);
        assert_eq!(find(&variables), Path::new(expected));
    }
    assert_eq!(find(&[("HF_HUB_CACHE", "~/hub")]), Path::new("~/hub"), "there is no home");
}

/// A cache with snapshots of `org/name`.
fn cached(commits: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let cache = tempfile::tempdir().unwrap();
    let home = cache.path().join("models--org--name");
    std::fs::create_dir_all(home.join("refs/pr")).unwrap();
    for commit in commits {
        std::fs::create_dir_all(home.join("snapshots").join(commit)).unwrap();
    }
    (cache, home)
}

fn fill(folder: &Path, files: &[&str]) {
    for file in files {
        std::fs::write(folder.join(file), "{}").unwrap();
    }
}

#[test]
fn snapshots_are_found_by_branch_tag_and_commit() {
    let (cache, home) = cached(&["abc123", "def456"]);
    for commit in ["abc123", "def456"] {
        fill(&home.join("snapshots").join(commit), &["config.json", "tokenizer.json", "model.safetensors"]);
    }
    std::fs::write(home.join("refs/main"), "abc123").unwrap();
    std::fs::write(home.join("refs/pr/1"), "def456\n").unwrap();
    let find = |name: &str| Name::parse(name)?.snapshot(cache.path());
    assert_eq!(find("org/name").unwrap(), home.join("snapshots/abc123"));
    for name in ["org/name@pr/1", "org/name@def456"] {
        assert_eq!(find(name).unwrap(), home.join("snapshots/def456"));
    }
    for (name, message, hint) in [
        ("org/name@v2", "revision `v2` of org/name is not in", "hf download org/name --revision v2"),
        ("org/other", "org/other is not in the Hugging Face cache", "download org/other --revision main"),
        ("a/b/c", "does not name a model", "ORGANISATION"),
        ("org/..", "does not name a model", "ORGANISATION"),
        ("org/name@../../x", "does not name a model", "ORGANISATION"),
    ] {
        let error = find(name).unwrap_err();
        assert!(error.message.contains(message) && error.hint.unwrap().contains(hint), "{name}");
    }
    std::os::unix::fs::symlink("../../blobs/none", home.join("snapshots/abc123/vocab.json")).unwrap();
    assert!(find("org/name").unwrap_err().message.contains("vocab.json is missing"));
}

#[test]
fn a_model_that_is_there_in_part_is_refused_with_the_command_that_completes_it() {
    let name = Name::parse("org/name@abc").unwrap();
    for (files, missing) in [
        (&[][..], "config.json"),
        (&["config.json"], "tokenizer.json"),
        (&["config.json", "generation_config.json", "tokenizer_config.json"], "tokenizer.json"),
        (&["config.json", "tokenizer.json"], "model.safetensors"),
        (&["config.json", "model.safetensors"], "tokenizer.json"),
        (&["tokenizer.json", "model.safetensors"], "config.json"),
        (&["config.json", "tokenizer.json", "a.safetensors", INDEX], "b.safetensors"),
        (&["config.json", "tokenizer.json", INDEX], "a.safetensors"),
    ] {
        let (cache, home) = cached(&["abc"]);
        let folder = home.join("snapshots/abc");
        fill(&folder, files);
        if files.contains(&INDEX) {
            let index =
                r#"{"weight_map": {"x": "a.safetensors", "y": "b.safetensors", "z": "a.safetensors"}}"#;
            std::fs::write(folder.join(INDEX), index).unwrap();
        }
        let error = name.snapshot(cache.path()).unwrap_err();
        let expected = format!("is incomplete: {} is missing", folder.join(missing).display());
        assert!(error.message.contains(&expected), "{files:?}: {error}");
        let hint = error.hint.unwrap();
        assert!(hint.contains("`hf download org/name --revision abc`"), "{hint}");
        assert!(hint.contains(&format!("give the folder {}", folder.display())), "{hint}");
    }
}

#[test]
fn what_is_no_model_or_is_kept_in_other_files_is_taken_as_it_is() {
    let name = Name::parse("org/name@abc").unwrap();
    for files in [
        &["tokenizer.json", "tokenizer_config.json"][..],
        &["adapter_config.json", "adapter_model.safetensors"],
        &["README.md", "model.q4.gguf"],
        &["config.json", "tokenizer.model", "pytorch_model.bin"],
        &["config.json", "vocab.txt", "pytorch_model-00001-of-00002.bin"],
    ] {
        let (cache, home) = cached(&["abc"]);
        fill(&home.join("snapshots/abc"), files);
        assert_eq!(name.snapshot(cache.path()).unwrap(), home.join("snapshots/abc"), "{files:?}");
    }
}
