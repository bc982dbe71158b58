//! A worker for tests: this very test program, started again. It writes something deterministic to
//! every output, and misbehaves as its environment says.

use std::fs::OpenOptions;
use std::io::{BufRead, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use bstar_stages::StageConfig;
use bstar_stages::protocol::{FailureKind, Order, Report, Request};
use serde_json::{Map, Value, json};

use super::Launch;

/// How to start the fake worker with these variables.
pub(crate) fn launch(env: &[(&str, &str)]) -> Launch {
    let env = env.iter().chain(&[("FAKE_WORKER", "1")]);
    let args = ["worker::fake::speak", "--exact", "--nocapture"];
    Launch {
        program: std::env::current_exe().unwrap(),
        args: args.iter().map(ToString::to_string).collect(),
        env: env.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
    }
}

/// The process that other tests start as a worker. Run as a test, it starts itself as one.
#[test]
fn speak() {
    if variable("FAKE_WORKER").is_some() {
        return take_orders();
    }
    let Launch { program, args, env } = launch(&[]);
    let output = Command::new(program).args(args).envs(env).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stdout).unwrap();
    let ready = |line: &str| matches!(serde_json::from_str(line), Ok(Report::Ready { .. }));
    assert!(said.lines().any(ready), "{said}");
}

fn take_orders() {
    let version = variable("FAKE_VERSION").unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned());
    say(&Report::Ready { version, library: "none".to_owned() });
    let (sender, orders) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            sender.send(serde_json::from_str::<Order>(&line.unwrap()).unwrap()).unwrap();
        }
        // A worker ends when its engine does.
        std::process::exit(0);
    });
    for order in &orders {
        if let Order::Run(request) = order {
            carry_out(&request, &orders);
        }
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn say(report: &Report) {
    let mut line = serde_json::to_vec(report).unwrap();
    line.push(b'\n');
    std::io::stdout().write_all(&line).unwrap();
}

fn carry_out(request: &Request, orders: &mpsc::Receiver<Order>) {
    let id = request.id;
    if let Some(path) = variable("FAKE_LOG") {
        let mut log = OpenOptions::new().create(true).append(true).open(path).unwrap();
        let inputs = request.inputs.values().map(|input| input.digest.short());
        // One write: another worker may write at the same moment.
        let line = format!("{} {}\n", std::process::id(), inputs.collect::<Vec<_>>().join(" "));
        log.write_all(line.as_bytes()).unwrap();
    }
    if let Some(path) = variable("FAKE_DIE_ONCE").filter(|path| !Path::new(path).exists()) {
        std::fs::write(path, "").unwrap();
        writeln!(std::io::stderr(), "out of memory, they say").unwrap();
        std::process::exit(3);
    }
    say(&Report::Progress { id, done: 1, total: 2, unit: "updates".to_owned(), note: None });
    let saved = request.scratch.join("saved");
    if variable("FAKE_TRAINS").is_some() && !saved.exists() {
        // Trains until it is asked to stop.
        assert!(matches!(orders.recv().unwrap(), Order::Stop));
        std::fs::write(saved, "").unwrap();
        let message = "checkpointed".to_owned();
        return say(&Report::Failed { id, kind: FailureKind::Interrupted, message, hint: None });
    }
    let metrics = if let StageConfig::SampleShard(shard) = &request.stage {
        let queries = std::fs::read_to_string(&request.inputs["queries"].path).unwrap();
        let mut rows = String::new();
        for query in queries.lines() {
            let query: Value = serde_json::from_str(query).unwrap();
            for index in shard.start..shard.end {
                let row = json!({
                    "query_id": query["id"], "sample_index": index, "temperature": shard.temperature,
                    "text": "# Answer\n\n1", "tokens": 5, "logprob": -1.0,
                    "finish_reason": if index == 0 { "length" } else { "stop" },
                });
                rows.push_str(&format!("{row}\n"));
            }
        }
        let count = rows.lines().count();
        write(request, rows.as_bytes());
        let cut = rows.matches("length").count();
        json!({"responses": count, "tokens": 5 * count, "truncated": cut, "mean": 0.5})
    } else {
        // Depends on the inputs, as training does.
        let digests: Vec<String> = request.inputs.values().map(|input| input.digest.to_string()).collect();
        write(request, digests.join("\n").as_bytes());
        json!({})
    };
    let metrics: Map<String, Value> = serde_json::from_value(metrics).unwrap();
    say(&Report::Finished { id, metrics });
}

fn write(request: &Request, bytes: &[u8]) {
    for output in request.stage.stage().outputs() {
        let mut path = request.output.join(&output.path);
        if output.folder {
            std::fs::create_dir_all(&path).unwrap();
            path.push("file");
        }
        std::fs::write(path, bytes).unwrap();
    }
}
