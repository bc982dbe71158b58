use std::collections::BTreeMap;

use bstar_stages::Device;
use bstar_stages::protocol::InputPath;

use super::*;

struct Place {
    folder: tempfile::TempDir,
    pool: WorkerPool,
    stop: Stop,
}

impl Place {
    fn new(env: &[(&str, &str)]) -> Self {
        let pool = WorkerPool::new(Some(fake::launch(env)), Duration::from_secs(10));
        Self { folder: tempfile::tempdir().unwrap(), pool, stop: Stop::default() }
    }

    /// A step that reads a policy made of `policy`, or one and queries: `policy/queries`.
    async fn run(&self, id: u64, policy: &str) -> Result<Map<String, Value>, StageError> {
        self.run_within(id, policy, None).await
    }

    async fn run_within(
        &self,
        id: u64,
        policy: &str,
        limit: Option<Duration>,
    ) -> Result<Map<String, Value>, StageError> {
        let with = serde_json::json!({"argv": ["true"], "outputs": ["r"]});
        let stage = bstar_stages::StageConfig::parse("command", with).unwrap().unwrap();
        let input = |(name, content): (&str, &str)| {
            let path = self.folder.path().join(name);
            (name.to_owned(), InputPath { path, digest: Digest::of(content.as_bytes()) })
        };
        let request = Request {
            id,
            stage,
            inputs: ["policy", "queries"].into_iter().zip(policy.split('/')).map(input).collect(),
            output: self.folder.path().to_owned(),
            scratch: self.folder.path().to_owned(),
            log: self.folder.path().join("log"),
            seed: 1,
            threads: 1,
            device: Device::Cpu,
        };
        self.pool.run(request, limit, &self.stop, |_| {}).await
    }
}

#[tokio::test]
async fn a_limit_beyond_the_end_of_time_is_none() {
    Place::new(&[]).run_within(1, "a", Some(Duration::MAX)).await.unwrap();
}

#[tokio::test]
async fn a_step_goes_to_the_worker_that_has_its_policy() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let place = Place::new(&[("FAKE_LOG", log.path().to_str().unwrap())]);
    let (first, second) = tokio::join!(place.run(1, "a"), place.run(2, "b"));
    assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
    place.run(3, "b").await.unwrap();
    place.run(4, "a").await.unwrap();
    place.run(5, "b").await.unwrap();
    let text = std::fs::read_to_string(log.path()).unwrap();
    let mut workers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (pid, policy) in text.lines().filter_map(|line| line.split_once(' ')) {
        workers.entry(policy).or_default().push(pid);
    }
    assert_eq!(workers.len(), 2);
    assert!(workers.values().all(|pids| pids.iter().all(|pid| *pid == pids[0])), "{text}");
}

#[tokio::test]
async fn a_step_goes_to_the_worker_that_has_read_its_queries() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let place = Place::new(&[("FAKE_LOG", log.path().to_str().unwrap())]);
    let (first, second) = tokio::join!(place.run(1, "a/one"), place.run(2, "a/other"));
    assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
    for (id, step) in (3..).zip(["a/other", "a/other", "a/one", "a/other", "a/one", "a/one"]) {
        place.run(id, step).await.unwrap();
    }
    let text = std::fs::read_to_string(log.path()).unwrap();
    let mut workers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (pid, inputs) in text.lines().filter_map(|line| line.split_once(' ')) {
        workers.entry(inputs).or_default().push(pid);
    }
    assert_eq!(workers.len(), 2, "{text}");
    assert!(workers.values().all(|pids| pids.iter().all(|pid| *pid == pids[0])), "{text}");
}

#[tokio::test]
async fn a_dead_worker_is_a_transient_failure_with_its_last_words() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("died");
    let place = Place::new(&[("FAKE_DIE_ONCE", mark.to_str().unwrap())]);
    let error = place.run(1, "a").await.unwrap_err();
    assert_eq!(error.kind, FailureKind::Transient);
    assert!(error.message.starts_with("the worker ended (exit status: 3)"), "{error}");
    assert!(error.message.contains("out of memory, they say"), "{error}");
    place.run(2, "a").await.unwrap();
}

#[tokio::test]
async fn a_worker_of_another_version_is_refused() {
    let place = Place::new(&[("FAKE_VERSION", "0.0.0")]);
    let error = place.run(1, "a").await.unwrap_err();
    assert_eq!(error.kind, FailureKind::Failed);
    assert!(error.message.contains("has version 0.0.0"), "{error}");
    assert!(error.hint.unwrap().contains("make build"));
}

#[tokio::test]
async fn a_program_that_is_no_worker_is_a_clear_failure() {
    let launch = Launch {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), "echo oops >&2; exit 4".into()],
        env: vec![],
    };
    let place = Place { pool: WorkerPool::new(Some(launch), Duration::from_secs(1)), ..Place::new(&[]) };
    let error = place.run(1, "a").await.unwrap_err();
    assert_eq!(error.kind, FailureKind::Failed);
    assert!(error.message.contains("oops"), "{error}");
}

#[tokio::test]
async fn a_training_worker_checkpoints_when_asked_to_stop() {
    let place = Place::new(&[("FAKE_TRAINS", "1")]);
    let stop = place.stop.clone();
    let (outcome, ()) = tokio::join!(place.run(1, "a"), async { stop.stop() });
    assert_eq!(outcome.unwrap_err().kind, FailureKind::Interrupted);
    assert!(place.folder.path().join("saved").exists());
}

#[tokio::test]
async fn a_worker_that_takes_too_long_saves_its_progress_and_lives_on() {
    let place = Place::new(&[("FAKE_TRAINS", "1")]);
    let limit = Some(Duration::from_secs(1));
    let error = place.run_within(1, "a", limit).await.unwrap_err();
    assert_eq!((error.kind, error.message.as_str()), (FailureKind::Failed, "took longer than 1s"));
    assert!(place.folder.path().join("saved").exists());
    assert_eq!(place.pool.free.lock().unwrap().len(), 1);
    // Within its time it goes on from there.
    place.run_within(2, "a", Some(Duration::from_secs(60))).await.unwrap();
}

/// A program that says that it is ready, in these words, and then nothing.
fn says_ready(words: &str) -> Launch {
    let script = format!("echo '{{\"report\":\"ready\",{words}}}'; exec sleep 60");
    Launch { program: "/bin/sh".into(), args: vec!["-c".into(), script], env: vec![] }
}

#[tokio::test]
async fn a_worker_of_another_version_is_told_by_it() {
    let pool = WorkerPool::new(Some(says_ready("\"version\":\"0.0.1\"")), Duration::from_millis(200));
    let place = Place { pool, ..Place::new(&[]) };
    let error = place.run(1, "a").await.unwrap_err();
    assert_eq!(error.kind, FailureKind::Failed);
    let versions = format!("has version 0.0.1, the engine has {}", env!("CARGO_PKG_VERSION"));
    assert!(error.message.ends_with(&versions), "{}", error.message);
}

#[tokio::test]
async fn a_worker_that_does_not_heed_the_limit_is_killed() {
    let launch = says_ready(concat!("\"version\":\"", env!("CARGO_PKG_VERSION"), "\",\"library\":\"none\""));
    let pool = WorkerPool::new(Some(launch), Duration::from_millis(200));
    let place = Place { pool, ..Place::new(&[]) };
    let error = place.run_within(1, "a", Some(Duration::from_millis(100))).await.unwrap_err();
    assert_eq!(error.kind, FailureKind::Failed);
    assert!(place.pool.free.lock().unwrap().is_empty());
}

#[test]
fn workers_are_given_large_pages_beside_what_else_is_set() {
    assert_eq!(super::large_pages(None), "glibc.malloc.hugetlb=1");
    assert_eq!(super::large_pages(Some("glibc.a.b=2")), "glibc.a.b=2:glibc.malloc.hugetlb=1");
    assert_eq!(super::large_pages(Some("glibc.malloc.hugetlb=0")), "glibc.malloc.hugetlb=0");
}
