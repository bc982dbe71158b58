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
