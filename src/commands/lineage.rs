//! `bstar cache show`: what made a stored file or folder, of what, and what was made of it.

use std::collections::{BTreeMap, BTreeSet};

use bstar_cache::{Digest, Manifest, tree_digest};
use serde::Serialize;

use super::export::folders;
use crate::cli::{Format, Global, existing_store};
use crate::commands::{answer, answer_json, columns};
use crate::failure::Failure;
use crate::report::{count, duration, size};

/// Digits that tell digests apart for people.
const DIGITS: usize = 12;

/// Where a digest comes from and where it goes.
#[derive(Debug, Serialize)]
struct Lineage {
    digest: Digest,
    files: usize,
    bytes: u64,
    made_by: Vec<Maker>,
    read_by: Vec<Reader>,
}

/// A result that has it.
#[derive(Debug, Serialize)]
struct Maker {
    step: String,
    /// The file or folder among the step's outputs.
    output: String,
    key: String,
    run: String,
    host: String,
    started: String,
    wall_s: f64,
    inputs: Vec<Input>,
}

/// What a step read, and which outputs that was: none for a file of the user's.
#[derive(Debug, Serialize)]
struct Input {
    name: String,
    digest: Digest,
    made_by: Vec<String>,
}

/// A result that was made of it.
#[derive(Debug, Serialize)]
struct Reader {
    step: String,
    input: String,
    key: String,
}

/// Which results have what.
struct Index<'a> {
    manifests: &'a [Manifest],
    /// By digest: the result and its output.
    places: BTreeMap<Digest, Vec<(usize, String)>>,
}

/// Shows what made the content with this digest, of what, and what read it.
///
/// # Errors
/// When no content, or more than one, has a digest that begins so, or the store cannot be read.
pub async fn cache_show(global: &Global, name: &str) -> Result<u8, Failure> {
    let manifests = existing_store(&global.store).await?.manifests().await?;
    let index = Index::of(&manifests);
    let lineage = index.lineage(index.find(name)?);
    match global.format {
        Format::Json => answer_json(&lineage)?,
        Format::Text => answer(&lineage.text())?,
    }
    Ok(0)
}

impl<'a> Index<'a> {
    fn of(manifests: &'a [Manifest]) -> Self {
        let mut places: BTreeMap<Digest, Vec<(usize, String)>> = BTreeMap::new();
        for (number, manifest) in manifests.iter().enumerate() {
            for (path, artifact) in &manifest.outputs {
                places.entry(artifact.digest).or_default().push((number, path.clone()));
            }
            for (folder, files) in folders(manifest) {
                places.entry(tree_digest(&files)).or_default().push((number, folder.to_owned()));
            }
        }
        Self { manifests, places }
    }

    fn find(&self, name: &str) -> Result<Digest, Failure> {
        let begins = |digest: &&Digest| digest.to_string().starts_with(name);
        let found: Vec<&Digest> = self.places.keys().filter(begins).take(2).collect();
        match found[..] {
            [digest] => Ok(*digest),
            [] => {
                let key = self.manifests.iter().any(|manifest| manifest.key.to_string().starts_with(name));
                let hint = if key {
                    format!("it is a key: `bstar step explain {name}` shows what it was made of")
                } else {
                    "`bstar run show` lists the digests of a run's results".to_owned()
                };
                Err(Failure::Usage {
                    message: format!("nothing that is stored has a digest that begins with `{name}`"),
                    hint: Some(hint),
                })
            }
            _ => Err(Failure::Usage {
                message: format!("several digests begin with `{name}`"),
                hint: Some("give more of its digits".to_owned()),
            }),
        }
    }

    /// The outputs that have this content, the shards of a step as one.
    fn outputs(&self, digest: &Digest) -> Vec<String> {
        let places = self.places.get(digest).into_iter().flatten();
        let named = |(number, output): &(usize, String)| {
            format!("{} of {}", output, whole(&self.manifests[*number].provenance.step))
        };
        places.map(named).collect::<BTreeSet<String>>().into_iter().collect()
    }

    fn lineage(&self, digest: Digest) -> Lineage {
        let places = self.places.get(&digest).map(Vec::as_slice).unwrap_or_default();
        let made_by = places.iter().map(|(number, output)| {
            let manifest = &self.manifests[*number];
            let by = &manifest.provenance;
            let inputs = manifest.action.inputs.iter().map(|(name, digest)| Input {
                name: name.clone(),
                digest: *digest,
                made_by: self.outputs(digest),
            });
            Maker {
                step: by.step.clone(),
                output: output.clone(),
                key: manifest.key.to_string(),
                run: by.run.clone(),
                host: by.host.clone(),
                started: by.started.clone(),
                wall_s: by.wall_s,
                inputs: inputs.collect(),
            }
        });
        let read_by = self.manifests.iter().flat_map(|manifest| {
            let inputs = manifest.action.inputs.iter().filter(|(_, input)| **input == digest);
            inputs.map(|(name, _)| Reader {
                step: manifest.provenance.step.clone(),
                input: name.clone(),
                key: manifest.key.to_string(),
            })
        });
        let files = places.first().map(|(number, output)| {
            let manifest = &self.manifests[*number];
            match manifest.outputs.get(output) {
                Some(file) => (1, file.size),
                None => {
                    let files = manifest.files(output, true);
                    (files.len(), files.iter().map(|(_, file)| file.size).sum())
                }
            }
        });
        let (files, bytes) = files.unwrap_or_default();
        Lineage { digest, files, bytes, made_by: made_by.collect(), read_by: read_by.collect() }
    }
}

/// The step that a shard is a piece of.
fn whole(step: &str) -> &str {
    step.split_once('/').map_or(step, |(step, _)| step)
}

impl Lineage {
    fn text(&self) -> String {
        let mut text = format!("{}: {}, {}\n", self.digest, count(self.files, "file"), size(self.bytes));
        for maker in &self.made_by {
            let time = duration(maker.wall_s);
            text.push_str(&format!(
                "\n`{}` of {}, made by run {} on {} in {time}, {}\n",
                maker.output, maker.step, maker.run, maker.host, maker.started
            ));
            let rows = maker.inputs.iter().map(|input| {
                let digest: String = input.digest.to_string().chars().take(DIGITS).collect();
                let from = match &input.made_by[..] {
                    [] => "yours".to_owned(),
                    [one] => one.clone(),
                    [first, others @ ..] => format!("{first}, the same as {} others", others.len()),
                };
                vec![format!("  of {}", input.name), digest, from]
            });
            let rows: Vec<Vec<String>> = rows.collect();
            if !rows.is_empty() {
                text.push_str(&format!("{}\n", columns(&rows)));
            }
        }
        let mut readers: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for reader in &self.read_by {
            *readers.entry((whole(&reader.step), &reader.input)).or_default() +=
                usize::from(whole(&reader.step) != reader.step);
        }
        text.push_str(if readers.is_empty() { "\nread by nothing that is stored" } else { "\nread by\n" });
        let rows = readers.into_iter().map(|((step, input), times)| {
            let times = if times > 0 { count(times, "shard") } else { String::new() };
            vec![format!("  {step}"), format!("as {input}"), times]
        });
        text.push_str(&columns(&rows.collect::<Vec<_>>()));
        text
    }
}
