//! Against a server of this machine that answers as the Hub does, and another one that holds the weights.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_secret";

/// A request: method, path, and headers by lower-case name.
type Asked = (String, String, BTreeMap<String, String>);

/// An answer: status, headers, body, and whether the connection breaks in the middle of the body.
struct Answer(&'static str, Vec<(&'static str, String)>, Vec<u8>, bool);

/// Answers requests by this function until the test ends; notes them.
fn serve(answer: impl Fn(&Asked) -> Answer + Send + 'static) -> (String, Arc<Mutex<Vec<Asked>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Clients may leave without a word.
            drop(reply(stream, &answer, &notes));
        }
    });
    (address, asked)
}

fn reply(stream: TcpStream, answer: &impl Fn(&Asked) -> Answer, notes: &Mutex<Vec<Asked>>) -> io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap()?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let mut headers = BTreeMap::new();
    for line in lines {
        match line?.split_once(": ") {
            Some((name, value)) => drop(headers.insert(name.to_lowercase(), value.to_owned())),
            None => break,
        }
    }
    let asked = (method, path, headers);
    let Answer(status, headers, body, broken) = answer(&asked);
    let head = asked.0 == "HEAD";
    notes.lock().unwrap().push(asked);
    let mut stream = &stream;
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n", body.len())?;
    for (name, value) in headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    write!(stream, "\r\n")?;
    let sent = if broken { body.len() / 2 } else { body.len() };
    if head { Ok(()) } else { stream.write_all(&body[..sent]) }
}

fn digest(bytes: &[u8]) -> String {
    ring::digest::digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the weights of the model are.
fn weights() -> Vec<u8> {
    (0..3_000_000_u32).map(|number| (number % 251) as u8).collect()
}

/// The two servers: the Hub's address and requests, and those of the server of the weights, which breaks its first
/// answer off and gives `content`.
type Servers = (String, Arc<Mutex<Vec<Asked>>>, Arc<Mutex<Vec<Asked>>>);

fn servers(content: Vec<u8>) -> Servers {
    let first = Mutex::new(true);
    let (store, stored) = serve(move |(_, _, headers)| {
        let broken = std::mem::take(&mut *first.lock().unwrap());
        let from = headers.get("range").map(|range| range.trim_start_matches("bytes=").trim_end_matches('-'));
        match from.and_then(|from| from.parse::<usize>().ok()) {
            Some(from) => Answer("206 Partial Content", Vec::new(), content[from..].to_vec(), broken),
            None => Answer("200 OK", Vec::new(), content.clone(), broken),
        }
    });
    let busy = Mutex::new(true);
    let (hub, asked) = serve(move |(_, path, headers)| {
        if std::mem::take(&mut *busy.lock().unwrap()) {
            return Answer("503 Service Unavailable", Vec::new(), Vec::new(), false);
        }
        if headers.get("authorization").is_none_or(|value| *value != format!("Bearer {TOKEN}")) {
            return Answer("401 Unauthorized", Vec::new(), Vec::new(), false);
        }
        let plain = |text: &str| {
            let etag = format!("\"{}\"", &digest(text.as_bytes())[..40]);
            Answer("200 OK", vec![("ETag", etag)], text.as_bytes().to_vec(), false)
        };
        let resolved = path.strip_prefix(&format!("/org/name/resolve/{COMMIT}/"));
        match (path.as_str(), resolved) {
            ("/api/models/org/name/revision/refs%2Fpr%2F1" | "/api/models/org/name/revision/main", _) => {
                let files = [
                    "README.md",
                    ".gitattributes",
                    "config.json",
                    "tokenizer.json",
                    "pytorch_model.bin",
                    "model-1.safetensors",
                    "model.safetensors.index.json",
                    "consolidated.safetensors",
                    "onnx/config.json",
                    "../escape.json",
                    "chat_template.jinja",
                ];
                let files: Vec<Value> = files.iter().map(|file| json!({"rfilename": file})).collect();
                plain(&json!({"sha": COMMIT, "siblings": files}).to_string())
            }
            (_, Some("config.json")) => {
                // To a place on the same server, as files of other names are.
                let there = vec![("Location", "/moved/config.json".to_owned())];
                Answer("307 Temporary Redirect", there, Vec::new(), false)
            }
            ("/moved/config.json", _) => plain("{}"),
            (_, Some("tokenizer.json")) => plain("{\"a\": 1}"),
            (_, Some("chat_template.jinja")) => plain("{{ prompt }}"),
            (_, Some("model.safetensors.index.json")) => {
                plain(&json!({"weight_map": {"x": "model-1.safetensors"}}).to_string())
            }
            (_, Some("model-1.safetensors")) => {
                let weights = weights();
                let told = vec![
                    ("Location", format!("{store}/blob?signed")),
                    ("X-Linked-Etag", format!("\"{}\"", digest(&weights))),
                    ("X-Linked-Size", weights.len().to_string()),
                ];
                Answer("302 Found", told, Vec::new(), false)
            }
            _ => Answer("404 Not Found", Vec::new(), Vec::new(), false),
        }
    });
    (hub, asked, stored)
}

fn hub(endpoint: &str, token: Option<&str>) -> Hub {
    Hub::new(endpoint, token.map(str::to_owned), Duration::from_millis(1)).unwrap()
}

#[test]
fn a_model_comes_whole_and_is_then_found_without_the_hub() {
    let (endpoint, asked, stored) = servers(weights());
    let cache = tempfile::tempdir().unwrap();
    let name = Name::parse("org/name").unwrap();
    let folder = hub(&endpoint, Some(TOKEN)).fetch(cache.path(), &name).unwrap();
    assert_eq!(folder, name.snapshot(cache.path()).unwrap());
    assert_eq!(folder, Name::parse(&format!("org/name@{COMMIT}")).unwrap().snapshot(cache.path()).unwrap());
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let expected = [
        "chat_template.jinja",
        "config.json",
        "model-1.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ];
    assert_eq!(files, expected, "what a model is made of, and weights that the index names");
    assert_eq!(std::fs::read(folder.join("model-1.safetensors")).unwrap(), weights());
    let link = std::fs::read_link(folder.join("model-1.safetensors")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(digest(&weights())), "as huggingface_hub lays it out");
    let ranges: Vec<Option<String>> =
        stored.lock().unwrap().iter().map(|(_, _, headers)| headers.get("range").cloned()).collect();
    assert!(ranges.len() == 2 && ranges[0].is_none(), "{ranges:?}");
    assert!(ranges[1].as_ref().unwrap().starts_with("bytes="), "it goes on where it was cut off: {ranges:?}");
    let leaked = stored.lock().unwrap().iter().any(|(_, _, headers)| headers.contains_key("authorization"));
    assert!(!leaked, "the token is for the Hub alone");
    let kept = walk(cache.path()).into_iter().filter(|path| path.is_file());
    assert!(kept.map(|path| std::fs::read(path).unwrap()).all(|bytes| !holds(&bytes, TOKEN)));

    // Another revision of the same commit has its files already.
    let before = asked.lock().unwrap().len();
    let other = Name::parse("org/name@refs/pr/1").unwrap();
    assert_eq!(hub(&endpoint, Some(TOKEN)).fetch(cache.path(), &other).unwrap(), folder);
    let again = asked.lock().unwrap()[before..].iter().filter(|(method, ..)| method == "GET").count();
    assert_eq!(again, 1, "only what the revision is was asked for");
    assert_eq!(other.snapshot(cache.path()).unwrap(), folder);
}

#[test]
fn what_is_there_in_part_is_completed() {
    let (endpoint, asked, _) = servers(weights());
    let cache = tempfile::tempdir().unwrap();
    let name = Name::parse("org/name").unwrap();
    let folder = name.home(cache.path()).join("snapshots").join(COMMIT);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.json"), "{}").unwrap();
    std::fs::create_dir_all(name.home(cache.path()).join("refs")).unwrap();
    std::fs::write(name.home(cache.path()).join("refs/main"), COMMIT).unwrap();
    let missing = name.snapshot(cache.path()).unwrap_err();
    assert!(missing.message.contains("tokenizer.json is missing"), "{missing}");
    assert_eq!(hub(&endpoint, Some(TOKEN)).fetch(cache.path(), &name).unwrap(), folder);
    assert_eq!(name.snapshot(cache.path()).unwrap(), folder);
    assert!(folder.join("model-1.safetensors").exists());

    // Everything but a shard, which the Hub has under the same name.
    let asked_before = asked.lock().unwrap().len();
    std::fs::remove_file(folder.join("model-1.safetensors")).unwrap();
    let missing = name.snapshot(cache.path()).unwrap_err();
    assert!(missing.message.contains("model-1.safetensors is missing"), "{missing}");
    assert_eq!(hub(&endpoint, Some(TOKEN)).fetch(cache.path(), &name).unwrap(), folder);
    assert_eq!(name.snapshot(cache.path()).unwrap(), folder);
    assert!(asked.lock().unwrap().len() > asked_before);
}

#[test]
fn the_hub_is_left_alone_where_the_environment_says_so() {
    let offline = |variables: &[(&str, &str)]| {
        is_offline(|name| {
            variables.iter().find(|(found, _)| *found == name).map(|(_, value)| (*value).to_owned())
        })
    };
    for yes in ["1", "ON", "on", "Yes", "true", "TRUE"] {
        assert!(offline(&[("HF_HUB_OFFLINE", yes)]) && offline(&[("TRANSFORMERS_OFFLINE", yes)]), "{yes}");
    }
    for no in ["0", "OFF", "no", "false", "2", "y"] {
        assert!(!offline(&[("HF_HUB_OFFLINE", no)]), "{no}");
    }
    assert!(!offline(&[]));
    assert!(!offline(&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")]), "the first one says it");
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn what_cannot_be_downloaded_is_said_and_leaves_no_model() {
    let (endpoint, ..) = servers(weights().into_iter().map(|byte| byte / 2).collect());
    let cache = tempfile::tempdir().unwrap();
    let fetch = |endpoint: &str, token, name: &str| {
        let name = Name::parse(name).unwrap();
        let error = hub(endpoint, token).fetch(cache.path(), &name).unwrap_err();
        assert!(name.snapshot(cache.path()).is_err(), "{name:?}");
        (error.kind, error.message, error.hint.unwrap())
    };
    let (kind, message, hint) = fetch(&endpoint, None, "org/name");
    assert!(kind == FailureKind::Invalid && message.contains("has no org/name at `main`"), "{message}");
    assert!(hint.contains("set HF_TOKEN"), "{hint}");
    let (_, message, hint) = fetch(&endpoint, Some(TOKEN), "org/other@v2");
    assert!(
        message.contains("org/other at `v2`") && hint.contains("the token in HF_TOKEN"),
        "{message} {hint}"
    );
    assert!(!message.contains(TOKEN) && !hint.contains(TOKEN));
    let (kind, message, _) = fetch(&endpoint, Some(TOKEN), "org/name");
    assert!(kind == FailureKind::Transient && message.contains("SHA-256"), "{message}");
    let (kind, message, hint) = fetch("http://127.0.0.1:1", None, "org/name");
    assert!(kind == FailureKind::Transient && message.contains("cannot download org/name"), "{message}");
    assert!(hint.contains("HF_ENDPOINT"), "{hint}");
}
