//! `bstar doctor`: is everything a run needs at hand?

use std::path::Path;
use std::process::Command;

use bstar_cache::{Action, Ingredient, Manifest, Provenance, Store};
use bstar_stages::sandbox::{Sandbox, attacks::ATTACKS};
use serde::Serialize;
use serde_json::Value;

use crate::cli::{Format, Global};
use crate::commands::{answer, answer_json};
use crate::failure::{Failure, chain};
use crate::report::{count, size};

/// One thing looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    /// Only a warning: runs work without it.
    optional: bool,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Check {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, ok: true, optional: false, found: found.into(), fix: None }
    }

    fn bad(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, ok: false, optional: false, found: found.into(), fix: Some(fix.into()) }
    }
}

/// Checks the machine; exit code 1 when a run could not work.
///
/// # Errors
/// When the answer cannot be written.
pub async fn doctor(global: &Global) -> Result<u8, Failure> {
    let mut checks = vec![Check::good("bstar", format!("version {}", env!("CARGO_PKG_VERSION")))];
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    checks.push(Check::good("cores", format!("{cores}: as many worker processes by default")));
    checks.extend(worker());
    checks.push(store(&global.store).await);
    checks.push(disk(&global.store));
    checks.push(sandbox());
    let healthy = checks.iter().all(|check| check.ok || check.optional);
    if global.format == Format::Json {
        answer_json(&serde_json::json!({"healthy": healthy, "checks": checks}))?;
        return Ok(u8::from(!healthy));
    }
    let mut text = String::new();
    for check in &checks {
        let mark = match (check.ok, check.optional) {
            (true, _) => "✓",
            (false, true) => "–",
            (false, false) => "✗",
        };
        text.push_str(&format!("{mark} {:<8} {}\n", check.name, check.found));
        if let Some(fix) = &check.fix {
            text.push_str(&format!("           fix: {fix}\n"));
        }
    }
    answer(&text)?;
    Ok(u8::from(!healthy))
}

/// The worker is asked about itself; it alone knows libtorch.
fn worker() -> Vec<Check> {
    let path = match crate::worker::Launch::find() {
        Ok(launch) => launch.program,
        Err(error) => return vec![Check::bad("worker", error.to_string(), "run `make build`")],
    };
    let output = match Command::new(&path).arg("doctor").output() {
        Ok(output) => output,
        Err(error) => {
            return vec![Check::bad(
                "worker",
                format!("{} does not start: {error}", path.display()),
                "run `make build`",
            )];
        }
    };
    let Some(facts) =
        serde_json::from_slice::<Value>(&output.stdout).ok().filter(|_| output.status.success())
    else {
        let said = String::from_utf8_lossy(&output.stderr);
        let found = format!("{} fails: {}", path.display(), said.lines().last().unwrap_or("no message"));
        return vec![Check::bad("worker", found, "run `make build`")];
    };
    let text = |name: &str| facts.get(name).and_then(Value::as_str).unwrap_or("unknown").to_owned();
    let mut checks = vec![if text("version") == env!("CARGO_PKG_VERSION") {
        Check::good("worker", format!("{} {}", path.display(), text("version")))
    } else {
        let found = format!("{} has version {}", path.display(), text("version"));
        Check::bad("worker", found, "build both executables together: `make build`")
    }];
    checks.push(Check::good("libtorch", format!("{} from {}", text("libtorch"), text("libtorch_path"))));
    let cuda = facts.get("cuda");
    checks.push(if cuda.and_then(|cuda| cuda.get("available")) == Some(&Value::Bool(true)) {
        Check::good("gpu", "CUDA is usable: run with --device cuda:0")
    } else {
        let why = cuda.and_then(|cuda| cuda.get("reason")?.as_str()).unwrap_or("unknown reason");
        let fix = cuda.and_then(|cuda| cuda.get("fix")?.as_str());
        let fix = format!("only to use a GPU: {}", fix.unwrap_or("`make setup-cuda`, and an NVIDIA driver"));
        Check { optional: true, ..Check::bad("gpu", format!("not usable: {why}"), fix) }
    });
    checks
}

/// Tries the store in a corner of its own, which is removed again.
async fn store(location: &str) -> Check {
    if location.starts_with("s3://") {
        return bucket(location).await;
    }
    let folder = location.strip_prefix("file://").unwrap_or(location);
    let existed = Path::new(folder).exists();
    let corner = format!("{folder}/doctor-{}", std::process::id());
    let tried = try_store(&corner).await;
    drop(std::fs::remove_dir_all(&corner));
    if !existed {
        drop(std::fs::remove_dir(folder));
    }
    match tried {
        Ok(()) => Check::good("store", format!("{location}: reads, writes, first writer wins")),
        Err((found, fix)) => Check::bad("store", found, fix),
    }
}

/// A bucket is only opened, which tries what matters: what is written there cannot be cleaned up as a folder can.
async fn bucket(location: &str) -> Check {
    match Store::open(location).await {
        Ok(store) => {
            let tier = store.folder().map_or("no folder".to_owned(), |folder| folder.display().to_string());
            Check::good("store", format!("{location}: reads, first writer wins; in front of it: {tier}"))
        }
        Err(error) => {
            let fix = || "use another folder or URL: --store or $BSTAR_STORE".to_owned();
            Check::bad("store", chain(&error), error.hint().unwrap_or_else(fix))
        }
    }
}

/// Writes, reads back, and publishes twice: the second must find the first.
async fn try_store(location: &str) -> Result<(), (String, String)> {
    let fix = "use another folder or URL: --store or $BSTAR_STORE";
    let told =
        |error: bstar_cache::StoreError| (chain(&error), error.hint().unwrap_or_else(|| fix.to_owned()));
    let store = Store::open(location).await.map_err(told)?;
    let artifact = store.put_bytes(b"bstar doctor".to_vec()).await.map_err(told)?;
    if store.read(&artifact.digest).await.map_err(told)? != b"bstar doctor" {
        return Err((format!("{location} gives back other bytes than were written"), fix.to_owned()));
    }
    let action = Action {
        stage: "doctor".to_owned(),
        version: 1,
        config: Ingredient::Absent,
        seed: None,
        inputs: std::collections::BTreeMap::new(),
    };
    let manifest = Manifest::new(
        action,
        [("probe".to_owned(), artifact)].into(),
        serde_json::Map::new(),
        Provenance::default(),
    );
    store.publish(manifest.clone()).await.map_err(told)?;
    if store.publish(manifest).await.map_err(told)?.adopted {
        Ok(())
    } else {
        Err((format!("{location} lets a second writer replace a result"), fix.to_owned()))
    }
}

/// Tries to break out: code that a model wrote is run nowhere else.
fn sandbox() -> Check {
    const NAME: &str = "sandbox";
    let optional = |found: String, fix: String| Check { optional: true, ..Check::bad(NAME, found, fix) };
    let sandbox = match Sandbox::find() {
        Ok(sandbox) => sandbox,
        Err(error) => return optional(format!("{error}; needed only to judge code"), error.hint),
    };
    let attacks = ATTACKS.iter().map(|attack| (attack.name, attack.attempt(&sandbox)));
    let escaped: Vec<String> =
        attacks.filter_map(|(name, outcome)| Some(format!("{name}: {}", outcome.err()?))).collect();
    if escaped.is_empty() {
        return Check::good(NAME, format!("bubblewrap holds {}", count(ATTACKS.len(), "attack")));
    }
    let fix = "judge no code on this machine; `bwrap` and the kernel may be too old";
    Check::bad(NAME, format!("does not hold: {}", escaped.join("; ")), fix)
}

fn disk(location: &str) -> Check {
    let path = Path::new(location.strip_prefix("file://").unwrap_or(location));
    let existing = path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
    let folder = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
    let output = Command::new("df").args(["-Pk", "--"]).arg(folder).output();
    let free = output.ok().and_then(|output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().nth(1)?.split_whitespace().nth(3)?.parse::<u64>().ok()
    });
    match free.map(|kilobytes| kilobytes * 1024) {
        Some(bytes) if bytes < 1_000_000_000 => Check::bad(
            "disk",
            format!("{} free", size(bytes)),
            "free some space: the default pipeline needs 1 GB",
        ),
        Some(bytes) => Check::good("disk", format!("{} free", size(bytes))),
        None => Check { optional: true, ..Check::bad("disk", "free space unknown", "look with `df`") },
    }
}
