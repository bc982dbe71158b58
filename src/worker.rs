//! Worker processes: long-lived programs that carry out steps over the protocol of
//! [`bstar_stages::protocol`]. Knows nothing of plans or stores.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bstar_cache::Digest;
use bstar_stages::protocol::{FailureKind, Order, Report, Request, StageError};
use bstar_stages::stage::trains;
use bstar_stages::units::show_duration;
use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::Instant;

use crate::executor::{Level, Stop};

/// The program that carries out steps on tensors.
const PROGRAM: &str = "bstar-lm";
/// What the GNU C library reads when a program starts.
const TUNABLES: &str = "GLIBC_TUNABLES";
/// Lines of a dead worker's last words in the error message.
const TAIL: usize = 20;
/// Loading the tensor library from a cold disk takes a while.
const START: Duration = Duration::from_secs(120);

/// How a worker process is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Added to the engine's environment.
    pub env: Vec<(String, String)>,
}

impl Launch {
    /// Finds `bstar-lm`: beside the running program, else in `$BSTAR_LM`, else in `$PATH`.
    ///
    /// # Errors
    /// When it is nowhere.
    pub fn find() -> Result<Self, StageError> {
        let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name(PROGRAM));
        let named = std::env::var_os("BSTAR_LM").map(PathBuf::from);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let listed = std::env::split_paths(&path).map(|folder| folder.join(PROGRAM));
        let found = beside.into_iter().chain(named).chain(listed).find(|program| program.is_file());
        let program = found.ok_or_else(|| {
            StageError::failed(format!("cannot find the worker program `{PROGRAM}`"))
                .hint("build it with `make build`, or give its path in BSTAR_LM")
        })?;
        let env = vec![(TUNABLES.to_owned(), large_pages(std::env::var(TUNABLES).ok().as_deref()))];
        Ok(Self { program, args: vec!["worker".to_owned()], env })
    }
}

/// Settings of the GNU C library's allocator with the one that asks Linux for large pages: tables of small ones
/// cost training on a CPU a tenth of its time. Only the environment can say so.
fn large_pages(others: Option<&str>) -> String {
    let name = "glibc.malloc.hugetlb";
    match others {
        Some(others) if others.contains(name) => others.to_owned(),
        Some(others) if !others.is_empty() => format!("{others}:{name}=1"),
        _ => format!("{name}=1"),
    }
}

/// The workers of a run: started when needed, kept while the run lasts.
#[derive(Debug)]
pub struct WorkerPool {
    launch: Option<Launch>,
    version: &'static str,
    free: Mutex<Vec<Worker>>,
    /// How long a step that does not save its progress may take to end on request.
    grace: Duration,
}

impl WorkerPool {
    /// No worker yet. Without `launch`, the program is searched when it is first needed.
    #[must_use]
    pub fn new(launch: Option<Launch>, grace: Duration) -> Self {
        Self { launch, version: env!("CARGO_PKG_VERSION"), free: Mutex::default(), grace }
    }

    /// Carries out a step on a free worker, if possible one that has its policy in memory, and its prompts. Dropping the
    /// future kills the worker.
    ///
    /// # Errors
    /// What the worker reports; `Transient` when it dies; `Interrupted` when `stop` asks for it; `Failed`
    /// when it takes longer than `limit`: then it is asked to save its progress, and killed when that
    /// takes longer than the grace.
    pub async fn run(
        &self,
        request: Request,
        limit: Option<Duration>,
        stop: &Stop,
        mut on_report: impl FnMut(Report) + Send,
    ) -> Result<Map<String, Value>, StageError> {
        let holds = Holds::after(&request);
        let mut worker = match self.take(holds) {
            Some(worker) => worker,
            None => self.start().await?,
        };
        worker.holds = holds;
        let patience = Patience { limit, grace: self.grace, trains: trains(request.stage.kind()) };
        let outcome = worker.carry_out(request, stop, patience, &mut on_report).await;
        match outcome {
            Ok(metrics) => {
                self.give_back(worker);
                Ok(metrics)
            }
            Err(Ended::Reported(error)) => {
                self.give_back(worker);
                Err(error)
            }
            Err(Ended::Died(kind)) => Err(worker.post_mortem(kind).await),
            Err(Ended::Late { limit, alive }) => {
                if alive {
                    self.give_back(worker);
                }
                Err(StageError::failed(format!("took longer than {}", show_duration(limit)))
                    .hint("what it saved is kept: raise the stage's `timeout` and run again"))
            }
        }
    }

    fn take(&self, wanted: Holds) -> Option<Worker> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.retain_mut(|worker| matches!(worker.child.try_wait(), Ok(None)));
        if free.is_empty() {
            return None;
        }
        let all = free.iter().position(|worker| worker.holds == wanted);
        let index = all.or_else(|| free.iter().position(|worker| worker.holds.policy == wanted.policy));
        // Else the one that has been free for longest: its policy is least likely to be asked for.
        Some(free.remove(index.unwrap_or(0)))
    }

    fn give_back(&self, worker: Worker) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
    }

    async fn start(&self) -> Result<Worker, StageError> {
        let launch = self.launch.clone().map_or_else(Launch::find, Ok)?;
        let mut worker = Worker::spawn(&launch)?;
        match tokio::time::timeout(START, worker.next_report()).await {
            Ok(Some(Report::Ready { version, library })) if version == self.version => {
                tracing::debug!(program = %launch.program.display(), library, "worker started");
                Ok(worker)
            }
            Ok(Some(Report::Ready { version, .. })) => Err(StageError::failed(format!(
                "the worker {} has version {version}, the engine has {}",
                launch.program.display(),
                self.version
            ))
            .hint("build both with `make build`")),
            Ok(Some(_)) => Err(StageError::failed(format!(
                "{} does not speak the worker protocol",
                launch.program.display()
            ))),
            Ok(None) => {
                Err(StageError { kind: FailureKind::Failed, ..worker.post_mortem(FailureKind::Failed).await })
            }
            Err(_) => Err(StageError::failed(format!(
                "the worker {} was not ready within {} s",
                launch.program.display(),
                START.as_secs()
            ))),
        }
    }
}

/// What a worker keeps in memory of a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Holds {
    policy: Option<Digest>,
    /// Of their prompts.
    queries: Option<Digest>,
}

impl Holds {
    fn after(request: &Request) -> Self {
        let digest = |name| request.inputs.get(name).map(|input| input.digest);
        Self { policy: digest("policy").or_else(|| digest("reward_model")), queries: digest("queries") }
    }
}

/// Why a step ended without a result.
enum Ended {
    /// The worker said so, and lives on.
    Reported(StageError),
    /// The worker is gone, or not to be trusted any more.
    Died(FailureKind),
    /// It took too long; the worker has saved its progress and lives on, or has to be killed.
    Late { limit: Duration, alive: bool },
}

/// How long a worker is waited for.
#[derive(Clone, Copy)]
struct Patience {
    /// Most time the step may take.
    limit: Option<Duration>,
    /// Most time it may take to end on request.
    grace: Duration,
    /// It saves its progress on request, and a stopped run gives it the time.
    trains: bool,
}

/// A running worker process; killed when dropped.
#[derive(Debug)]
struct Worker {
    child: Child,
    orders: ChildStdin,
    reports: Lines<BufReader<ChildStdout>>,
    last_words: Arc<Mutex<VecDeque<String>>>,
    listener: tokio::task::JoinHandle<()>,
    holds: Holds,
}

impl Worker {
    fn spawn(launch: &Launch) -> Result<Self, StageError> {
        let failed = |error: std::io::Error| {
            StageError::failed(format!("cannot start the worker {}: {error}", launch.program.display()))
        };
        let mut child = Command::new(&launch.program)
            .args(&launch.args)
            .envs(launch.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that Ctrl-C in a terminal reaches only the engine.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let (Some(orders), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(failed(std::io::Error::other("no pipes")));
        };
        let last_words = Arc::new(Mutex::default());
        let listener = tokio::spawn(listen(stderr, Arc::clone(&last_words)));
        let reports = BufReader::new(stdout).lines();
        Ok(Self { child, orders, reports, last_words, listener, holds: Holds::default() })
    }

    /// The next report; `None` when the worker is gone. A line that is no report is some library's
    /// chatter, kept like an error message.
    async fn next_report(&mut self) -> Option<Report> {
        loop {
            let line = self.reports.next_line().await.ok()??;
            match serde_json::from_str(&line) {
                Ok(report) => return Some(report),
                Err(_) => remember(&self.last_words, line),
            }
        }
    }

    async fn carry_out(
        &mut self,
        request: Request,
        stop: &Stop,
        patience: Patience,
        on_report: &mut (impl FnMut(Report) + Send),
    ) -> Result<Map<String, Value>, Ended> {
        let step = request.id;
        self.order(&Order::Run(Box::new(request))).await?;
        let (mut stopping, mut late) = (false, None);
        let mut deadline = None;
        // A limit beyond the end of time is none.
        let limit = patience.limit.and_then(|limit| Some((limit, Instant::now().checked_add(limit)?)));
        loop {
            let over = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let passed = async {
                match limit {
                    Some((limit, end)) => {
                        tokio::time::sleep_until(end).await;
                        limit
                    }
                    None => std::future::pending().await,
                }
            };
            let report = tokio::select! {
                report = self.next_report() => report,
                () = stop.reached(Level::Stop), if !stopping => {
                    stopping = true;
                    deadline = (!patience.trains).then(|| Instant::now() + patience.grace);
                    self.order(&Order::Stop).await?;
                    continue;
                }
                limit = passed, if !stopping => {
                    (stopping, late) = (true, Some(limit));
                    deadline = Some(Instant::now() + patience.grace);
                    self.order(&Order::Stop).await?;
                    continue;
                }
                () = over => None,
            };
            match (report, late) {
                (Some(Report::Failed { id, kind: FailureKind::Interrupted, .. }), Some(limit))
                    if id == step =>
                {
                    return Err(Ended::Late { limit, alive: true });
                }
                (None, Some(limit)) => return Err(Ended::Late { limit, alive: false }),
                (report, _) => match report {
                    Some(Report::Finished { id, metrics }) if id == step => return Ok(metrics),
                    Some(Report::Failed { id, kind, message, hint }) if id == step => {
                        return Err(Ended::Reported(StageError { kind, message, hint }));
                    }
                    Some(report) => on_report(report),
                    None if stopping => return Err(Ended::Died(FailureKind::Interrupted)),
                    None => return Err(Ended::Died(FailureKind::Transient)),
                },
            }
        }
    }

    async fn order(&mut self, order: &Order) -> Result<(), Ended> {
        let died = |_| Ended::Died(FailureKind::Transient);
        let mut line = serde_json::to_vec(order).map_err(|error| {
            Ended::Reported(StageError::failed(format!("cannot put the request into words: {error}")))
        })?;
        line.push(b'\n');
        self.orders.write_all(&line).await.map_err(died)?;
        self.orders.flush().await.map_err(died)
    }

    /// What a worker that ended said last.
    async fn post_mortem(mut self, kind: FailureKind) -> StageError {
        drop(self.orders);
        let ended = if kind == FailureKind::Interrupted {
            drop(self.child.start_kill());
            None
        } else {
            // It closed its output, so it is ending; a worker that hangs on the way out is killed.
            tokio::time::timeout(Duration::from_secs(5), self.child.wait()).await.ok()
        };
        drop(tokio::time::timeout(Duration::from_secs(1), self.listener).await);
        let mut message = match ended {
            Some(Ok(status)) => format!("the worker ended ({status})"),
            Some(Err(_)) | None => "the worker was ended".to_owned(),
        };
        for line in self.last_words.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            message.push_str("\n  ");
            message.push_str(line);
        }
        StageError { kind, message, hint: None }
    }
}

async fn listen(stderr: impl AsyncRead + Unpin, last_words: Arc<Mutex<VecDeque<String>>>) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    // Read whatever the bytes are: a full pipe would block the worker.
    while stderr.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        tracing::debug!(target: "worker", "{text}");
        remember(&last_words, text);
        line.clear();
    }
}

fn remember(last_words: &Mutex<VecDeque<String>>, line: String) {
    let mut lines = last_words.lock().unwrap_or_else(PoisonError::into_inner);
    if lines.len() == TAIL {
        lines.pop_front();
    }
    lines.push_back(line);
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
