//! Every family against what transformers computes: `goldens/make.py` wrote the expectations.

#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::print_stdout, reason = "figures")]

#[path = "families/python.rs"]
mod python;
#[path = "../../cache/tests-support/skipped.rs"]
mod skipped;
#[path = "support/stand_in.rs"]
mod stand_in;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use bstar_lm::batch::Packed;
use bstar_lm::checkpoint::{load_model, save_model};
use bstar_lm::config::ModelConfig;
use bstar_lm::device;
use bstar_lm::generate::{Policy, Row, Sampling};
use bstar_lm::lora::Adapters;
use bstar_lm::model::Decoder;
use bstar_lm::objective::{NextToken, TextRow};
use bstar_lm::progress::Control;
use bstar_lm::tensors::{Tensors, read_tensors, write_tensors};
use bstar_lm::tokenizer::Tokenizer;
use bstar_lm::train::{Run, train};
use bstar_stages::Reference;
use bstar_stages::config::{
    Lora, Optimizer as OptimizerKind, Precision, SampleShard, Schedule, ScheduleShape, Target, TokenizerKind,
    Training,
};
use bstar_stages::record::Example;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

/// What transformers found.
#[derive(Deserialize)]
struct Expected {
    prompt: Vec<i64>,
    looked_at: Vec<i64>,
    greedy: Vec<i64>,
    logprobs: Vec<f64>,
    /// Of a reward model, at every token of the prompt.
    scores: Vec<f32>,
    rows: Vec<Vec<i64>>,
    /// Where each row's response begins.
    starts: Vec<usize>,
    losses: Vec<f64>,
    norms: Vec<f64>,
    rate: f64,
    decay: f64,
    betas: [f64; 2],
}

/// A model that transformers has computed.
struct Golden {
    name: String,
    folder: PathBuf,
    expected: Expected,
    tensors: Tensors,
    /// Where to compute.
    device: Device,
}

/// A GPU, or what stands in for one: nothing that is not asked of this device reaches it.
fn gpu() -> Option<Device> {
    let folder = stand_in::gpu_library()?;
    if folder.starts_with(env!("CARGO_TARGET_TMPDIR")) {
        #[expect(unsafe_code, reason = "loading the library registers it")]
        let library = unsafe { libloading::Library::new(folder.join("libtorch_cuda.so")) }.unwrap();
        // It stays registered, so it must stay loaded.
        std::mem::forget(library);
    }
    Some(device::find(bstar_stages::Device::Cuda(0)).unwrap())
}

fn goldens(device: Device) -> Vec<Golden> {
    tch::set_num_threads(1);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let entries = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    assert_eq!(folders.len(), 11);
    let golden = |folder: PathBuf| Golden {
        name: folder.file_name().unwrap().to_str().unwrap().to_owned(),
        expected: serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap(),
        tensors: read_tensors(&folder.join("expected.safetensors"), Device::Cpu).unwrap().0,
        folder,
        device,
    };
    folders.into_iter().map(golden).collect()
}

/// Counted pseudo-random numbers from the tensor's name: `weight` in make.py.
fn weight(name: &str, shape: &[i64]) -> Tensor {
    let seed = name
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3));
    let scale = match name {
        _ if name.contains("lm_head") => 0.5,
        _ if name.contains("embed_tokens") => 0.125,
        _ => 0.25,
    };
    let middle = if name.contains("norm") { 1.0 } else { 0.0 };
    let number = |count: u64| {
        let mut z = seed.wrapping_add(count.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        middle + ((z >> 40) as f32 - 2_f32.powi(23)) * 2_f32.powi(-23) * scale
    };
    let count = shape.iter().product::<i64>() as u64;
    Tensor::from_slice(&(1..=count).map(number).collect::<Vec<f32>>()).view(shape)
}

impl Golden {
    fn model(&self) -> Decoder {
        decoder(ModelConfig::read(&self.folder).unwrap(), self.device)
    }
}

/// The model of this shape.
fn decoder(config: ModelConfig, device: Device) -> Decoder {
    let tensors = config.tensors().into_iter().map(|(name, shape)| {
        let tensor = weight(&name, &shape).to_device(device);
        (name, tensor)
    });
    let tensors = tensors.collect();
    Decoder::new(config, tensors)
}

/// Logits at every position of a sequence, on the processor.
fn logits(model: &Decoder, ids: &[i64]) -> Tensor {
    let _guard = tch::no_grad_guard();
    let weights = model.weights();
    let hidden = Packed::new(&[ids], model.device()).forward(model, &weights, |_, _| ());
    let logits = hidden.linear(&weights.head, None::<&Tensor>).narrow(0, 0, ids.len() as i64);
    logits.to_device(Device::Cpu).to_kind(Kind::Float)
}

fn distance(left: &Tensor, right: &Tensor) -> f64 {
    (left.to_device(Device::Cpu) - right).abs().max().double_value(&[])
}

/// A folder with a tokenizer that knows fewer tokens than the models.
fn tokenizer() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let row = Example {
        prompt: "one two".to_owned(),
        completion: " three".to_owned(),
        query_id: None,
        sample_index: None,
        reward: None,
    };
    let settings = bstar_stages::config::Tokenizer {
        corpus: vec![Reference::from("c")],
        kind: TokenizerKind::Words,
        vocab_size: 50,
        markers: Default::default(),
    };
    assert!(Tokenizer::train(&settings, &[row], folder.path()).unwrap() < 20);
    folder
}

fn draw(policy: &Policy, device: Device, prompts: &[(&str, &[i64])], settings: &SampleShard) -> Vec<Row> {
    let stop = AtomicBool::new(false);
    // On a GPU every step has as many rows as there is room for.
    let memory = if device == Device::Cpu { 1 << 28 } else { 1 << 22 };
    let sampling = Sampling { settings, seed: 5, memory };
    let prompts: Vec<_> =
        prompts.iter().map(|(id, ids)| policy.prompt_of(id, ids.to_vec(), &sampling).unwrap()).collect();
    policy.draw(&prompts, &sampling, &mut Control::new(&stop, |_| ())).unwrap()
}

fn settings(temperature: f64, start: u32, end: u32) -> SampleShard {
    SampleShard {
        temperature,
        start,
        end,
        max_tokens: 64,
        top_p: 1.0,
        top_k: 0,
        min_p: 0.0,
        stop: Vec::new(),
        precision: Default::default(),
        logprobs: false,
    }
}

#[test]
fn tensors_of_a_gpu_and_of_the_processor_do_not_mix() {
    let Some(gpu) = gpu() else { return };
    let here = Tensor::from_slice(&[1.0_f32, 2.0]);
    let there = here.to_device(gpu);
    assert!(there.device() == gpu && there.to_device(Device::Cpu).equal(&here));
    for mixed in [there.f_add(&here), here.f_mul(&there), there.f_dot(&here)] {
        assert!(mixed.unwrap_err().to_string().contains("same device"));
    }
}

#[test]
fn logits_are_those_of_transformers() {
    compare_logits(Device::Cpu);
}

#[test]
fn logits_on_a_gpu_are_those_of_transformers() {
    gpu().into_iter().for_each(compare_logits);
}

fn compare_logits(device: Device) {
    for golden in goldens(device) {
        let model = golden.model();
        let at = Tensor::from_slice(&golden.expected.looked_at);
        let found = logits(&model, &golden.expected.prompt).index_select(0, &at);
        let off = distance(&found, &golden.tensors["logits"]);
        // In 16 bits: no further from transformers in 16 bits than that is from 32 bits.
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(golden.folder.join("config.json"), folder.path().join("config.json")).unwrap();
        let named = model.named().into_iter().map(|(name, tensor)| (name.to_owned(), tensor));
        write_tensors(&folder.path().join("model.safetensors"), named, Kind::BFloat16, None).unwrap();
        let half = load_model(folder.path(), device, Kind::BFloat16).unwrap();
        let half = logits(&half, &golden.expected.prompt).index_select(0, &at);
        let theirs = &golden.tensors["logits_bfloat16"];
        let (half_off, usual) = (distance(&half, theirs), distance(theirs, &golden.tensors["logits"]));
        println!("{:14} logits off by {off:.1e}; bf16 by {half_off:.3} (usual: {usual:.3})", golden.name);
        assert!(off <= 1e-4, "{}: {off}", golden.name);
        assert!(half_off <= 1.5 * usual, "{}: {half_off} {usual}", golden.name);
    }
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    compare_greedy(Device::Cpu);
}

#[test]
fn greedy_tokens_on_a_gpu_are_those_of_transformers() {
    gpu().into_iter().for_each(compare_greedy);
}

fn compare_greedy(device: Device) {
    let tokenizer = tokenizer();
    for golden in goldens(device) {
        let policy = Policy::new(golden.model(), Tokenizer::load(tokenizer.path()).unwrap());
        let rows = draw(&policy, device, &[("q", &golden.expected.prompt)], &settings(0.0, 0, 1));
        assert_eq!(rows[0].ids, golden.expected.greedy, "{}", golden.name);
        let distinct: std::collections::BTreeSet<i64> = rows[0].ids.iter().copied().collect();
        assert!(distinct.len() >= 16, "{}: a model that repeats itself shows little", golden.name);
        let pairs = rows[0].logprobs.iter().zip(&golden.expected.logprobs);
        let off = pairs.map(|(found, expected)| (found - expected).abs()).fold(0.0, f64::max);
        println!("{:14} 64 greedy tokens equal; log-probabilities off by {off:.1e}", golden.name);
        assert!(off <= 1e-4, "{}: {off}", golden.name);
    }
}

#[test]
fn responses_do_not_depend_on_their_company() {
    compare_companies(Device::Cpu);
}

#[test]
fn responses_on_a_gpu_do_not_depend_on_their_company() {
    gpu().into_iter().for_each(compare_companies);
}

fn compare_companies(device: Device) {
    let tokenizer = tokenizer();
    for golden in goldens(device) {
        let policy = Policy::new(golden.model(), Tokenizer::load(tokenizer.path()).unwrap());
        let text: Vec<i64> = golden.expected.prompt.iter().chain(&golden.expected.greedy).copied().collect();
        let prompts: Vec<(String, &[i64])> = [3, 14, 17, 18, 31, 45, 60]
            .iter()
            .map(|length| (format!("q{length}"), &text[..*length]))
            .collect();
        let prompts: Vec<(&str, &[i64])> = prompts.iter().map(|(id, ids)| (id.as_str(), *ids)).collect();
        let bits =
            |rows: Vec<Row>, prompts: &[(&str, &[i64])]| -> BTreeMap<(String, u32), (Vec<i64>, Vec<u64>)> {
                let bits = |row: &Row| row.logprobs.iter().map(|logprob| logprob.to_bits()).collect();
                rows.iter()
                    .map(|row| ((prompts[row.query].0.to_owned(), row.sample), (row.ids.clone(), bits(row))))
                    .collect()
            };
        let all = bits(draw(&policy, device, &prompts, &settings(0.9, 0, 20)), &prompts);
        for (chosen, start, end) in [(vec![2], 3, 4), (vec![6, 1, 0], 0, 17), (vec![3, 4, 5], 18, 20)] {
            let chosen: Vec<(&str, &[i64])> = chosen.into_iter().map(|at: usize| prompts[at]).collect();
            for (name, found) in bits(draw(&policy, device, &chosen, &settings(0.9, start, end)), &chosen) {
                assert!(all[&name] == found, "{}: {name:?}", golden.name);
            }
        }
    }
}

/// How transformers trained.
fn training(golden: &Golden) -> Training {
    let Expected { rows, rate, decay, betas, losses, .. } = &golden.expected;
    let schedule = Schedule { shape: ScheduleShape::Constant, warmup: 0, floor: 0.0, total: None };
    Training {
        updates: losses.len(),
        batch: rows.len(),
        learning_rate: *rate,
        optimizer: OptimizerKind::Adamw,
        muon_learning_rate: 0.02,
        schedule,
        clip: 1.0,
        weight_decay: *decay,
        betas: *betas,
        max_length: 128,
        lora: None,
        freeze: Vec::new(),
        moments: Precision::Float32,
        precision: Precision::Float32,
        micro_batch: None,
        activation_checkpointing: false,
        checkpoint_every: 100,
    }
}

/// Trains on the rows of transformers; answers adapters, if any, losses and gradient norms.
fn train_on(
    golden: &Golden,
    model: &mut Decoder,
    settings: &Training,
) -> (Option<Adapters>, Vec<(f64, f64)>) {
    let rows = golden.expected.rows.iter().zip(&golden.expected.starts);
    let rows: Vec<TextRow> =
        rows.map(|(ids, start)| TextRow::from_ids(ids.clone(), *start).unwrap()).collect();
    let (scratch, stop) = (tempfile::tempdir().unwrap(), AtomicBool::new(false));
    let run = Run { settings, seed: 1, threads: 1, inherit: None, scratch: scratch.path() };
    let mut control = Control::new(&stop, |_| ());
    let trained = train(&NextToken, &rows, model, &run, &mut control).unwrap();
    (trained.adapters, trained.log.iter().map(|row| (row.loss, row.grad_norm)).collect())
}

/// The model after the updates, with its losses and gradient norms.
fn trained(golden: &Golden) -> (Decoder, Vec<(f64, f64)>) {
    let mut model = golden.model();
    let (_, log) = train_on(golden, &mut model, &training(golden));
    (model, log)
}

#[test]
fn three_updates_are_those_of_transformers() {
    compare_updates(Device::Cpu);
}

#[test]
fn three_updates_on_a_gpu_are_those_of_transformers() {
    gpu().into_iter().for_each(compare_updates);
}

fn compare_updates(device: Device) {
    for golden in goldens(device) {
        let (model, log) = trained(&golden);
        let mut loss_off = 0.0_f64;
        for ((loss, norm), (expected, their_norm)) in
            log.iter().zip(golden.expected.losses.iter().zip(&golden.expected.norms))
        {
            loss_off = loss_off.max((loss - expected).abs());
            assert!((norm - their_norm).abs() <= 1e-4 * their_norm, "{}: {norm} {their_norm}", golden.name);
        }
        let mut weights_off = (0.0, "");
        let (mut compared, mut sum) = (0, 0.0);
        for (name, tensor) in model.named() {
            let moved = tensor.to_device(Device::Cpu) - weight(name, &tensor.size());
            let expected = &golden.tensors[&format!("moved.{name}")];
            let off = distance(&moved, expected);
            compared += tensor.numel();
            sum += (&moved - expected).abs().sum(Kind::Double).double_value(&[]);
            if off > weights_off.0 {
                weights_off = (off, name);
            }
        }
        println!(
            "{:14} after 3 updates: loss off by {loss_off:.1e}, {compared} weights by at most {:.1e} ({}), {:.1e} \
             on average",
            golden.name,
            weights_off.0,
            weights_off.1,
            sum / compared as f64
        );
        assert!(sum / compared as f64 <= 1e-7, "{}", golden.name);
        assert!(loss_off <= 1e-5, "{}: {loss_off}", golden.name);
        assert!(weights_off.0 <= 1e-5, "{}: {weights_off:?}", golden.name);
    }
}

/// What PEFT made of adapters: `goldens/adapters.py` wrote it.
fn theirs(folder: &Path) -> (Tensors, Vec<f64>) {
    let json: Value = serde_json::from_slice(&std::fs::read(folder.join("adapters.json")).unwrap()).unwrap();
    let losses = json["losses"].as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect();
    (read_tensors(&folder.join("adapters.safetensors"), Device::Cpu).unwrap().0, losses)
}

#[test]
fn adapters_are_those_of_peft() {
    compare_adapters(Device::Cpu);
}

#[test]
fn adapters_on_a_gpu_are_those_of_peft() {
    gpu().into_iter().for_each(compare_adapters);
}

fn compare_adapters(device: Device) {
    let python = std::env::var_os("BSTAR_PYTHON");
    if python.is_none() {
        skipped::skipped("BSTAR_PYTHON names no Python with peft: compared with what is kept of it only");
    }
    let tokenizer = tokenizer();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/adapters.py");
    let mut compared = 0;
    for golden in goldens(device).iter().filter(|golden| golden.folder.join("adapters.json").exists()) {
        let folder = tempfile::tempdir().unwrap();
        let Expected { rows, starts, decay, betas, .. } = &golden.expected;
        let (rate, updates) = (1e-3, 3);
        let mut model = golden.model();
        let lora = Lora { rank: 4, alpha: Some(8.0), targets: Target::all(), merge: true };
        let start = Adapters::new(&lora, &model, 1);
        let settings = Training { updates, learning_rate: rate, lora: Some(lora), ..training(golden) };
        let mut expected = vec![theirs(&golden.folder)];
        if let Some(python) = &python {
            let told = json!({"rows": rows, "starts": starts, "rate": rate, "decay": decay, "betas": betas, "updates": updates});
            std::fs::write(folder.path().join("rows.json"), told.to_string()).unwrap();
            save_model(&folder.path().join("base"), &model, Kind::Float, tokenizer.path()).unwrap();
            start.save(&folder.path().join("start")).unwrap();
            let output = std::process::Command::new(python).arg(&script).arg(folder.path()).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            expected.push(theirs(folder.path()));
        }
        let (adapters, log) = train_on(golden, &mut model, &settings);
        let adapters = adapters.unwrap();
        adapters.save(&folder.path().join("end")).unwrap();
        let (end, _) =
            read_tensors(&folder.path().join("end/adapter_model.safetensors"), Device::Cpu).unwrap();
        adapters.merge(&mut model);
        let logits = logits(&model, &rows[0]);
        for (mut tensors, losses) in expected {
            let logits_off = distance(&logits, &tensors.remove("logits").unwrap());
            assert!(end.keys().eq(tensors.keys()) && end.len() == 7 * 2 * 2, "two blocks");
            let off = end.iter().map(|(name, tensor)| distance(tensor, &tensors[name])).fold(0.0, f64::max);
            println!("{:14} adapters off by {off:.1e}, merged logits by {logits_off:.1e}", golden.name);
            assert!(off <= 1e-5 && logits_off <= 1e-4, "{}: {off} {logits_off}", golden.name);
            for ((loss, _), theirs) in log.iter().zip(&losses) {
                assert!((loss - theirs).abs() <= 1e-5, "{loss} {theirs}");
            }
            assert_eq!(log.len(), losses.len());
        }
        compared += 1;
    }
    assert_eq!(compared, 3);
}

#[test]
fn scores_of_reward_models_are_those_of_transformers() {
    compare_scores(Device::Cpu);
}

#[test]
fn scores_on_a_gpu_are_those_of_transformers() {
    gpu().into_iter().for_each(compare_scores);
}

fn compare_scores(device: Device) {
    for golden in goldens(device) {
        let mut config = ModelConfig::read(&golden.folder).unwrap();
        config.scalar = true;
        let found = logits(&decoder(config, device), &golden.expected.prompt).select(1, 0);
        let off = distance(&found, &Tensor::from_slice(&golden.expected.scores));
        println!("{:14} scores off by {off:.1e}", golden.name);
        assert!(off <= 1e-4, "{}: {off}", golden.name);
    }
}
