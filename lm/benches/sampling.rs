//! Samples from a model as often as it is asked to: `benches/sampling.py` asks, in turn with a peer.
//!
//! `sampling DIR [DTYPE] [DEVICE]` reads a JSON object a line, and answers each with the processor time it took.

use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use bstar_lm::checkpoint::{load_model, load_tokenizer};
use bstar_lm::generate::{Policy, Sampling};
use bstar_lm::progress::Control;
use bstar_lm::stream::Stream;
use bstar_lm::{device, memory};
use bstar_stages::Device;
use bstar_stages::config::SampleShard;
use serde::Deserialize;
use serde_json::json;
use tch::Kind;

/// What to sample.
#[derive(Deserialize)]
struct Ask {
    queries: usize,
    samples: u32,
    /// Tokens a prompt.
    prompt: usize,
    /// Most tokens a response.
    tokens: usize,
    /// How many tokens of the vocabulary end a response.
    ends: i64,
    /// Bytes for keys and values.
    memory: usize,
    /// Samples of each query that are drawn at a time; all, where it does not say.
    shard: Option<u32>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    device::single_thread();
    if let Some(threads) = std::env::var("BENCH_THREADS").ok().and_then(|threads| threads.parse().ok()) {
        tch::set_num_threads(threads);
    }
    memory::keep_freed();
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let Some(folder) = arguments.first() else {
        // `cargo bench` runs all benchmarks of a package, and has no model for this one.
        return Ok(());
    };
    let bfloat16 = arguments.get(1).is_some_and(|kind| kind == "bfloat16");
    let kind = if bfloat16 { Kind::BFloat16 } else { Kind::Float };
    let device = arguments.get(2).map_or(Ok(Device::Cpu), |name| name.parse())?;
    let device = device::find(device).map_err(|error| error.message)?;
    let model = load_model(Path::new(folder), device, kind).map_err(|error| error.message)?;
    let tokenizer = load_tokenizer(Path::new(folder), model.config()).map_err(|error| error.message)?;
    let vocabulary = model.config().vocab_size;
    let mut policy = Policy::new(model, tokenizer);
    for (number, line) in std::io::stdin().lock().lines().enumerate() {
        let Ask { queries, samples, prompt, tokens, ends, memory: budget, shard } =
            serde_json::from_str(&line?)?;
        policy.end_at((vocabulary - ends..vocabulary).collect());
        let mut settings = SampleShard {
            temperature: 1.0,
            start: 0,
            end: samples,
            max_tokens: tokens,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            logprobs: false,
            precision: bstar_stages::config::Precision::default(),
            stop: Vec::new(),
        };
        let mut prompts = Vec::with_capacity(queries);
        for query in 0..queries {
            // Others every time: what was read for the last ones is of no use.
            let mut stream = Stream::new("benchmark", number as u64, "prompt", query as u64);
            let ids = (0..prompt).map(|_| 3 + (stream.uniform() * 3997.0) as i64).collect();
            let sampling = Sampling { settings: &settings, seed: 1, memory: budget };
            let prompt = policy.prompt_of(&query.to_string(), ids, &sampling);
            prompts.push(prompt.map_err(|error| error.message)?);
        }
        let never = AtomicBool::new(false);
        let (began, clock) = (cpu_seconds(), std::time::Instant::now());
        let mut rows = Vec::new();
        for start in (0..samples).step_by(shard.unwrap_or(samples).max(1) as usize) {
            (settings.start, settings.end) = (start, (start + shard.unwrap_or(samples)).min(samples));
            let sampling = Sampling { settings: &settings, seed: 1, memory: budget };
            let drawn = policy.draw(&prompts, &sampling, &mut Control::new(&never, |_| ()));
            rows.extend(drawn.map_err(|error| error.message)?);
        }
        let (cpu, wall) = (cpu_seconds() - began, clock.elapsed().as_secs_f64());
        let drawn: usize = rows.iter().map(|row| row.logprobs.len()).sum();
        // Two runs that drew the same bits say the same.
        let bits = rows.iter().flat_map(|row| &row.logprobs).fold(0_u64, |hash, logprob| {
            (hash ^ logprob.to_bits()).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17)
        });
        let answer = json!({"cpu_s": cpu, "wall_s": wall, "tokens": drawn, "bits": format!("{bits:016x}")});
        writeln!(std::io::stdout(), "{answer}")?;
    }
    Ok(())
}

/// Processor time of this process.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    #[expect(unsafe_code, reason = "there is no safe name for it; it only writes `time`")]
    unsafe {
        libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time);
    }
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
