//! Checks of what the names in a pipeline mean.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bstar_stages::config::{Schedule, ScheduleShape, Sft};
use bstar_stages::holds::Holds;
use bstar_stages::{Output, StageConfig, hub};
use serde_json::Value;

use super::document::Draft;
use super::position::{At, join};
use super::read::{Parts, RawStage};
use super::settings::PLACEHOLDER;
use super::suggest;
use crate::lower::{Lowered, Use, lower};
use crate::scope::{Scope, Target, Unresolved, View, cycles};

/// Reports everything that is wrong with the names of a pipeline whose relative paths start at `base`.
pub(crate) fn check(draft: &mut Draft, parts: &Parts, base: &Path) {
    let setup = lower_all(&parts.setup);
    let iteration = lower_all(&parts.iteration);
    let scope = Scope {
        iteration: Scope::outputs(&iteration),
        setup: Scope::outputs(&setup),
        carried: parts.start.keys().chain(parts.carry.keys()).cloned().collect(),
        inputs: parts.inputs.keys().cloned().collect(),
    };
    clashes(draft, parts);
    files(draft, parts, base);
    let absent = absent(&scope, parts);
    for (section, view, steps) in [("setup", View::Setup, &setup), ("iteration", View::Iteration, &iteration)]
    {
        for step in steps {
            let stage = join(section, step.entry);
            for reference in step.uses.iter().filter(|reference| reference.reference.0 != PLACEHOLDER) {
                check_use(draft, &scope, view, &stage, reference, &absent);
                check_kind(draft, &scope, parts, view, &stage, reference);
            }
        }
        check_cycles(draft, &scope, view, section, steps);
    }
    schedules(draft, &scope, parts, &absent);
    check_section(draft, &scope, "start", &parts.start, View::Setup);
    check_section(draft, &scope, "carry", &parts.carry, View::Iteration);
    implicit_starts(draft, &scope, parts);
    misspelt_carries(draft, parts, &iteration);
    retained(draft, parts, &iteration);
}

/// What is retained must be an output of the iteration: `optimizer`, or `train.optimizer`.
fn retained(draft: &mut Draft, parts: &Parts, iteration: &[Lowered<'_>]) {
    let mut names = BTreeSet::new();
    for step in iteration {
        // What could not be read may have any outputs.
        let Some(config) = &step.config else { return };
        for output in config.stage().outputs() {
            names.insert(format!("{}.{}", step.entry, output.name));
            names.insert(output.name);
        }
    }
    for name in parts.retain.keys().filter(|name| !names.contains(*name)) {
        let hint = suggest::nearest(name, names.iter().map(String::as_str)).map_or_else(
            || "it names an output of a stage of `iteration`, for example `optimizer: 1`".to_owned(),
            |meant| format!("did you mean `{meant}`?"),
        );
        let message = format!("no stage of `iteration` has an output `{name}`");
        draft.add(&join("retain", name), At::Key, message, Some(hint));
    }
}

fn lower_all(stages: &[RawStage]) -> Vec<Lowered<'_>> {
    stages.iter().flat_map(|stage| lower(&stage.name, stage.config.as_ref(), stage.policy)).collect()
}

/// Names that mean two things.
fn clashes(draft: &mut Draft, parts: &Parts) {
    for (section, stages) in [("setup", &parts.setup), ("iteration", &parts.iteration)] {
        for stage in stages {
            let name = &stage.name;
            let field = join(section, name);
            if parts.inputs.contains_key(name) {
                let message = format!("`{name}` is the name of a stage and of an input");
                draft.add(&field, At::Key, message, Some("rename one of them".to_owned()));
            }
            if section == "iteration" && (parts.carry.contains_key(name) || parts.start.contains_key(name)) {
                let message =
                    format!("`{name}` is the name of a stage of the iteration and of a carried value");
                draft.add(&field, At::Key, message, Some("rename one of them".to_owned()));
            }
        }
    }
}

/// Inputs, and the files of commands, must exist.
fn files(draft: &mut Draft, parts: &Parts, base: &Path) {
    for (name, path) in &parts.inputs {
        if hub::is_name(path) {
            if let Err(error) = hub::resolve(path) {
                draft.add(&join("inputs", name), At::Value, error.message, error.hint);
            }
        } else if !base.join(path).exists() {
            let hint = if path.contains("://") {
                "an input is a file or folder on this machine: download it first".to_owned()
            } else {
                format!(
                    "paths are relative to the pipeline file: {} does not exist",
                    base.join(path).display()
                )
            };
            draft.add(&join("inputs", name), At::Value, format!("no such input: {path}"), Some(hint));
        }
    }
    // Many steps use the same program.
    let mut present: BTreeSet<&str> = BTreeSet::from([PLACEHOLDER]);
    for (section, stages) in [("setup", &parts.setup), ("iteration", &parts.iteration)] {
        for stage in stages {
            let Some(StageConfig::Command(command)) = &stage.config else { continue };
            for (index, file) in command.files.iter().enumerate() {
                if present.contains(file.as_str()) {
                    continue;
                }
                if base.join(file).exists() {
                    present.insert(file);
                } else {
                    let field = format!("{section}.{}.with.files.{index}", stage.name);
                    let hint =
                        format!("paths are relative to the pipeline file: {}", base.join(file).display());
                    draft.add(&field, At::Value, format!("no such file: {file}"), Some(hint));
                }
            }
        }
    }
}

fn check_use(
    draft: &mut Draft,
    scope: &Scope,
    view: View,
    stage: &str,
    reference: &Use,
    absent: &BTreeMap<String, usize>,
) {
    let text = &reference.reference.0;
    match scope.resolve(text, view) {
        Ok(Target::Carried(name)) => {
            if let (Some(iteration), false) = (absent.get(name), reference.optional) {
                let field = field_of(draft, stage, reference);
                let message =
                    format!("`{name}` has no value in iteration {iteration}, and `{stage}` needs it");
                let hint = format!("give its first value: `start: {{{name}: …}}`");
                draft.add(&field, At::Value, message, Some(hint));
            }
        }
        Ok(_) => {}
        // A value that may be carried and is not: `optimizer: optimizer` without one.
        Err(Unresolved::Unknown) if reference.optional && *text == reference.name => {}
        Err(problem) => {
            let field = field_of(draft, stage, reference);
            report(draft, scope, view, &field, text, &problem);
        }
    }
}

/// What is known to be something else than what is needed.
fn check_kind(draft: &mut Draft, scope: &Scope, parts: &Parts, view: View, stage: &str, reference: &Use) {
    let Some(needed) = reference.needs else { return };
    let text = &reference.reference.0;
    let wrong = |text: &str, view: View| {
        let Ok(Target::Stage { output: Some(output), .. }) = scope.resolve(text, view) else { return None };
        let unread = (reference.setting && output.folder).then_some(Holds::Else);
        output.holds.filter(|found| !needed.accepts(*found)).or(unread)
    };
    let hint = |view: View| {
        let fits = |name: &String| match scope.resolve(name, view) {
            Ok(Target::Stage { output: Some(Output { holds: Some(found), .. }), .. }) => {
                needed.accepts(*found)
            }
            _ => false,
        };
        let fitting: Vec<String> = scope.visible(view).into_iter().filter(fits).collect();
        let fitting = suggest::list(fitting.iter().map(String::as_str));
        (!fitting.is_empty()).then(|| format!("here, {fitting} would do"))
    };
    // Its own results are another problem.
    let own = stage.split_once('.').is_some_and(|(_, own)| text.split('.').next() == Some(own));
    if let Some(found) = wrong(text, view).filter(|_| !own) {
        let field = field_of(draft, stage, reference);
        let message = format!("`{}` has to be {needed}: `{text}` is {found}", reference.name);
        draft.add(&field, At::Value, message, hint(view));
    }
    let Ok(Target::Carried(name)) = scope.resolve(text, view) else { return };
    for (section, values, view) in
        [("start", &parts.start, View::Setup), ("carry", &parts.carry, View::Iteration)]
    {
        let Some((text, found)) = values.get(name).and_then(|text| Some((text, wrong(text, view)?))) else {
            continue;
        };
        let field = join(section, name);
        let message = format!("`{name}` has to be {needed} for `{stage}`: `{text}` is {found}");
        draft.add(&field, At::Value, message, hint(view));
    }
}

/// A schedule counts from the first update of an optimizer that is inherited: where it only has the length of its own
/// stage, all of it may have passed.
fn schedules(draft: &mut Draft, scope: &Scope, parts: &Parts, absent: &BTreeMap<String, usize>) {
    for (section, view, stages) in
        [("setup", View::Setup, &parts.setup), ("iteration", View::Iteration, &parts.iteration)]
    {
        for stage in stages.iter().filter(|stage| stage.complete) {
            let Some(StageConfig::Sft(Sft { optimizer: Some(optimizer), training, .. })) = &stage.config
            else {
                continue;
            };
            let Schedule { shape, total, .. } = &training.schedule;
            let inherited = match scope.resolve(&optimizer.0, view) {
                Ok(Target::Carried(name)) => parts.iterations > 1 || !absent.contains_key(name),
                target => target.is_ok(),
            };
            if inherited && total.is_none() && *shape != ScheduleShape::Constant {
                let message = format!(
                    "an inherited optimizer goes on with its schedule, and this one ends after {} updates",
                    training.updates
                );
                let hint = format!(
                    "write `training.schedule.total`: the updates that the optimizer makes in all stages, for example \
                     {}; or `shape: constant`; or leave `optimizer` out",
                    training.updates.saturating_mul(parts.iterations.max(2)),
                );
                let field = join(&join(section, &stage.name), "with.optimizer");
                draft.add(&field, At::Value, message, Some(hint));
            }
        }
    }
}

/// Where in the stage's settings a reference is written: lowered stages and lists use other names.
fn field_of(draft: &Draft, stage: &str, reference: &Use) -> String {
    let root = join(stage, "with");
    let text = &reference.reference.0;
    let direct = join(&root, &reference.name);
    if draft.document.get(&direct).and_then(Value::as_str) == Some(text) {
        return direct;
    }
    let mut found = Vec::new();
    if let Some(value) = draft.document.get(&root) {
        leaves(value, &root, text, &mut found);
    }
    let last = reference.name.rsplit('.').next();
    let best = found.iter().position(|field| field.rsplit('.').next() == last).unwrap_or(0);
    if found.is_empty() { root } else { found.swap_remove(best) }
}

/// The paths of all texts equal to `text`.
fn leaves(value: &Value, path: &str, text: &str, found: &mut Vec<String>) {
    match value {
        Value::String(leaf) if leaf == text => found.push(path.to_owned()),
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| leaves(value, &join(path, key), text, found));
        }
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(i, value)| leaves(value, &join(path, &i.to_string()), text, found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn report(draft: &mut Draft, scope: &Scope, view: View, field: &str, text: &str, problem: &Unresolved) {
    let (message, hint) = match problem {
        Unresolved::Unknown => {
            let visible = scope.visible(view);
            let visible: Vec<&str> = visible.iter().map(String::as_str).collect();
            (format!("nothing here is called `{text}`"), unknown_hint(scope, view, text, &visible))
        }
        Unresolved::TooEarly { name, carried: false } => (
            format!("`{text}` is made in the iterations, after `setup`"),
            Some(format!(
                "only stages of `setup` and `inputs` can be used here; `{name}` is a stage of `iteration`"
            )),
        ),
        Unresolved::TooEarly { name, carried: true } => (
            format!("`{text}` is carried between iterations, and has no value yet"),
            Some(format!("refer to what `start` gives `{name}`, not to `{name}`")),
        ),
        Unresolved::Several { stage, outputs } => {
            let choices: Vec<String> = outputs.iter().map(|output| format!("{stage}.{output}")).collect();
            let choices = suggest::list(choices.iter().map(String::as_str));
            (
                format!("`{stage}` has {} outputs: name one", outputs.len()),
                Some(format!("outputs: {choices}")),
            )
        }
        Unresolved::NoOutput { stage, output, outputs } => {
            let names: Vec<&str> = outputs.iter().map(String::as_str).collect();
            let hidden = if view == View::Iteration { hides(scope, text) } else { None };
            let hint = hidden.unwrap_or_else(|| match suggest::nearest(output, names.iter().copied()) {
                Some(meant) => format!("did you mean `{stage}.{meant}`?"),
                None => format!("outputs of `{stage}`: {}", suggest::list(names)),
            });
            (format!("`{stage}` has no output `{output}`"), Some(hint))
        }
        Unresolved::NotAStage { name } => (
            format!("`{name}` is no stage: it has no output to choose by `{text}`"),
            Some(format!("write `{name}`")),
        ),
    };
    draft.add(field, At::Value, message, hint);
}

/// What to say where a stage of the iteration hides the one of `setup` that has what `text` names.
fn hides(scope: &Scope, text: &str) -> Option<String> {
    let stage = text.split('.').next().filter(|stage| scope.iteration.contains_key(*stage))?;
    let resolved = scope.resolve(text, View::Setup).is_ok();
    resolved.then(|| format!("`iteration.{stage}` hides `setup.{stage}`: rename one of them"))
}

fn unknown_hint(scope: &Scope, view: View, text: &str, visible: &[&str]) -> Option<String> {
    // `setup.sft.policy`, as results are called in reports.
    let short = ["setup.", "iteration.", "inputs."].iter().find_map(|section| text.strip_prefix(section));
    if let Some(short) = short.filter(|short| scope.resolve(short, view).is_ok()) {
        return Some(format!("write `{short}`"));
    }
    if text.starts_with(['[', '{']) {
        return Some("close the bracket, or put the text in quotes".to_owned());
    }
    let hidden = text.strip_prefix("setup.").filter(|_| view == View::Iteration);
    if let Some(hint) = hidden.and_then(|name| hides(scope, name)) {
        return Some(hint);
    }
    if let Some(meant) = suggest::nearest(text, visible.iter().copied()) {
        return Some(format!("did you mean `{meant}`?"));
    }
    // A misspelt stage before a right output.
    if let Some((stage, output)) = text.rsplit_once('.') {
        let stages = visible.iter().filter_map(|name| name.rsplit_once('.')).map(|(stage, _)| stage);
        if let Some(meant) = suggest::nearest(stage, stages) {
            return Some(format!("did you mean `{meant}.{output}`?"));
        }
    }
    (!visible.is_empty()).then(|| format!("names visible here: {}", suggest::list(visible.iter().copied())))
}

fn check_section(
    draft: &mut Draft,
    scope: &Scope,
    section: &str,
    references: &BTreeMap<String, String>,
    view: View,
) {
    for (name, text) in references {
        if let Err(problem) = scope.resolve(text, view) {
            report(draft, scope, view, &join(section, name), text, &problem);
        }
    }
}

/// A carried name without `start` begins as the setup stage or input of that name.
fn implicit_starts(draft: &mut Draft, scope: &Scope, parts: &Parts) {
    for name in parts.carry.keys().filter(|name| !parts.start.contains_key(*name)) {
        if let Err(Unresolved::Several { stage, outputs }) = scope.resolve(name, View::Setup) {
            let message =
                format!("`{name}` begins as the result of `setup.{stage}`, which has several outputs");
            let choices: Vec<String> = outputs.iter().map(|output| format!("{stage}.{output}")).collect();
            let choices = suggest::list(choices.iter().map(String::as_str));
            let hint = format!("name one under `start`: {choices}");
            draft.add(&join("carry", name), At::Key, message, Some(hint));
        }
    }
}

/// Carried names without a value in some iteration → the first such iteration.
fn absent(scope: &Scope, parts: &Parts) -> BTreeMap<String, usize> {
    let unresolved = |name: &String| {
        matches!(scope.resolve(name, View::Setup), Err(Unresolved::Unknown | Unresolved::TooEarly { .. }))
    };
    let mut now: BTreeSet<String> = parts
        .carry
        .keys()
        .filter(|name| !parts.start.contains_key(*name) && unresolved(name))
        .cloned()
        .collect();
    let mut first = BTreeMap::new();
    // Absence moves along chains of `carry`, at most once through every name.
    for iteration in 0..parts.iterations.min(parts.carry.len() + 1) {
        for name in &now {
            first.entry(name.clone()).or_insert(iteration);
        }
        let hands_on = |text: &str| match scope.resolve(text, View::Iteration) {
            Ok(Target::Carried(name)) => now.contains(name),
            _ => false,
        };
        now = parts.carry.iter().filter(|(_, text)| hands_on(text)).map(|(name, _)| name.clone()).collect();
    }
    first
}

fn check_cycles(draft: &mut Draft, scope: &Scope, view: View, section: &str, steps: &[Lowered<'_>]) {
    for cycle in cycles(&scope.dependencies(steps, view)) {
        let mut names: Vec<&str> = cycle.iter().map(|step| steps[*step].name.as_str()).collect();
        names.extend(names.first().copied());
        let field = join(section, steps[cycle[0]].entry);
        let message = match cycle.len() {
            1 => format!("`{}` needs its own result", names[0]),
            _ => format!("these stages need each other: {}", names.join(" → ")),
        };
        let hint = (view == View::Iteration)
            .then(|| "a result of the iteration before is taken over by `carry`".to_owned());
        draft.add(&field, At::Key, message, hint);
    }
}

/// A carried name that nothing uses is a slip when the other section has a name much like it.
fn misspelt_carries(draft: &mut Draft, parts: &Parts, iteration: &[Lowered<'_>]) {
    let uses = iteration.iter().flat_map(|step| &step.uses);
    let mut used: BTreeSet<String> = uses.map(|reference| reference.reference.0.clone()).collect();
    used.extend(parts.carry.values().cloned());
    let sections = [("carry", &parts.carry, &parts.start), ("start", &parts.start, &parts.carry)];
    for (section, names, others) in sections {
        for name in names.keys().filter(|name| !used.contains(*name)) {
            let others = others.keys().filter(|other| used.contains(*other) && !names.contains_key(*other));
            if let Some(meant) = suggest::nearest(name, others.map(String::as_str)) {
                let message = format!("nothing in `iteration` uses `{name}`");
                draft.add(&join(section, name), At::Key, message, Some(format!("did you mean `{meant}`?")));
            }
        }
    }
}
