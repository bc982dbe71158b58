//! What a run writes while it goes on: the keys it needs, and signs of life.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bstar_cache::{ActionKey, Store, StoreError};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How often news are written, and how often a run without news says that it lives.
#[derive(Debug, Clone, Copy)]
struct Pace {
    news: Duration,
    sign: Duration,
}

/// To a folder.
const NEAR: Pace = Pace { news: Duration::from_secs(2), sign: Duration::from_secs(120) };
/// Over a network.
const FAR: Pace = Pace { news: Duration::from_secs(30), ..NEAR };

/// A result that a run needs: its key, and the step's name unless it is a shard.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Needed {
    /// The key.
    pub key: ActionKey,
    /// For example `iteration[2].train`; empty for a shard.
    pub step: String,
}

/// Writes a run's keys until it is dropped.
#[derive(Debug)]
pub(super) struct Pulse {
    news: Arc<News>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct News {
    store: Store,
    run: String,
    /// Where the events are, unless that is in the store.
    events: Option<PathBuf>,
    keys: Mutex<Keys>,
}

#[derive(Debug, Default)]
struct Keys {
    known: BTreeSet<ActionKey>,
    /// The content of `runs/ID/keys`.
    text: String,
    changed: bool,
}

impl Pulse {
    /// Begins. `events` is the local file of events that belongs into the store.
    pub(super) fn begin(store: &Store, run: &str, events: Option<PathBuf>) -> Self {
        let pace = if events.is_none() { NEAR } else { FAR };
        Self::at(pace, store, run, events)
    }

    fn at(pace: Pace, store: &Store, run: &str, events: Option<PathBuf>) -> Self {
        let news =
            Arc::new(News { store: store.clone(), run: run.to_owned(), events, keys: Mutex::default() });
        let task = tokio::spawn(Arc::clone(&news).live(pace));
        Self { news, task }
    }

    /// The run needs that result.
    pub(super) fn needs(&self, key: &ActionKey, step: &str) {
        let mut keys = self.news.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.known.insert(*key) {
            keys.text.push_str(format!("{key} {step}").trim_end());
            keys.text.push('\n');
            keys.changed = true;
        }
    }

    /// Writes what is left, and that the run is over.
    pub(super) async fn end(&self) -> Result<(), StoreError> {
        self.task.abort();
        self.news.write().await?;
        self.news.store.delete_object(&self.news.object("live")).await
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl News {
    async fn live(self: Arc<Self>, pace: Pace) {
        let mut written = Instant::now();
        loop {
            tokio::time::sleep(pace.news).await;
            let done = match self.write().await {
                Ok(true) => Ok(true),
                Ok(false) if written.elapsed() >= pace.sign => {
                    self.store.put_object(&self.object("live"), Vec::new()).await.map(|()| true)
                }
                other => other,
            };
            match done {
                Ok(true) => written = Instant::now(),
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "cannot write the record of this run"),
            }
        }
    }

    /// Writes the keys and the events if there are new ones; whether there were.
    async fn write(&self) -> Result<bool, StoreError> {
        let text = {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            if !std::mem::take(&mut keys.changed) {
                return Ok(false);
            }
            keys.text.clone()
        };
        let written = async {
            self.store.put_object(&self.object("keys"), text.into_bytes()).await?;
            if let Some(Ok(events)) = self.events.as_ref().map(std::fs::read) {
                self.store.put_object(&self.object("events.jsonl"), events).await?;
            }
            Ok(true)
        };
        let written = written.await;
        if written.is_err() {
            self.keys.lock().unwrap_or_else(PoisonError::into_inner).changed = true;
        }
        written
    }

    fn object(&self, name: &str) -> String {
        format!("runs/{}/{name}", self.run)
    }
}

/// The results that a run needs, as far as it has recorded them.
///
/// # Errors
/// When the store cannot be read.
pub async fn needed(store: &Store, run: &str) -> Result<Vec<Needed>, StoreError> {
    if let Some(text) = store.get_object(&format!("runs/{run}/keys")).await? {
        return Ok(String::from_utf8_lossy(&text).lines().filter_map(parse).collect());
    }
    // The record of an earlier version has its events only.
    let events = super::events(store, run).await?;
    Ok(events.split(|byte| *byte == b'\n').filter_map(of_event).collect())
}

fn parse(line: &str) -> Option<Needed> {
    let (key, step) = line.split_once(' ').unwrap_or((line, ""));
    Some(Needed { key: key.parse().ok()?, step: step.to_owned() })
}

fn of_event(line: &[u8]) -> Option<Needed> {
    let event: serde_json::Value = serde_json::from_slice(line).ok()?;
    let text = |name: &str| event.get(name).and_then(serde_json::Value::as_str);
    let shard = event.get("shard").and_then(serde_json::Value::as_bool) == Some(true);
    let step = if shard { "" } else { text("step").unwrap_or_default() };
    Some(Needed { key: text("key")?.parse().ok()?, step: step.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(digit: &str) -> ActionKey {
        digit.repeat(64).parse().unwrap()
    }

    #[tokio::test]
    async fn a_living_run_writes_its_keys_and_signs_of_life() {
        let store = Store::open("memory://").await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let events = folder.path().join("events.jsonl");
        std::fs::write(&events, "{}\n").unwrap();
        let pace = Pace { news: Duration::from_millis(20), sign: Duration::from_millis(100) };
        let pulse = Pulse::at(pace, &store, "1234", Some(events));
        for (digit, step) in [("a", "setup.sft"), ("b", ""), ("a", "setup.sft")] {
            pulse.needs(&key(digit), step);
        }
        while store.get_object("runs/1234/keys").await.unwrap().is_none() {
            tokio::time::sleep(pace.news).await;
        }
        let known = needed(&store, "1234").await.unwrap();
        let expected = [("a", "setup.sft"), ("b", "")]
            .map(|(digit, step)| Needed { key: key(digit), step: step.to_owned() });
        assert_eq!(known, expected);
        while store.get_object("runs/1234/live").await.unwrap().is_none() {
            tokio::time::sleep(pace.news).await;
        }
        pulse.needs(&key("c"), "setup.more");
        pulse.end().await.unwrap();
        assert_eq!(needed(&store, "1234").await.unwrap().len(), 3);
        assert!(store.get_object("runs/1234/live").await.unwrap().is_none());
        assert_eq!(super::super::events(&store, "1234").await.unwrap(), b"{}\n");
    }

    #[tokio::test]
    async fn the_keys_of_an_older_record_are_in_its_events() {
        let store = Store::open("memory://").await.unwrap();
        let done = |digit: &str, shard: bool| {
            let key = key(digit);
            format!("{{\"event\":\"done\",\"step\":\"a/b\",\"shard\":{shard},\"key\":\"{key}\"}}\n")
        };
        // The last line was cut off.
        let events = done("a", true) + "{\"event\":\"stopping\"}\n" + &done("b", false) + "{\"torn";
        store.put_object("runs/1/events.jsonl", events.into()).await.unwrap();
        let expected =
            [("a", ""), ("b", "a/b")].map(|(digit, step)| Needed { key: key(digit), step: step.to_owned() });
        assert_eq!(needed(&store, "1").await.unwrap(), expected);
    }
}
