//! `bstar pipeline plan`.

use std::collections::BTreeMap;

use bstar_cache::ActionKey;
use serde::Serialize;
use serde_json::json;

use crate::cli::{Format, Global, Source, store_or_none};
use crate::commands::pipeline::{load, preview_failure};
use crate::commands::step::forced;
use crate::commands::{answer, answer_json, columns};
use crate::estimate::{Estimate, Past, estimate, not_stored};
use crate::executor::Options;
use crate::executor::preview::{Fate, preview_forced};
use crate::failure::Failure;
use crate::plan::{Plan, Section};
use crate::reason::{Explained, explain, reason};
use crate::report::{count, duration, size};

/// So many steps of a section in the same state are told one by one.
const SHORT: usize = 15;
/// So many names stand for a long list.
const NAMES: usize = 3;
/// The reason of many steps with many reasons.
const VARIOUS: &str = "for various reasons: --all shows them";

/// What running would do with one step.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    stage: &'static str,
    /// `cached`, `will_run` or `unknown`.
    state: &'static str,
    reason: String,
    /// Absent before it is known.
    key: Option<ActionKey>,
    differences: Vec<Explained>,
    /// Seconds it will take; absent where nothing like it is stored.
    expected_s: Option<f64>,
    /// Bytes it will store; absent where nothing like it is stored.
    expected_bytes: Option<u64>,
    #[serde(skip)]
    section: Section,
}

/// Shows what running would do, and why.
///
/// # Errors
/// When the pipeline or the store cannot be read, or nothing has a name in `force`.
pub async fn pipeline_plan(
    global: &Global,
    source: &Source,
    force: &[String],
    all: bool,
) -> Result<u8, Failure> {
    let pipeline = load(&source.file, &source.overrides)?;
    let store = store_or_none(global).await?;
    let plan = Plan::new(&pipeline);
    let force = forced(&plan, force)?;
    let fates = preview_forced(&store, &plan, &force).await.map_err(preview_failure)?;
    let left = not_stored(&fates);
    let options = Options::new("plan", &pipeline.name, pipeline.base.clone());
    let expected = if left.is_empty() {
        Estimate::default()
    } else {
        estimate(&plan, &left, &Past::read(&store).await?, &options)
    };
    let mut saved_s = 0.0;
    let mut rows = Vec::with_capacity(fates.len());
    for (id, fate) in &fates {
        let step = plan.step(*id);
        let (state, reason, key, differences) = match fate {
            Fate::Cached(manifest) => {
                saved_s += manifest.provenance.wall_s;
                let took = format!("took {}", duration(manifest.provenance.wall_s));
                ("cached", took, Some(manifest.key), Vec::new())
            }
            Fate::WillRun(miss) => {
                let differences = explain(&pipeline, &plan, step, miss);
                ("will_run", reason(miss, &differences), Some(miss.key), differences)
            }
            Fate::Unknown(waits) => ("unknown", format!("until {} ran", several(waits)), None, Vec::new()),
        };
        let left = expected.steps.get(id).copied();
        rows.push(Row {
            name: step.name.clone(),
            stage: step.stage.kind(),
            state,
            reason,
            key,
            differences,
            expected_s: left.map_or(Some(0.0), |left| left.map(|left| left.seconds)),
            expected_bytes: left.map_or(Some(0), |left| left.map(|left| left.bytes)),
            section: step.section,
        });
    }
    let number = |wanted: &str| rows.iter().filter(|row| row.state == wanted).count();
    let (will_run, cached, unknown) = (number("will_run"), number("cached"), number("unknown"));
    if global.format == Format::Json {
        answer_json(&json!({
            "steps": rows, "will_run": will_run, "cached": cached, "unknown": unknown,
            "expected_s": expected.makespan_s, "expected_work_s": expected.work_s,
            "expected_bytes": expected.bytes, "without_past": expected.without_past, "saved_s": saved_s,
        }))?;
        return Ok(0);
    }
    let mut text = format!(
        "{}\n\n{}: {cached} cached (saves {}), {will_run} will run, {unknown} unknown until others ran",
        if all { listed(&rows) } else { folded(&rows) },
        count(plan.len(), "step"),
        duration(saved_s),
    );
    if will_run + unknown > 0 {
        let sure = if unknown > 0 { "if all of these run" } else { "to run" };
        let known = will_run + unknown - expected.without_past;
        let unlike = match (known, expected.without_past) {
            (_, 0) => String::new(),
            (0, _) => {
                answer(&format!("{text}\nnothing stored is like them: how long they take is not known"))?;
                return Ok(0);
            }
            (_, without) => format!(", without {} that nothing stored is like", count(without, "step")),
        };
        text.push_str(&format!(
            "\n{sure}: about {} on {}, {} of new results{unlike}",
            duration(expected.makespan_s),
            count(options.jobs, "core"),
            size(expected.bytes),
        ));
    }
    answer(&text)?;
    Ok(0)
}

/// Names, shortened where there are many.
fn several(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMES);
    let shown = names[..names.len() - more].join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// One line of the answer: a step, or several that are alike.
struct Line {
    state: &'static str,
    what: String,
    seconds: Option<f64>,
    bytes: Option<u64>,
    reason: String,
}

impl Line {
    /// Rows in the same state as one line; the first speaks for all.
    fn of(what: String, rows: &[&Row]) -> Self {
        let first = rows.first();
        let known = rows.iter().any(|row| row.expected_s.is_some());
        let reason = match first {
            Some(first) if first.state != "cached" || rows.len() == 1 => first.reason.clone(),
            _ => String::new(),
        };
        Self {
            state: first.map_or("", |first| first.state),
            what,
            seconds: known.then(|| rows.iter().filter_map(|row| row.expected_s).sum()),
            bytes: known.then(|| rows.iter().filter_map(|row| row.expected_bytes).sum()),
            reason,
        }
    }

    fn cells(self) -> Vec<String> {
        let cached = self.state == "cached";
        let cell = |text: Option<String>| {
            if cached { String::new() } else { text.unwrap_or_else(|| "?".to_owned()) }
        };
        vec![
            self.state.replace('_', " "),
            self.what,
            cell(self.seconds.map(duration)),
            cell(self.bytes.map(size)),
            self.reason,
        ]
    }
}

fn table(lines: Vec<Line>) -> String {
    columns(&lines.into_iter().map(Line::cells).collect::<Vec<_>>())
}

/// Every step in a line of its own.
fn listed(rows: &[Row]) -> String {
    table(rows.iter().map(|row| Line::of(row.name.clone(), &[row])).collect())
}

/// The rows of a step of a section, by its name there: one for each iteration.
type Rows<'a> = (&'a str, Vec<&'a Row>);

/// Consecutive iterations whose steps are all in the same states.
struct Block<'a> {
    /// First and last iteration; `None` for setup.
    rounds: Option<(usize, usize)>,
    /// In the order of the plan.
    steps: Vec<Rows<'a>>,
}

impl Block<'_> {
    /// `setup`, `iteration[2]`, `iteration[2–7]`.
    fn name(&self) -> String {
        match self.rounds {
            None => "setup".to_owned(),
            Some((first, last)) if first == last => format!("iteration[{first}]"),
            Some((first, last)) => format!("iteration[{first}–{last}]"),
        }
    }

    fn lines(&self, lines: &mut Vec<Line>) {
        let of = |state: &str| -> Vec<&Rows<'_>> {
            self.steps.iter().filter(|(_, rows)| rows.iter().any(|row| row.state == state)).collect()
        };
        for (state, whole) in [("cached", 1), ("will_run", SHORT), ("unknown", SHORT)] {
            let steps = of(state);
            // All steps of a section, none of which runs for sure.
            let alone = steps.len() == self.steps.len() && state != "will_run";
            if steps.len() <= whole && !alone {
                for (name, rows) in steps {
                    lines.push(Line::of(format!("{}.{name}", self.name()), rows));
                }
                continue;
            }
            let mut alike: Vec<(&str, Vec<&Rows<'_>>)> = Vec::new();
            let mut rest: Vec<&Rows<'_>> = Vec::new();
            for step in steps {
                // Steps that run are alike when they run for one reason; of the others the first of many
                // speaks for all, as it waits for least.
                let reason = if state == "will_run" { step.1[0].reason.as_str() } else { "" };
                let full = alike.len() == SHORT;
                match alike.iter_mut().find(|(same, _)| *same == reason) {
                    Some((_, steps)) => steps.push(step),
                    None if full => rest.push(step),
                    None => alike.push((reason, vec![step])),
                }
            }
            if !rest.is_empty() {
                alike.push((VARIOUS, rest));
            }
            for (reason, steps) in alike {
                let rows: Vec<&Row> = steps.iter().flat_map(|(_, rows)| rows.iter().copied()).collect();
                let all = steps.len() == self.steps.len();
                let what = match steps.as_slice() {
                    [(name, _)] => format!("{}.{name}", self.name()),
                    _ if all => format!("{}: {}", self.name(), count(rows.len(), "step")),
                    _ => {
                        let names: Vec<String> = steps.iter().map(|(name, _)| (*name).to_owned()).collect();
                        format!("{}: {}", self.name(), several(&names))
                    }
                };
                let line = Line::of(what, &rows);
                lines.push(if reason == VARIOUS {
                    Line { reason: VARIOUS.to_owned(), ..line }
                } else {
                    line
                });
            }
        }
    }
}

/// What is alike in one line: iterations, cached steps, and many steps with one reason.
fn folded(rows: &[Row]) -> String {
    let mut sections: BTreeMap<Section, Vec<(&str, &Row)>> = BTreeMap::new();
    for row in rows {
        let name = match row.section {
            Section::Setup => row.name.strip_prefix("setup."),
            Section::Iteration(_) => row.name.split_once("].").map(|(_, rest)| rest),
        };
        sections.entry(row.section).or_default().push((name.unwrap_or(&row.name), row));
    }
    let mut blocks: Vec<Block<'_>> = Vec::new();
    for (section, steps) in sections {
        let round = match section {
            Section::Setup => None,
            Section::Iteration(round) => Some(round),
        };
        if let (Some(round), Some(block)) = (round, blocks.last_mut())
            && let Some((_, last)) = &mut block.rounds
            && block.steps.len() == steps.len()
            && block
                .steps
                .iter()
                .zip(&steps)
                .all(|(same, (name, row))| same.0 == *name && same.1[0].state == row.state)
        {
            *last = round;
            block.steps.iter_mut().zip(steps).for_each(|((_, rows), (_, row))| rows.push(row));
            continue;
        }
        let steps = steps.into_iter().map(|(name, row)| (name, vec![row])).collect();
        blocks.push(Block { rounds: round.map(|round| (round, round)), steps });
    }
    let mut lines = Vec::new();
    blocks.iter().for_each(|block| block.lines(&mut lines));
    table(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(section: Section, name: &str, state: &'static str, reason: &str) -> Row {
        Row {
            name: section.step_name(name),
            stage: "command",
            state,
            reason: reason.to_owned(),
            key: None,
            differences: Vec::new(),
            expected_s: Some(2.0),
            expected_bytes: Some(10),
            section,
        }
    }

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn iterations_that_are_alike_are_folded() {
        let mut rows = vec![
            row(Section::Setup, "sft", "cached", "took 1s"),
            row(Section::Setup, "rm", "cached", "took 1s"),
        ];
        for round in 0..8 {
            let (search, train) = match round {
                0 => (("cached", ""), ("cached", "")),
                1 => (("will_run", "n_star 2 → 3"), ("unknown", "until iteration[1].search ran")),
                _ => (("unknown", "until iteration[1].train ran"), ("unknown", "until it ran")),
            };
            rows.push(row(Section::Iteration(round), "search", search.0, search.1));
            rows.push(row(Section::Iteration(round), "train", train.0, train.1));
        }
        assert_eq!(
            lines(&folded(&rows)),
            [
                "cached setup: 2 steps",
                "cached iteration[0]: 2 steps",
                "will run iteration[1].search 2.0s 10 B n_star 2 → 3",
                "unknown iteration[1].train 2.0s 10 B until iteration[1].search ran",
                "unknown iteration[2–7]: 12 steps 24.0s 120 B until iteration[1].train ran",
            ]
        );
        assert_eq!(listed(&rows).lines().count(), 18);
    }

    #[test]
    fn a_section_of_many_steps_stays_short_whatever_their_reasons() {
        let state = |index: usize| if index < 500 { "will_run" } else { "unknown" };
        let rows: Vec<Row> = (0..1000)
            .map(|index| row(Section::Setup, &format!("s{index}"), state(index), &format!("reason {index}")))
            .collect();
        let text = lines(&folded(&rows));
        assert_eq!(text.len(), SHORT + 2);
        assert_eq!(text[0], "will run setup.s0 2.0s 10 B reason 0");
        assert!(text[SHORT].starts_with("will run setup: s15, s16, s17 and 482 more"), "{}", text[SHORT]);
        assert!(text[SHORT].ends_with(VARIOUS));
        assert!(text[SHORT + 1].starts_with("unknown setup: s500, s501, s502 and 497 more"));
        assert!(text[SHORT + 1].ends_with("reason 500"));
    }

    #[test]
    fn many_steps_with_one_reason_are_one_line() {
        let mut rows: Vec<Row> = (0..1000)
            .map(|index| row(Section::Setup, &format!("s{index}"), "unknown", "until a ran"))
            .collect();
        rows[0] = row(Section::Setup, "a", "will_run", "argv[1] 1 → 2");
        rows[1] = row(Section::Setup, "b", "cached", "took 1s");
        assert_eq!(
            lines(&folded(&rows)),
            [
                "cached setup.b took 1s",
                "will run setup.a 2.0s 10 B argv[1] 1 → 2",
                "unknown setup: s2, s3, s4 and 995 more 33m 16s 10.0 kB until a ran",
            ]
        );
    }
}
