use std::sync::atomic::AtomicBool;

use super::*;
use crate::model::tests::random;
use crate::tokenizer::tests::folder;

pub(crate) fn query(id: usize, length: usize) -> Query {
    let words = [" has", " pens", ",", " and", " buys", " more", ".", " 1", " 2", " 3", " ="];
    Query {
        id: format!("q{id}"),
        prompt: (0..length).map(|word| words[(word * 7 + id) % words.len()]).collect(),
        answer: String::new(),
        prefix: None,
        choices: None,
        tests: None,
        tags: std::collections::BTreeMap::new(),
    }
}

fn policy(hidden: usize, layers: usize, heads: usize, kv: usize) -> Policy {
    let tokenizer = Tokenizer::load(folder().path()).unwrap();
    let mut model = random(hidden, layers, heads, kv, 200);
    // Many tokens end a response, so that responses end at different lengths.
    model.config_mut().eos = (1..8).collect();
    Policy::new(model, tokenizer)
}

fn settings(temperature: f64, start: u32, end: u32, max_tokens: usize) -> SampleShard {
    SampleShard {
        temperature,
        start,
        end,
        max_tokens,
        top_p: 1.0,
        top_k: 0,
        min_p: 0.0,
        stop: Vec::new(),
        precision: Default::default(),
        logprobs: false,
    }
}

fn sample(policy: &Policy, queries: &[Query], settings: &SampleShard, memory: usize) -> Vec<Response> {
    tch::set_num_threads(1);
    let stop = AtomicBool::new(false);
    let sampling = Sampling { settings, seed: 5, memory };
    policy.sample(queries, &sampling, &mut Control::new(&stop, |_| ())).unwrap()
}

/// A response with the bits of its log-probability, and its name.
fn bits(response: &Response) -> ((String, u32), (String, u32, u64)) {
    let name = (response.query_id.clone(), response.sample_index);
    (name, (response.text.clone(), response.tokens, response.logprob.to_bits()))
}

/// Draws subsets of queries and samples in several ways and compares with all at once.
fn check_invariance(policy: &Policy, temperature: f64, max_tokens: usize, rounds: u64) {
    let queries: Vec<Query> = (0..20).map(|id| query(id, 3 + id * 5 % 41)).collect();
    let most = if temperature > 0.0 { 40 } else { 1 };
    let all: std::collections::BTreeMap<_, _> =
        sample(policy, &queries, &settings(temperature, 0, most, max_tokens), 1 << 30)
            .iter()
            .map(bits)
            .collect();
    let lengths: std::collections::BTreeSet<u32> = all.values().map(|(_, tokens, _)| *tokens).collect();
    assert!(lengths.len() > 5, "responses should end at different lengths: {lengths:?}");
    for round in 0..rounds {
        let mut stream = Stream::new("test", round, "subset", 0);
        let mut pick = |most: usize| (stream.uniform() * most as f64) as usize;
        let count = [1, 2, 5, 20][pick(4)];
        let start = pick(most as usize) as u32;
        let end = [start + 1, start + 3, start + 16, most][pick(4)].min(most);
        let bytes = [1 << 30, 1 << 24, 1 << 22, 1][pick(4)];
        policy.room.set([usize::MAX, 64, 16][pick(3)]);
        policy.reads.borrow_mut().fitting = None;
        let order = Stream::new("test", round, "order", 0).permutation(queries.len());
        let chosen: Vec<Query> = order[..count].iter().map(|at| queries[*at].clone()).collect();
        for response in sample(policy, &chosen, &settings(temperature, start, end, max_tokens), bytes) {
            let (name, found) = bits(&response);
            assert_eq!(all[&name], found, "{name:?} in round {round}: {count} queries, {start}..{end}");
        }
    }
    policy.room.set(usize::MAX);
}

#[test]
fn responses_do_not_depend_on_their_company() {
    check_invariance(&policy(96, 3, 3, 3), 1.0, 40, 8);
}

#[test]
fn grouped_heads_do_not_depend_on_their_company() {
    check_invariance(&policy(64, 2, 4, 2), 0.8, 70, 8);
}

// Wide enough for products on a matrix unit, where there is one.
#[test]
fn responses_of_wide_models_do_not_depend_on_their_company() {
    check_invariance(&policy(192, 2, 6, 2), 1.0, 40, 6);
}

#[test]
fn greedy_responses_do_not_depend_on_their_company() {
    check_invariance(&policy(96, 3, 3, 3), 0.0, 60, 10);
}

#[test]
fn steady_responses_do_not_depend_on_their_company() {
    let policy = policy(64, 2, 4, 2);
    policy.steady.set(true);
    check_invariance(&policy, 0.8, 40, 6);
    check_invariance(&policy, 0.0, 60, 6);
}

#[test]
fn steady_responses_are_those_of_waves() {
    let mut policy = policy(96, 3, 3, 3);
    for window in [None, Some(12)] {
        policy.model.config_mut().windows[1] = window;
        let queries: Vec<Query> = (0..8).map(|id| query(id, 3 + id * 31 % 150)).collect();
        let settings = settings(1.0, 0, 70, 30);
        policy.steady.set(false);
        let waves = sample(&policy, &queries, &settings, 1 << 30);
        policy.steady.set(true);
        let steady = sample(&policy, &queries, &settings, 1 << 30);
        let equal = waves.iter().zip(&steady).filter(|(one, other)| one.text == other.text).count();
        // Sums in another order: a draw that falls on the border between two tokens may differ.
        assert!(equal + 2 >= waves.len(), "{equal} of {}", waves.len());
        for (one, other) in waves.iter().zip(&steady).filter(|(one, other)| one.text == other.text) {
            assert!((one.logprob - other.logprob).abs() < 1e-3, "{one:?} {other:?}");
        }
    }
}

#[test]
fn cached_steps_agree_with_reading_the_whole_text() {
    let _guard = tch::no_grad_guard();
    for (heads, kv) in [(3, 3), (4, 2)] {
        let policy = policy(heads * 32, 2, heads, kv);
        let settings = settings(1.0, 0, 3, 50);
        let sampling = Sampling { settings: &settings, seed: 1, memory: 1 << 30 };
        let prompts = [9, 23, 40].map(|length| policy.prompt(&query(length, length), &sampling).unwrap());
        let stop = AtomicBool::new(false);
        for row in policy.draw(&prompts, &sampling, &mut Control::new(&stop, |_| ())).unwrap() {
            let mut ids = prompts[row.query].ids.clone();
            let start = ids.len();
            ids.extend(&row.ids);
            let packed = crate::batch::Packed::new(&[&ids], tch::Device::Cpu);
            let hidden = packed.forward(&policy.model, &policy.weights, |_, _| ());
            let all = policy.weights.logits(&hidden).log_softmax(-1, tch::Kind::Float);
            let mut sum: f64 = (start..ids.len()).map(|at| all.double_value(&[at as i64 - 1, ids[at]])).sum();
            if let Some(token) = row.end_token {
                sum += all.double_value(&[ids.len() as i64 - 1, token]);
            }
            let found: f64 = row.logprobs.iter().sum();
            assert!((sum - found).abs() < 1e-4 * (1.0 + sum.abs()), "{sum} {row:?}");
        }
    }
}

#[test]
fn prompts_are_read_once_for_all_samples_of_a_query() {
    for steady in [false, true] {
        let policy = policy(64, 2, 4, 2);
        policy.steady.set(steady);
        let queries: Vec<Query> = (0..12).map(|id| query(id, 5 + 7 * id)).collect();
        let count = || policy.reads.borrow().count;
        let draw = |queries: &[Query], temperature, start, end, memory| {
            sample(&policy, queries, &settings(temperature, start, end, 20), memory)
        };
        let first = draw(&queries, 1.0, 0, 16, 1 << 30);
        assert_eq!(count(), 12);
        // Further samples, another temperature, the same again, a part of the queries.
        draw(&queries, 1.0, 16, 32, 1 << 30);
        draw(&queries, 0.5, 0, 16, 1 << 30);
        let again = draw(&queries, 1.0, 0, 16, 1 << 30);
        assert!(first.iter().map(bits).eq(again.iter().map(bits)));
        draw(&queries[3..7], 1.0, 0, 16, 1 << 30);
        assert_eq!(count(), 12, "steady: {steady}");
        // What a step does not need is forgotten.
        draw(&queries[..4], 1.0, 0, 16, 1 << 30);
        assert_eq!(count(), 15);
        // Where there is no room, nothing is kept.
        draw(&queries[..4], 1.0, 0, 3, 1000);
        draw(&queries[..4], 1.0, 0, 3, 1000);
        assert_eq!(count(), 23);
    }
}

#[test]
fn what_is_kept_of_prompts_has_a_limit() {
    let policy = policy(64, 2, 4, 2);
    let queries: Vec<Query> = (0..12).map(|id| query(id, 5 + 7 * id)).collect();
    // Keys and values of 2 heads of 16 numbers of 4 bytes in 2 blocks, and the hidden state.
    let tokens = |query: &Query| policy.tokenizer.encode(&query.prompt).unwrap().len().next_multiple_of(16);
    let bytes: Vec<usize> = queries.iter().map(|query| 4 * 2 * 2 * 2 * 16 * tokens(query) + 4 * 64).collect();
    let half: usize = bytes[..6].iter().sum();
    sample(&policy, &queries, &settings(1.0, 0, 2, 4), memory::KEPT * half);
    assert_eq!(policy.reads.borrow().bytes(), half);
    sample(&policy, &queries[..6], &settings(1.0, 0, 2, 4), memory::KEPT * half);
    assert_eq!((policy.reads.borrow().count, policy.reads.borrow().bytes()), (12, half));
}

#[test]
fn a_wave_that_does_not_fit_is_halved() {
    let policy = policy(64, 2, 4, 2);
    let queries: Vec<Query> = (0..9).map(|id| query(id, 5 + id)).collect();
    let settings = settings(1.0, 0, 20, 30);
    let all = sample(&policy, &queries, &settings, 1 << 30);
    // Memory is taken for prompts, for steps, and for the logits of both.
    for room in [179, 100, 32, 16] {
        policy.room.set(room);
        let found = sample(&policy, &queries, &settings, 1 << 30);
        assert!(all.iter().map(bits).eq(found.iter().map(bits)), "room for {room} rows");
    }
    policy.room.set(15);
    let stop = AtomicBool::new(false);
    let sampling = Sampling { settings: &settings, seed: 5, memory: 1 << 30 };
    let error = policy.sample(&queries, &sampling, &mut Control::new(&stop, |_| ())).unwrap_err();
    assert!(crate::memory::is_short(&error), "{error}");
}

#[test]
fn stop_texts_are_found_as_in_the_whole_text() {
    let policy = policy(64, 1, 2, 2);
    let mut stream = Stream::new("test", 1, "stops", 0);
    for stops in [vec![" 3"], vec![" has pens", "1 2 3 4 5"], vec!["s"], vec!["\u{fffd}"]] {
        let stops: Vec<String> = stops.into_iter().map(str::to_owned).collect();
        for _ in 0..20 {
            let ids: Vec<i64> = (0..80).map(|_| (stream.uniform() * 200.0) as i64).collect();
            for count in 1..=ids.len() {
                let text = policy.tokenizer.decode(&ids[..count]).unwrap();
                let at = stops.iter().filter_map(|stop| text.find(stop.as_str())).min();
                let expected = at.map(|at| text[..at].to_owned());
                assert_eq!(policy.stopped(&ids[..count], &stops).unwrap(), expected, "{ids:?}");
                if expected.is_some() {
                    break;
                }
            }
        }
    }
}

/// A tokenizer in the manner of Llama 2: what has no token of its own is spelt in bytes, and the space that a text begins
/// with is not decoded. The tokens 2 to 257 are the bytes.
fn bytes_tokenizer(folder: &std::path::Path) -> Tokenizer {
    let mut vocabulary = serde_json::json!({"<unk>": 0, "</s>": 1, "\u{2581}and": 258, "so": 259});
    for byte in 0..256 {
        vocabulary[format!("<0x{byte:02X}>")] = (byte + 2).into();
    }
    let decoders = serde_json::json!([
        {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]);
    let file = serde_json::json!({
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "unk_token": "<unk>", "byte_fallback": true},
        "decoder": {"type": "Sequence", "decoders": decoders},
    });
    std::fs::write(folder.join("tokenizer.json"), file.to_string()).unwrap();
    std::fs::write(folder.join("tokenizer_config.json"), r#"{"eos_token": "</s>"}"#).unwrap();
    Tokenizer::load(folder).unwrap()
}

#[test]
fn stop_texts_are_found_among_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let mut policy = policy(64, 1, 2, 2);
    policy.tokenizer = bytes_tokenizer(folder.path());
    let ids = |text: &[u8]| text.iter().map(|byte| i64::from(*byte) + 2).collect::<Vec<i64>>();
    let stops = |stop: &str| [stop.to_owned(), "####".to_owned()];
    // However the window that is looked at begins within a character.
    for (character, count) in ["\u{1042}", "\u{38c}", "\u{1f600}"]
        .into_iter()
        .flat_map(|text| (1..12).map(move |count| (text, count)))
    {
        let text = character.repeat(count) + "\n";
        for shift in ["", "a", "aa"] {
            let text = shift.to_owned() + &text;
            let found = policy.stopped(&ids(text.as_bytes()), &stops("\n")).unwrap();
            assert_eq!(found.as_deref(), text.strip_suffix('\n'), "{text:?}");
        }
    }
    // Bytes that are no text hide what follows them, as in the whole text.
    let broken = [&[0xff; 3][..], &[b'a'; 40], b"\n"].concat();
    assert!(!policy.tokenizer.decode(&ids(&broken)).unwrap().contains('\n'));
    assert_eq!(policy.stopped(&ids(&broken), &stops("\n")).unwrap(), None);
}

#[test]
fn a_continuation_keeps_the_space_it_begins_with() {
    let folder = tempfile::tempdir().unwrap();
    let mut policy = policy(64, 1, 2, 2);
    policy.tokenizer = bytes_tokenizer(folder.path());
    for (prefix, first, gap) in [("one", 258, " "), ("one", 259, ""), ("", 258, ""), ("one", 0xe1 + 2, "")] {
        assert_eq!(policy.gap(prefix, &[first, 259]).unwrap(), gap, "{prefix} {first}");
    }
    assert_eq!(policy.gap("one", &[]).unwrap(), "");
}

#[test]
fn logits_that_are_no_numbers_end_a_step() {
    for (temperature, samples) in [(0.0, 1), (0.7, 4)] {
        for value in [f64::NAN, f64::INFINITY] {
            let mut model = random(64, 1, 2, 2, 200);
            drop(model.tensors_mut().get_mut("model.norm.weight").unwrap().fill_(value));
            let policy = Policy::new(model, Tokenizer::load(folder().path()).unwrap());
            let sampling =
                Sampling { settings: &settings(temperature, 0, samples, 5), seed: 1, memory: 1 << 30 };
            let never = AtomicBool::new(false);
            let error =
                policy.sample(&[query(7, 10)], &sampling, &mut Control::new(&never, |_| ())).unwrap_err();
            assert!(error.message.contains("no finite numbers: token 1 of sample 0 of query `"), "{error}");
        }
    }
}

#[test]
fn stop_strings_end_a_response_and_are_cut_off() {
    let policy = policy(64, 1, 2, 2);
    let mut settings = settings(1.0, 0, 16, 40);
    let free = sample(&policy, &[query(0, 10)], &settings, 1 << 30);
    settings.stop = vec![" has".to_owned(), " 3".to_owned()];
    let stopped = sample(&policy, &[query(0, 10)], &settings, 1 << 30);
    assert!(stopped.iter().any(|response| response.tokens < 40));
    settings.logprobs = true;
    for (with, without) in sample(&policy, &[query(0, 10)], &settings, 1 << 30).iter().zip(&stopped) {
        let each = with.logprobs.as_ref().unwrap();
        assert_eq!(each.len(), with.tokens as usize);
        assert_eq!(each.iter().fold(0.0, |sum, logprob| sum + logprob).to_bits(), without.logprob.to_bits());
        assert!(without.logprobs.is_none() && with.text == without.text);
    }
    settings.logprobs = false;
    // Filters and stop texts look at a row alone.
    (settings.top_p, settings.min_p) = (0.95, 0.02);
    let queries: Vec<Query> = (0..5).map(|id| query(id, 10 + id)).collect();
    let together = sample(&policy, &queries, &settings, 1 << 30);
    (settings.start, settings.end) = (3, 4);
    for (number, query) in queries.iter().enumerate() {
        let found = sample(&policy, std::slice::from_ref(query), &settings, 1 << 30);
        assert_eq!(bits(&found[0]), bits(&together[number * 16 + 3]));
    }
    for (free, stopped) in free.iter().zip(&stopped) {
        assert!(free.text.starts_with(&stopped.text) && !stopped.text.contains(" has"));
    }
}

#[test]
fn a_special_token_ends_a_response_where_a_stop_text_is_its_own() {
    let mut policy = policy(64, 1, 2, 2);
    policy.end_at(Vec::new());
    let mut settings = settings(1.0, 0, 32, 40);
    let special = policy.tokenizer.decode(&[0]).unwrap();
    assert_eq!(special, "", "the first token is a special one");
    let (stop, text) = (AtomicBool::new(false), "<pad>");
    assert_eq!(policy.tokenizer.special(text), Some(0));
    assert_eq!(policy.tokenizer.special(" has"), None);
    let draw = |settings: &SampleShard| {
        let sampling = Sampling { settings, seed: 5, memory: 1 << 30 };
        let prompts = [policy.prompt(&query(0, 10), &sampling).unwrap()];
        policy.draw(&prompts, &sampling, &mut Control::new(&stop, |_| ())).unwrap()
    };
    let free = draw(&settings);
    settings.stop = vec![text.to_owned()];
    let stopped = draw(&settings);
    assert!(free.iter().any(|row| row.ids.contains(&0)));
    for (free, stopped) in free.iter().zip(&stopped) {
        let ends = free.ids.iter().position(|id| *id == 0);
        assert_eq!(stopped.ids, free.ids[..ends.unwrap_or(free.ids.len())]);
        assert_eq!(stopped.end_token, ends.map(|_| 0));
        assert_eq!(stopped.finish_reason() == FinishReason::Stop, ends.is_some());
    }
}

#[test]
fn what_begins_together_fits_into_the_memory() {
    let policy = policy(64, 3, 4, 2);
    for (memory, samples, max_tokens) in
        [(1 << 20, 40, 60), (1 << 20, 3, 10), (4 << 20, 300, 30), (100, 20, 5), (1 << 30, 2000, 9)]
    {
        let settings = settings(1.0, 0, samples, max_tokens);
        let sampling = Sampling { settings: &settings, seed: 0, memory };
        let queries: Vec<Query> = (0..9).map(|id| query(id, 4 + 11 * id)).collect();
        let prompts: Vec<Prompt> =
            queries.iter().map(|query| policy.prompt(query, &sampling).unwrap()).collect();
        // Keys and values of 2 heads of 16 numbers of 4 bytes in 3 blocks, and what drawing needs.
        let token = 4 * 2 * 3 * 2 * 16;
        let row = token * prompts.iter().map(|prompt| prompt.limit).max().unwrap()
            + 8 * usize::try_from(policy.config().vocab_size).unwrap();
        let mut plan = Plan::new(&policy, &prompts, &sampling);
        let (mut begun, mut most) = (0, 0);
        while !plan.is_empty() {
            let taken = plan.begins_with(&prompts);
            let rows: usize = taken.iter().map(|(_, rows)| rows).sum();
            let prompts: usize =
                taken.iter().map(|(query, _)| prompts[*query].ids.len().next_multiple_of(16)).sum();
            let bytes = token * prompts + row * rows;
            let least = taken.len() == 1 && rows <= crate::model::ROWS as usize;
            assert!(rows > 0 && rows <= 1024 && (bytes <= memory || least), "{bytes} of {memory}");
            begun += rows;
            most = most.max(bytes);
        }
        assert_eq!(begun, 9 * samples as usize);
        let whole = row * begun <= memory || begun < 1024;
        assert!(whole || memory < 1000 || 10 * most >= 7 * memory.min(1024 * row), "{most} of {memory}");
    }
}

#[test]
fn responses_end_where_positions_do_and_continue_prefixes() {
    let policy = policy(64, 1, 2, 2);
    let mut long = query(0, 250);
    let tokens = policy.tokenizer.encode(&long.prompt).unwrap().len();
    let responses = sample(&policy, &[long.clone()], &settings(1.0, 0, 16, 1000), 1 << 30);
    assert!(responses.iter().all(|response| response.tokens as usize <= 256 - tokens + 1));
    long.prompt = query(0, 10).prompt;
    long.prefix = Some(" pens 12".to_owned());
    let responses = sample(&policy, &[long.clone()], &settings(1.0, 0, 2, 5), 1 << 30);
    assert!(responses.iter().all(|response| response.text.starts_with(" pens 12")));
    long.prompt = query(0, 500).prompt;
    let stop = AtomicBool::new(false);
    let settings = settings(1.0, 0, 1, 5);
    let sampling = Sampling { settings: &settings, seed: 0, memory: 1 << 30 };
    let error = policy.sample(&[long], &sampling, &mut Control::new(&stop, |_| ())).unwrap_err();
    assert!(error.message.contains("`q0`") && error.message.contains("at most 256"), "{error}");
}

#[test]
fn prompts_are_read_in_pieces_that_fit() {
    let policy = policy(64, 2, 4, 2);
    let queries: Vec<Query> = (0..20).map(|id| query(id, 5 + id * 37 % 150)).collect();
    let settings = settings(1.0, 0, 3, 8);
    let all = sample(&policy, &queries, &settings, 1 << 30);
    let lengths: Vec<usize> =
        queries.iter().map(|query| policy.tokenizer.encode(&query.prompt).unwrap().len()).collect();
    let pieces = || std::mem::take(&mut policy.reads.borrow_mut().pieces);
    assert_eq!(pieces(), [lengths.iter().sum::<usize>()]);
    for memory in [16 << 20, 4 << 20, 1 << 20, 1] {
        policy.reads.borrow_mut().forget();
        let found = sample(&policy, &queries, &settings, memory);
        assert!(all.iter().map(bits).eq(found.iter().map(bits)), "{memory} bytes");
        // An eighth of the memory is for reading, which a longer prompt passes alone.
        let most = memory / 8 / policy.reading_bytes();
        let pieces = pieces();
        assert!(pieces.iter().all(|piece| *piece <= most || lengths.contains(piece)), "{pieces:?} {most}");
        assert!(memory > 4 << 20 || pieces.len() > 3, "{pieces:?}");
        assert_eq!(pieces.iter().sum::<usize>(), lengths.iter().sum::<usize>());
    }
}

#[test]
fn what_reading_takes_is_within_the_memory() {
    let policy = policy(64, 3, 4, 2);
    let settings = settings(1.0, 0, 40, 30);
    for memory in [1 << 20, 4 << 20, 1 << 30] {
        let sampling = Sampling { settings: &settings, seed: 0, memory };
        let prompts: Vec<Prompt> =
            (0..9).map(|id| policy.prompt(&query(id, 4 + 11 * id), &sampling).unwrap()).collect();
        let padded = |prompt: &Prompt| prompt.ids.len().next_multiple_of(16);
        let longest = prompts.iter().map(padded).max().unwrap();
        let (token, reading) = (policy.token_bytes(), policy.reading_bytes());
        // Two heads of 16 numbers of 4 bytes in 3 blocks; and what the products of a block have of a token: three times
        // the width, the inner width and the heads, beside the angles.
        assert_eq!((token, reading), (768, 4 * (3 * (64 + 170 + 16 * 6) + 2 * 16) + 768));
        let mut plan = Plan::new(&policy, &prompts, &sampling);
        while !plan.is_empty() {
            let taken = plan.begins_with(&prompts);
            let rows: usize = taken.iter().map(|(_, rows)| rows).sum();
            let tokens: usize = taken.iter().map(|(query, _)| padded(&prompts[*query])).sum();
            let piece = tokens.min((memory / 8 / reading).max(longest));
            let bytes = token * tokens + rows * (30 * token + 8 * 200) + piece * reading;
            assert!(rows == 1 || bytes <= memory, "{rows} rows, {bytes} of {memory} bytes");
        }
    }
}

#[test]
fn memory_for_less_than_a_row_draws_one_at_a_time() {
    let policy = policy(64, 2, 4, 2);
    let queries: Vec<Query> = (0..3).map(|id| query(id, 5 + 70 * id)).collect();
    let settings = settings(1.0, 0, 5, 12);
    let sampling = Sampling { settings: &settings, seed: 5, memory: 1 };
    let prompts: Vec<Prompt> = queries.iter().map(|query| policy.prompt(query, &sampling).unwrap()).collect();
    let mut plan = Plan::new(&policy, &prompts, &sampling);
    assert_eq!(plan.rows, 1);
    for query in 0..3 {
        for _ in 0..5 {
            assert_eq!(plan.begins_with(&prompts), [(query, 1)]);
        }
    }
    assert!(plan.is_empty());
    for steady in [false, true] {
        policy.steady.set(steady);
        let all = sample(&policy, &queries, &settings, 1 << 30);
        for memory in [1, 50_000, 400_000] {
            let found = sample(&policy, &queries, &settings, memory);
            assert!(all.iter().map(bits).eq(found.iter().map(bits)), "steady: {steady}, {memory} bytes");
        }
    }
}

#[test]
fn half_of_what_was_to_suffice_is_planned_with() {
    let policy = policy(64, 2, 4, 2);
    let settings = settings(1.0, 0, 4, 30);
    let sampling = Sampling { settings: &settings, seed: 0, memory: 1 << 40 };
    // The longest first.
    let prompts: Vec<Prompt> =
        (0..6).map(|id| policy.prompt(&query(id, 100 - 15 * id), &sampling).unwrap()).collect();
    let missing = [(0, 1), (0, 2), (0, 3), (2, 0), (2, 3), (5, 1), (5, 2)];
    let mut plan = Plan::new(&policy, &prompts, &sampling);
    assert!(!plan.halve(), "nothing began");
    let mut rows: usize = plan.begins_with(&prompts).iter().map(|(_, rows)| rows).sum();
    assert_eq!(rows, 24);
    let mut halvings = 0;
    while plan.halve() {
        halvings += 1;
        plan.begin_again(&prompts, &missing);
        let taken = plan.begins_with(&prompts);
        let now = taken.iter().map(|(_, rows)| rows).sum();
        assert!(now <= rows, "{now} rows after {rows}");
        rows = now;
        assert_eq!(taken[0].0, 5, "the shortest prompt is the first");
        assert!(taken.is_sorted_by_key(|(query, _)| std::cmp::Reverse(*query)), "{taken:?}");
    }
    assert_eq!(rows, 1);
    assert!((2..12).contains(&halvings), "{halvings}");
}

#[test]
fn the_next_step_plans_with_what_fitted() {
    let policy = policy(64, 2, 4, 2);
    let queries: Vec<Query> = (0..9).map(|id| query(id, 5 + id)).collect();
    let (stop, settings) = (AtomicBool::new(false), settings(1.0, 0, 20, 30));
    let sampling = Sampling { settings: &settings, seed: 5, memory: 1 << 30 };
    policy.room.set(40);
    for steady in [false, true] {
        policy.steady.set(steady);
        let draw = || {
            let mut notes = Vec::new();
            let mut control = Control::new(&stop, |progress: Progress| notes.extend(progress.note));
            let found = policy.sample(&queries, &sampling, &mut control).unwrap();
            drop(control);
            (found, notes)
        };
        let ((first, notes), (second, again)) = (draw(), draw());
        assert!(policy.reads.borrow().fitting.unwrap() < 1 << 20);
        assert!(notes[0].starts_with("memory was short: "), "{notes:?}");
        // On a GPU the shapes, and with them bits, follow from the memory.
        assert_eq!(!again.is_empty(), steady, "{again:?}");
        assert!(first.iter().map(bits).eq(second.iter().map(bits)));
    }
}

#[test]
fn limits_beyond_all_memory_are_those_of_the_positions() {
    let policy = policy(64, 1, 2, 2);
    let draw = |most| sample(&policy, &[query(0, 200)], &settings(1.0, 0, 3, most), 1 << 30);
    for steady in [false, true] {
        policy.steady.set(steady);
        let [most, all] = [1000, usize::MAX].map(draw);
        assert!(most.iter().map(bits).eq(all.iter().map(bits)), "steady: {steady}");
    }
}
