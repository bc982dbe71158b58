//! From a file and a command line to variants.

use std::collections::BTreeSet;
use std::path::Path;

use super::names::{matches, tails};
use super::{Refused, Request, Sweep, Variant};
use crate::pipeline::{
    Axis, Change, Diagnostic, Origin, Pipeline, Variations, argument, full_path, is_within, nearest,
    parse_value,
};

/// More variants than this are a slip.
const LIMIT: usize = 10_000;

/// What a variant is called that changes nothing.
const BASELINE: &str = "baseline";

/// A variant before its pipeline is read.
struct Point {
    /// Its name in `variants:`, empty without one.
    own: String,
    name: String,
    changes: Vec<Change>,
}

impl Sweep {
    /// Reads the file and every variant of it.
    ///
    /// # Errors
    /// All problems of the file, of its variants, and of the command line.
    pub fn load(file: &Path, request: &Request) -> Result<Self, Refused> {
        let (path, text) = Pipeline::text(file).map_err(Refused::Problems)?;
        Self::parse(&text, &path, request)
    }

    /// As [`Sweep::load`], from the text of the file at `path`.
    pub(super) fn parse(text: &str, path: &Path, request: &Request) -> Result<Self, Refused> {
        let arguments = Arguments::read(path, &request.arguments);
        let (variations, mut problems) = Pipeline::variations(text, path);
        problems.extend(arguments.problems.iter().cloned());
        let points = select(points(&variations, &arguments)?, &request.only)?;
        problems.extend(clashes(path, &variations, &arguments, &points));
        let nothing = variations.variants.is_empty()
            && variations.grid.is_empty()
            && arguments.lists.is_empty()
            && seed_lists(&variations, &arguments).is_none()
            && request.seeds.is_none();
        if nothing && problems.is_empty() {
            return Err(Refused::Usage {
                message: format!("{} has nothing that varies", path.display()),
                hint: Some(
                    "give several values (iteration.search.n_star=1,2,4), seeds (--seeds 3), or `variants:` or \
                     `grid:` in the file"
                        .to_owned(),
                ),
            });
        }
        let (base, variants) = read_all(text, path, &variations, &points, &arguments.plain, problems)?;
        let seeds = match &request.seeds {
            Some(_) if arguments.seeds.is_some() => {
                return Err(Refused::Usage {
                    message: "seeds are given twice: by `seed=` and by --seeds".to_owned(),
                    hint: Some("remove one of the two".to_owned()),
                });
            }
            Some(text) => read_seeds(text, base.seed)?,
            None => seed_lists(&variations, &arguments).map_or_else(|| vec![base.seed], <[u64]>::to_vec),
        };
        let mut sweep = Self { variants, seeds };
        let baseline = baseline(&points, request.baseline.as_deref())?;
        sweep.variants[..=baseline].rotate_right(1);
        Ok(sweep)
    }
}

/// Reads a pipeline as `pipeline run` does, and all variants that its file has; gives their number.
///
/// # Errors
/// All problems.
pub fn check(file: &Path, overrides: &[String]) -> Result<(Pipeline, usize), Vec<Diagnostic>> {
    let (path, text) = Pipeline::text(file)?;
    let plain = overrides.iter().cloned().map(Change::Argument).collect();
    let arguments = Arguments { plain, ..Arguments::default() };
    let (variations, mut problems) = Pipeline::variations(&text, &path);
    let failed = |refused| match refused {
        Refused::Problems(problems) => problems,
        Refused::Usage { message, hint } => vec![Diagnostic::of_file(path.clone(), message, hint)],
    };
    let points = points(&variations, &arguments).map_err(failed)?;
    problems.extend(clashes(&path, &variations, &arguments, &points));
    let (base, variants) =
        read_all(&text, &path, &variations, &points, &arguments.plain, problems).map_err(failed)?;
    let varied = !(variations.variants.is_empty() && variations.grid.is_empty());
    Ok((base, if varied { variants.len() } else { 0 }))
}

/// The command line, taken apart.
#[derive(Default)]
struct Arguments {
    plain: Vec<Change>,
    lists: Vec<Axis>,
    seeds: Option<Vec<u64>>,
    problems: Vec<Diagnostic>,
}

impl Arguments {
    fn read(path: &Path, texts: &[String]) -> Self {
        let mut arguments = Self::default();
        for text in texts {
            let several = text.split_once('=').map(|(key, value)| (key.trim(), split(value)));
            let Some((key, values)) = several.filter(|(_, values)| values.len() > 1) else {
                arguments.plain.push(Change::Argument(text.clone()));
                continue;
            };
            if let Err((message, hint)) = arguments.list(key, &values) {
                arguments.problems.push(Diagnostic {
                    path: path.to_path_buf(),
                    origin: Origin::CommandLine(text.clone()),
                    field: key.to_owned(),
                    message,
                    hint,
                });
            }
        }
        arguments
    }

    fn list(&mut self, key: &str, values: &[&str]) -> Result<(), (String, Option<String>)> {
        if values.iter().any(|value| value.is_empty()) {
            let hint = "a comma separates values; a text with commas needs quotes, a list brackets";
            return Err((format!("`{key}` has an empty value"), Some(hint.to_owned())));
        }
        let parsed: Vec<_> = values.iter().map(|value| parse_value(value)).collect();
        if let Some(index) = (1..parsed.len()).find(|index| parsed[..*index].contains(&parsed[*index])) {
            return Err((format!("`{key}`: {} is given twice", values[index]), None));
        }
        if key == "seed" {
            let seeds: Option<Vec<u64>> = values.iter().map(|value| value.parse().ok()).collect();
            let Some(seeds) = seeds else {
                return Err(("`seed`: expected whole numbers, 0 or more".to_owned(), None));
            };
            self.seeds = Some(seeds);
            return Ok(());
        }
        let top = key.split('.').next().unwrap_or_default();
        if ["name", "variants", "grid"].contains(&top) {
            let hint = "all variants belong to this one pipeline".to_owned();
            return Err((format!("`{key}` cannot differ between variants"), Some(hint)));
        }
        let Some(path) = full_path(key) else {
            return Err((format!("`{key}` is no path of keys"), None));
        };
        if self.lists.iter().any(|axis| axis.path == path) {
            return Err((format!("`{key}` is given twice"), None));
        }
        let change = |value: &&str| Change::Argument(format!("{key}={value}"));
        self.lists.push(Axis { path, values: values.iter().map(change).collect() });
        Ok(())
    }

    /// Whether a value on the command line takes the place of all that is said of this field.
    fn sets(&self, path: &str) -> bool {
        let plain = self.plain.iter().filter_map(Change::path);
        plain.chain(self.lists.iter().map(|axis| axis.path.clone())).any(|set| is_within(path, &set))
    }

    /// The fields that vary, those of the file first.
    fn axes<'a>(&'a self, variations: &'a Variations) -> Vec<&'a Axis> {
        let grid = variations.grid.iter().filter(|axis| !self.sets(&axis.path));
        grid.chain(&self.lists).collect()
    }
}

/// Splits at commas outside of brackets and quotes.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut quote) = (Vec::new(), 0, 0_usize, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            // A quote within a word is an apostrophe.
            (None, '"' | '\'') if depth > 0 || text[start..at].trim().is_empty() => quote = Some(c),
            (None, '[' | '{' | '(') => depth += 1,
            (None, ']' | '}' | ')') => depth = depth.saturating_sub(1),
            (None, ',') if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            (None, _) => {}
        }
    }
    parts.push(text[start..].trim());
    parts
}

fn seed_lists<'a>(variations: &'a Variations, arguments: &'a Arguments) -> Option<&'a [u64]> {
    let of_file = Some(variations.seeds.as_slice()).filter(|seeds| !seeds.is_empty());
    let single = arguments.plain.iter().any(|change| change.path().as_deref() == Some("seed"));
    arguments.seeds.as_deref().or(of_file.filter(|_| !single))
}

/// `3`: that many from the file's seed on; `1,2,5`: these.
fn read_seeds(text: &str, first: u64) -> Result<Vec<u64>, Refused> {
    let refuse = |message: String| Refused::Usage {
        message,
        hint: Some("--seeds 3 for three seeds from the pipeline's on, --seeds 1,2,5 for these".to_owned()),
    };
    let numbers: Result<Vec<u64>, _> = text.split(',').map(|number| number.trim().parse()).collect();
    let numbers = numbers.map_err(|_| refuse(format!("--seeds {text}: expected whole numbers")))?;
    let seeds = match numbers[..] {
        [0] => return Err(refuse("--seeds 0 leaves nothing to run".to_owned())),
        [count] => (first..first.saturating_add(count)).take(LIMIT).collect(),
        _ => numbers,
    };
    let distinct: BTreeSet<&u64> = seeds.iter().collect();
    if distinct.len() < seeds.len() {
        return Err(refuse(format!("--seeds {text}: a seed is given twice")));
    }
    Ok(seeds)
}

/// The product of variants, grid and lists, in that order; the last changes fastest. What the command
/// line says of a field holds for all.
fn points(variations: &Variations, arguments: &Arguments) -> Result<Vec<Point>, Refused> {
    let axes = arguments.axes(variations);
    let tails = tails(&axes.iter().map(|axis| axis.path.as_str()).collect::<Vec<_>>());
    let count = axes.iter().try_fold(variations.variants.len().max(1), |product, axis| {
        product.checked_mul(axis.values.len()).filter(|product| *product <= LIMIT)
    });
    if count.is_none() {
        let message = format!("more than {LIMIT} variants: {} lists of values are combined", axes.len());
        return Err(Refused::Usage { message, hint: Some("give fewer values at a time".to_owned()) });
    }
    let mut points: Vec<Point> = variations
        .variants
        .iter()
        .map(|(name, changes)| Point { own: name.clone(), name: name.clone(), changes: changes.clone() })
        .collect();
    if points.is_empty() {
        points.push(Point { own: String::new(), name: String::new(), changes: Vec::new() });
    }
    for (axis, tail) in axes.iter().zip(&tails) {
        points =
            points.iter().flat_map(|point| axis.values.iter().map(|value| point.with(tail, value))).collect();
    }
    if let [only] = points.as_mut_slice()
        && only.name.is_empty()
    {
        BASELINE.clone_into(&mut only.name);
    }
    Ok(points)
}

/// Changes that would undo others, so that variants of different names were the same.
fn clashes(path: &Path, variations: &Variations, arguments: &Arguments, points: &[Point]) -> Vec<Diagnostic> {
    let problem = |axis: &Axis, what: String| Diagnostic {
        path: path.to_path_buf(),
        origin: Origin::CommandLine(axis.values.iter().map(Change::text).collect::<Vec<_>>().join(" ")),
        field: axis.path.clone(),
        message: format!("`{}` is varied, so {what}", axis.path),
        hint: Some("remove one of the two".to_owned()),
    };
    let axes = arguments.axes(variations);
    let mut found = Vec::new();
    let wanted = variations.variants.iter().filter(|(name, _)| points.iter().any(|point| point.own == *name));
    for (name, changes) in wanted {
        for axis in &axes {
            // The axis is applied later.
            if changes.iter().filter_map(Change::path).any(|set| is_within(&set, &axis.path)) {
                found.push(problem(axis, format!("variant `{name}` cannot change it")));
            }
        }
    }
    for (index, axis) in axes.iter().enumerate() {
        let before = axes[..index].iter().find(|before| is_within(&before.path, &axis.path));
        found.extend(before.map(|before| problem(axis, format!("`{}` cannot be varied too", before.path))));
    }
    for axis in &arguments.lists {
        let single = arguments.plain.iter().find(|change| {
            change.path().is_some_and(|set| is_within(&set, &axis.path) || is_within(&axis.path, &set))
        });
        found
            .extend(single.map(|change| problem(axis, format!("`{}` cannot set it for all", change.text()))));
    }
    found
}

impl Point {
    fn with(&self, tail: &str, change: &Change) -> Self {
        let value = match change {
            Change::Argument(text) => text.split_once('=').map_or("", |(_, value)| value).to_owned(),
            Change::Written { value, .. } => argument(value),
        };
        let own = format!("{tail}={value}");
        let name = if self.name.is_empty() { own } else { format!("{} · {own}", self.name) };
        let changes = self.changes.iter().chain([change]).cloned().collect();
        Self { own: self.own.clone(), name, changes }
    }

    fn is(&self, pattern: &str) -> bool {
        matches(pattern, &self.name) || (!self.own.is_empty() && matches(pattern, &self.own))
    }
}

fn unknown(option: &str, pattern: &str, points: &[Point]) -> Refused {
    let names = || points.iter().map(|point| point.name.as_str());
    let hint = match nearest(pattern, names()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("variants: {}", names().take(20).collect::<Vec<_>>().join(", ")),
    };
    Refused::Usage { message: format!("{option}: no variant is called `{pattern}`"), hint: Some(hint) }
}

fn select(points: Vec<Point>, only: &[String]) -> Result<Vec<Point>, Refused> {
    if let Some(pattern) = only.iter().find(|pattern| !points.iter().any(|point| point.is(pattern))) {
        return Err(unknown("--only", pattern, &points));
    }
    let wanted = |point: &Point| only.is_empty() || only.iter().any(|pattern| point.is(pattern));
    Ok(points.into_iter().filter(wanted).collect())
}

/// The index of the variant that the others are compared with.
fn baseline(points: &[Point], wanted: Option<&str>) -> Result<usize, Refused> {
    let find = |name: &str| {
        let whole = points.iter().position(|point| point.name == name);
        whole.or_else(|| points.iter().position(|point| point.own == name))
    };
    match wanted {
        Some(name) => find(name).ok_or_else(|| unknown("--baseline", name, points)),
        None => Ok(find(BASELINE).unwrap_or(0)),
    }
}

/// Reads the file as it is, and with the changes of every point. Problems are given once, those of the
/// file first.
fn read_all(
    text: &str,
    path: &Path,
    variations: &Variations,
    points: &[Point],
    plain: &[Change],
    problems: Vec<Diagnostic>,
) -> Result<(Pipeline, Vec<Variant>), Refused> {
    let base = Pipeline::changed(text, path, plain);
    let of_base = base.as_ref().err().cloned().unwrap_or_default();
    let mut all = of_base;
    for problem in problems {
        if !all.contains(&problem) {
            all.push(problem);
        }
    }
    let mut known = all.clone();
    let mut variants = Vec::new();
    for point in points {
        let changes: Vec<Change> = point.changes.iter().chain(plain).cloned().collect();
        match Pipeline::changed(text, path, &changes) {
            Ok(pipeline) => {
                let overrides = changes.iter().map(Change::text).collect();
                variants.push(Variant { name: point.name.clone(), overrides, pipeline });
            }
            Err(problems) => {
                for mut problem in problems {
                    if known.contains(&problem) {
                        continue;
                    }
                    known.push(problem.clone());
                    if !variations.hold(&problem.origin) {
                        problem.message.push_str(&format!(" (in variant `{}`)", point.name));
                    }
                    all.push(problem);
                }
            }
        }
    }
    all.sort_by_key(Diagnostic::order);
    match base {
        Ok(base) if all.is_empty() => Ok((base, variants)),
        _ => Err(Refused::Problems(all)),
    }
}
