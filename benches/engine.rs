//! What the engine itself takes for a plan of 10,000 steps: reading, laying out, scheduling, and carrying
//! out in a store in memory, where every step is found, and where every step is executed in this process.
//! Prints medians of five and the peak of memory.
//!
//! ```sh
//! cargo bench -p bstar --bench engine
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bstar::executor::{Executor, Options, Outcome, Stop, prepare};
use bstar::pipeline::Pipeline;
use bstar::plan::{Plan, Source};
use bstar::scheduler::{Resources, Scheduler};
use bstar_cache::{Artifact, Digest, Manifest, Provenance, Store};

/// As in the executable.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const STEPS: usize = 10_000;
const WIDTH: usize = 10;
const REPEATS: usize = 5;
const QUERIES: &str = "{\"id\":\"a\",\"prompt\":\"1+1\",\"answer\":\"2\"}\n";

#[expect(clippy::print_stdout, reason = "the answer of the benchmark")]
fn main() {
    println!("{:<36} {:>10} {:>10}", "10,000 steps", "µs a step", "peak MB");
    let row = |name: &str, mut work: Box<dyn FnMut() -> Duration>| {
        let mut times: Vec<Duration> = (0..REPEATS).map(|_| work()).collect();
        times.sort();
        let micros = times[REPEATS / 2].as_secs_f64() * 1e6 / STEPS as f64;
        println!("{name:<36} {micros:>10.2} {:>10}", peak_megabytes());
    };
    let text = layers();
    let pipeline = parse(&text);
    let plan = Plan::new(&pipeline);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");

    let copy = plan.clone();
    row("scheduler", Box::new(move || timed(|| schedule(&copy))));
    let copy = plan.clone();
    let store = runtime.block_on(stored(&copy));
    let handle = runtime.handle().clone();
    row(
        "run, all found in memory",
        Box::new(move || timed(|| handle.block_on(run(&store, &copy, (0, STEPS))))),
    );
    let folder = tempfile::tempdir().expect("a folder");
    let plan_of_draws = Plan::new(&draws(folder.path()));
    let handle = runtime.handle().clone();
    row(
        "run, all executed in this process",
        Box::new(move || {
            let store = handle.block_on(Store::open("memory://")).expect("a store");
            timed(|| handle.block_on(run(&store, &plan_of_draws, (STEPS, 0))))
        }),
    );
    row("plan", Box::new(move || timed(|| assert_eq!(Plan::new(&pipeline).len(), STEPS))));
    row("pipeline file", Box::new(move || timed(|| assert_eq!(parse(&text).setup.len(), STEPS))));
    drop(plan);
    runtime.shutdown_background();
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn parse(text: &str) -> Pipeline {
    parse_in(text, Path::new(""))
}

fn parse_in(text: &str, folder: &Path) -> Pipeline {
    Pipeline::parse(text, &folder.join("bench.yaml"), &[])
        .unwrap_or_else(|problems| panic!("{}", problems[0]))
}

/// Layers of ten programs, each reading from two of the layer before.
fn layers() -> String {
    let mut text = "name: bench\nsetup:\n".to_owned();
    for index in 0..STEPS {
        let (layer, place) = (index / WIDTH, index % WIDTH);
        let inputs = match layer.checked_sub(1) {
            None => String::new(),
            Some(before) => {
                format!("a: s{before}_{place}.r, b: s{before}_{}.r", (place + 1) % WIDTH)
            }
        };
        let _infallible = writeln!(
            text,
            "  s{layer}_{place}: {{uses: command, with: {{argv: [stage, '{index}', '{{out}}/r'], \
             inputs: {{{inputs}}}, outputs: [r]}}}}"
        );
    }
    text
}

/// As many rounds of a stage that takes an instant in this process: folders and small files are most of it.
fn draws(folder: &Path) -> Pipeline {
    std::fs::write(folder.join("pool.jsonl"), QUERIES).expect("a file");
    let text = format!(
        "name: bench\ninputs: {{pool: pool.jsonl}}\niterations: {STEPS}\n\
         iteration:\n  d: {{uses: draw, with: {{queries: pool, count: 1}}}}\n"
    );
    parse_in(&text, folder)
}

fn schedule(plan: &Plan) {
    let one = Resources { cpu: 1, gpu: 0, memory: 0 };
    let mut scheduler = Scheduler::new(Resources { cpu: 4, gpu: 0, memory: 0 }, false);
    scheduler.grow(plan, |_| one);
    let mut finished = 0;
    while finished < STEPS {
        while let Some(id) = scheduler.next_ready() {
            scheduler.missed(id);
        }
        while let Some(id) = scheduler.start() {
            scheduler.finished(id, false);
            finished += 1;
        }
    }
}

/// A store that holds a result of every step.
async fn stored(plan: &Plan) -> Store {
    let store = Store::open("memory://").await.expect("a store");
    let blob: Artifact = store.put_bytes(b"result".to_vec()).await.expect("a blob");
    for id in plan.ids() {
        let step = plan.step(id);
        let digest = |source: &Source| -> Digest {
            assert!(matches!(source, Source::Output { .. }));
            blob.digest
        };
        let inputs = step.inputs.iter().map(|(name, source)| (name.clone(), digest(source))).collect();
        let action = prepare::action(&step.stage, step.seed, inputs);
        let outputs = BTreeMap::from([("r".to_owned(), blob)]);
        let manifest = Manifest::new(action, outputs, serde_json::Map::new(), Provenance::default());
        store.publish(manifest).await.expect("a published manifest");
    }
    store
}

async fn run(store: &Store, plan: &Plan, expected: (usize, usize)) {
    let work = tempfile::tempdir().expect("a folder");
    let mut options = Options::new("bench", "bench", PathBuf::new());
    options.work = Some(work.path().to_owned());
    let finished = Executor::new(store.clone(), options, Stop::default(), drop).run(plan).await;
    assert!(matches!(finished.outcome, Outcome::Done), "{:?}", finished.outcome);
    assert_eq!((finished.summary.executed, finished.summary.cached), expected);
}

/// The most memory this process has had so far.
fn peak_megabytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    peak.and_then(|peak| peak.trim().parse::<u64>().ok()).unwrap_or(0) / 1000
}
