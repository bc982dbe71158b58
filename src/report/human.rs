//! Lines for people on standard error: one for every finished step, and bars while a terminal watches.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anstyle::{AnsiColor, Style};
use bstar_stages::protocol::FailureKind;
use bstar_stages::stage::trains;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value};

use crate::event::{Event, Summary};
use crate::failure::tell;
use crate::report::{Report, count, duration};

/// Bars shown at once.
const MAX_BARS: usize = 8;
/// Without a terminal, a sign of life this often.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// Shows a run to people.
pub struct Human {
    terminal: bool,
    colour: bool,
    began: Instant,
    state: Mutex<State>,
}

/// When an event happened.
#[derive(Debug, Clone, Copy)]
struct Moment {
    /// Since any fixed time before.
    time: Duration,
    ago: Duration,
}

struct State {
    bars: MultiProgress,
    live: BTreeMap<String, Live>,
    cut: BTreeMap<String, Cut>,
    cached: usize,
    saved: f64,
    heartbeat: Option<Duration>,
}

/// A sharded step none of whose shards has run yet: it waits, however long ago it was cut.
#[derive(Debug, Clone, Copy, Default)]
struct Cut {
    /// Shards that were in the store.
    found: u64,
    shards: u64,
}

/// A step that is running, or a shard of which has run.
struct Live {
    bar: Option<ProgressBar>,
    done: u64,
    total: u64,
    unit: String,
    since: Duration,
}

impl Default for Human {
    fn default() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target =
            if terminal { ProgressDrawTarget::stderr_with_hz(8) } else { ProgressDrawTarget::hidden() };
        let state = State {
            bars: MultiProgress::with_draw_target(target),
            live: BTreeMap::new(),
            cut: BTreeMap::new(),
            cached: 0,
            saved: 0.0,
            heartbeat: None,
        };
        let colour = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
        Self { terminal, colour, began: Instant::now(), state: Mutex::new(state) }
    }
}

fn sharded_parent(step: &str) -> Option<&str> {
    step.split_once('/').map(|(parent, _)| parent)
}

/// The figures worth a word on a finished step's line.
fn figures(stage: &str, metrics: &Map<String, Value>, shards: Option<usize>) -> String {
    let number = |name: &str| metrics.get(name).and_then(Value::as_f64);
    let percent = |name: &str| number(name).map(|value| format!("{:.1} %", 100.0 * value));
    let mut parts = Vec::new();
    match stage {
        stage if trains(stage) => {
            if let (Some(first), Some(last)) = (number("loss_first"), number("loss_last")) {
                parts.push(format!("loss {first:.3} → {last:.3}"));
            }
        }
        "search" => {
            for (name, label) in [("temperature", "t"), ("threshold", "τ"), ("balance_score", "balance")] {
                parts.extend(number(name).map(|value| format!("{label} {value:.3}")));
            }
        }
        "filter" => {
            if let (Some(kept), Some(sampled)) = (number("kept"), number("sampled")) {
                parts.push(format!("{kept:.0} kept of {sampled:.0}"));
            }
        }
        "measure" => parts.extend(percent("pass_at_1").map(|value| format!("Pass@1 {value}"))),
        _ => {}
    }
    parts.extend(number("responses").map(|responses| format!("{responses:.0} responses")));
    if let (Some(cut @ 1.0..), Some(all)) = (number("truncated"), number("responses")) {
        parts.push(format!("{:.1} % truncated", 100.0 * cut / all));
    }
    parts.extend(shards.map(|shards| count(shards, "shard")));
    parts.join(", ")
}

impl Human {
    fn line(&self, state: &State, colour: AnsiColor, verb: &str, text: &str) {
        let style = Style::new().bold().fg_color(Some(colour.into()));
        let line = if self.colour {
            format!("{style}{verb:>12}{style:#} {text}")
        } else {
            format!("{verb:>12} {text}")
        };
        self.print(state, &line);
    }

    fn print(&self, state: &State, text: &str) {
        if self.terminal { state.bars.suspend(|| tell(text)) } else { tell(text) }
    }

    fn begin(&self, state: &mut State, step: &str, [done, total]: [u64; 2], unit: &str, now: Moment) {
        let bar = (self.terminal && state.live.values().filter(|live| live.bar.is_some()).count() < MAX_BARS)
            .then(|| {
                let style = ProgressStyle::with_template(
                    "{prefix:>12.cyan.bold} {msg} [{elapsed}] {bar:24.cyan/dim} {human_pos}/{human_len}",
                );
                let mut bar = ProgressBar::new(total).with_prefix("Running").with_message(step.to_owned());
                if let Ok(style) = style {
                    bar = bar.with_style(style.progress_chars("━╸─"));
                }
                let bar = state.bars.add(bar.with_position(done).with_elapsed(now.ago));
                bar.enable_steady_tick(Duration::from_millis(250));
                bar
            });
        let live = Live { bar, done, total, unit: unit.to_owned(), since: now.time };
        state.live.insert(step.to_owned(), live);
    }

    fn finish(state: &mut State, step: &str) {
        if let Some(Live { bar: Some(bar), .. }) = state.live.remove(step) {
            bar.finish_and_clear();
        }
    }

    /// Steps that were in the store are told of together, before the next thing happens.
    fn flush_cached(&self, state: &mut State) {
        if state.cached > 0 {
            let text = format!("{} [saved {}]", count(state.cached, "step"), duration(state.saved));
            self.line(state, AnsiColor::Green, "Cached", &text);
            (state.cached, state.saved) = (0, 0.0);
        }
    }

    fn heartbeat(&self, state: &mut State, now: Moment) {
        let last = *state.heartbeat.get_or_insert(now.time);
        if self.terminal || now.time.saturating_sub(last) < HEARTBEAT {
            return;
        }
        state.heartbeat = Some(now.time);
        let lines: Vec<String> = state
            .live
            .iter()
            .map(|(step, live)| {
                let elapsed = duration(now.time.saturating_sub(live.since).as_secs_f64());
                format!("{step} {}/{} {} [{elapsed}]", live.done, live.total, live.unit)
            })
            .collect();
        for text in lines {
            self.line(state, AnsiColor::Cyan, "Running", &text);
        }
    }

    fn summary(&self, state: &mut State, summary: &Summary) {
        self.flush_cached(state);
        let colour = match summary.outcome.as_str() {
            "done" => AnsiColor::Green,
            "stopped" => AnsiColor::Yellow,
            _ => AnsiColor::Red,
        };
        let saved = if summary.cached > 0 {
            format!(" (saved {})", duration(summary.saved_s))
        } else {
            String::new()
        };
        let mut text = format!(
            "[{}] {} executed, {} cached{saved}",
            duration(summary.wall_s),
            count(summary.executed, "step"),
            summary.cached
        );
        for (number, word) in [(summary.failed, "failed"), (summary.skipped, "not run")] {
            if number > 0 {
                text.push_str(&format!(", {number} {word}"));
            }
        }
        self.line(state, colour, "Summary", &text);
    }
}

impl Report for Human {
    fn event(&self, event: &Event) {
        self.show(event, Moment { time: self.began.elapsed(), ago: Duration::ZERO });
    }

    /// What follows on the terminal is not for bars to draw over.
    fn end(&self) -> std::io::Result<()> {
        self.clear();
        Ok(())
    }
}

impl Human {
    /// Shows an event from the record of a run, for the whole of which it is used: what happened `time` after 1970.
    pub fn replay(&self, event: &Event, time: Duration) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.show(event, Moment { time, ago: now.saturating_sub(time) });
    }

    /// Takes away the bars of steps that do not go on.
    pub fn clear(&self) {
        if let Ok(mut state) = self.state.lock() {
            state.live.clear();
            drop(state.bars.clear());
        }
    }

    fn show(&self, event: &Event, now: Moment) {
        let Ok(mut guard) = self.state.lock() else { return };
        let state = &mut *guard;
        match event {
            Event::Started { run, pipeline, store, steps } => {
                let text = format!("{pipeline} (run {run}, store {store}, {})", count(*steps, "step"));
                self.line(state, AnsiColor::Green, "Planned", &text);
            }
            Event::Forecast(forecast) => self.line(state, AnsiColor::Green, "Sweep", &forecast.to_string()),
            Event::Unfolded { step, shards } => {
                let cut = Cut { found: 0, shards: *shards as u64 };
                state.cut.insert(step.clone(), cut);
            }
            Event::Running { step, attempt, .. } => {
                if *attempt > 1 {
                    self.line(state, AnsiColor::Yellow, "Retrying", &format!("{step} (attempt {attempt})"));
                }
                match sharded_parent(step) {
                    None => {
                        self.flush_cached(state);
                        self.begin(state, step, [0, 0], "", now);
                    }
                    Some(parent) => {
                        if let Some(Cut { found, shards }) = state.cut.remove(parent) {
                            self.flush_cached(state);
                            self.begin(state, parent, [found, shards], "shards", now);
                        }
                    }
                }
            }
            Event::Progress { step, done, total, unit, note } => {
                if let Some(live) = state.live.get_mut(step) {
                    (live.done, live.total, live.unit) = (*done, *total, unit.clone());
                    if let Some(bar) = &live.bar {
                        bar.set_length(*total);
                        bar.set_position(*done);
                        let note = note.as_ref().map_or(String::new(), |note| format!(" ({note})"));
                        bar.set_message(format!("{step}{note}"));
                    }
                }
                self.heartbeat(state, now);
            }
            Event::Done { step, shard: true, .. } => {
                if let Some(parent) = sharded_parent(step) {
                    if let Some(live) = state.live.get_mut(parent) {
                        live.done += 1;
                        live.bar.iter().for_each(|bar| bar.inc(1));
                    } else if let Some(cut) = state.cut.get_mut(parent) {
                        cut.found += 1;
                    }
                }
                self.heartbeat(state, now);
            }
            Event::Done { cached: true, seconds, .. } => {
                state.cached += 1;
                state.saved += seconds;
            }
            Event::Done { step, stage, shards, seconds, metrics, .. } => {
                self.flush_cached(state);
                // A sharded step took the time that passed, not the sum over its shards.
                let passed = state.live.get(step).map(|live| now.time.saturating_sub(live.since));
                let seconds = passed.map_or(*seconds, |passed| passed.as_secs_f64());
                Self::finish(state, step);
                let figures = figures(stage, metrics, *shards);
                let text = format!("[{:>7}] {step}  {figures}", duration(seconds));
                self.line(state, AnsiColor::Green, "Done", text.trim_end());
            }
            Event::Failed { step, message, hint, retry_in, kind, .. } => {
                Self::finish(state, step);
                if let Some(seconds) = retry_in {
                    let text = format!("{step}: {message}; trying again in {}", duration(*seconds));
                    self.line(state, AnsiColor::Yellow, "Failed", &text);
                } else if *kind == FailureKind::Interrupted {
                    self.line(state, AnsiColor::Yellow, "Stopped", &format!("{step}: {message}"));
                } else {
                    self.line(state, AnsiColor::Red, "Failed", &format!("{step}: {message}"));
                    if let Some(hint) = hint {
                        self.print(state, &format!("{:>12} {hint}", "hint:"));
                    }
                }
            }
            Event::Skipped { .. } => {}
            Event::Note { level, message } => {
                let colour = if *level == "warn" { AnsiColor::Yellow } else { AnsiColor::Cyan };
                self.line(state, colour, if *level == "warn" { "Warning" } else { "Note" }, message);
            }
            Event::Stopping => {
                let text = "saving what runs; a second signal stops at once";
                self.line(state, AnsiColor::Yellow, "Stopping", text);
            }
            Event::Summary(summary) => self.summary(state, summary),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::{Human, figures};
    use crate::event::Event;
    use crate::report::Report;

    #[test]
    fn a_step_that_was_cut_runs_once_one_of_its_shards_does() {
        let human = Human::default();
        let running = |step: &str| Event::Running { step: step.to_owned(), stage: "sample", attempt: 1 };
        let done = |step: &str, cached: bool| Event::Done {
            step: step.to_owned(),
            stage: "sample",
            cached,
            shard: true,
            shards: None,
            key: serde_json::from_value(json!("0".repeat(64))).unwrap(),
            seconds: 1.0,
            metrics: serde_json::Map::new(),
        };
        let shown = || human.state.lock().unwrap().live.get("explore").map(|live| (live.done, live.total));
        human.event(&Event::Unfolded { step: "explore".to_owned(), shards: 3 });
        human.event(&done("explore/0", true));
        assert_eq!(shown(), None);
        human.event(&running("explore/1"));
        assert_eq!(shown(), Some((1, 3)));
        human.event(&done("explore/1", false));
        assert_eq!(shown(), Some((2, 3)));
    }

    #[test]
    fn a_recorded_step_took_the_time_between_its_events() {
        let human = Human::default();
        let started = Duration::from_secs(1_700_000_000);
        let running = Event::Running { step: "sft".to_owned(), stage: "sft", attempt: 1 };
        human.replay(&running, started);
        assert_eq!(human.state.lock().unwrap().live["sft"].since, started);
    }

    #[test]
    fn a_finished_step_tells_its_main_figure() {
        let metrics = |value: serde_json::Value| value.as_object().cloned().expect("an object");
        let search = metrics(json!({"temperature": 0.6, "threshold": -0.1, "balance_score": 0.26}));
        assert_eq!(figures("search", &search, None), "t 0.600, τ -0.100, balance 0.260");
        let sample = metrics(json!({"responses": 320}));
        assert_eq!(figures("sample", &sample, Some(4)), "320 responses, 4 shards");
        let cut = |cut: u64| figures("sample", &metrics(json!({"responses": 320, "truncated": cut})), None);
        assert_eq!([cut(0), cut(80)], ["320 responses", "320 responses, 25.0 % truncated"]);
        assert_eq!(figures("filter", &metrics(json!({"kept": 3, "sampled": 9})), None), "3 kept of 9");
    }
}
