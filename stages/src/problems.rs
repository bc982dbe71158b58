//! The built-in task: arithmetic word problems with exact solutions, generated.
//!
//! Six families of templates (see the private module `family`), solutions of one to four steps, every
//! intermediate result in 0..=60. Besides clean documents there is a *flawed* corpus: the same kind of
//! problems, some phrases misread, the arithmetic right. A model pretrained on both knows every solution
//! but often prefers a wrong one: that is what rewards can change.

mod dice;
mod drill;
mod family;
mod plan;
mod wording;

use std::collections::{BTreeMap, HashSet};

use crate::config::Problems;
use crate::protocol::StageError;
use crate::record::{Example, Query};
use dice::Dice;
use plan::Plan;

pub use wording::canonical;

/// Steps of the problems to pretrain on: one of these, drawn uniformly.
const PRETRAIN_STEPS: [usize; 6] = [1, 2, 2, 3, 3, 4];
/// Share of drills among the clean documents.
const DRILLS: f64 = 0.3;
/// Attempts at one family and number of steps before others are drawn.
const PATIENCE: usize = 60;
/// Draws of family and number of steps before giving up: the task has no more problems.
const EXHAUSTED: usize = 400;

/// The sets of one generation.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "documented at `config::Problems`")]
pub struct Sets {
    pub pretrain: Vec<Example>,
    pub flawed: Vec<Example>,
    pub sft: Vec<Example>,
    pub train: Vec<Query>,
    pub validation: Vec<Query>,
    pub test: Vec<Query>,
}

/// A problem and all its solutions.
#[derive(Debug, Clone)]
struct WordProblem {
    family: &'static str,
    question: String,
    plan: Plan,
}

impl WordProblem {
    fn prompt(&self) -> String {
        format!("# Question\n\n{}\n\n# Solution\n\n", self.question)
    }

    fn query(&self, id: String) -> Query {
        let tags = [("family", self.family.to_owned()), ("steps", self.plan.len().to_string())];
        Query {
            id,
            prompt: self.prompt(),
            answer: self.plan.answer().to_string(),
            prefix: None,
            choices: None,
            tests: None,
            tags: tags.map(|(name, value)| (name.to_owned(), value)).into(),
        }
    }

    fn example(&self, completion: String, query_id: Option<String>) -> Example {
        Example { prompt: self.prompt(), completion, query_id, sample_index: None, reward: None }
    }
}

/// Problems that later sets must avoid.
#[derive(Debug, Default)]
struct Taken {
    questions: HashSet<String>,
    canonical: HashSet<String>,
}

/// What must not repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unique {
    /// No problem of another set that was made before, nor a renaming of a query.
    Across,
    /// Also no problem, nor a renaming of one, of the same set.
    Within,
}

/// Generates one set after another; each has its own random stream.
struct Generator<'a> {
    config: &'a Problems,
    seed: u64,
    taken: Taken,
}

impl Generator<'_> {
    /// A problem that neither equals nor, renamed, equals one that is taken.
    fn draw(&self, dice: &mut Dice, steps: &[usize]) -> Result<(WordProblem, String), StageError> {
        for _ in 0..EXHAUSTED {
            let family = dice.pick(&family::ALL);
            let steps = dice.pick(steps);
            for _ in 0..PATIENCE {
                let Some(problem) = family::draw(family, steps, dice) else { continue };
                if self.taken.questions.contains(&problem.question) {
                    continue;
                }
                let canonical = canonical(&problem.question);
                if !self.taken.canonical.contains(&canonical) {
                    return Ok((problem, canonical));
                }
            }
        }
        Err(StageError::invalid("the built-in task has too few different problems for sets of this size")
            .hint("ask for fewer problems, or for more numbers of steps"))
    }

    /// `count` problems, made into rows.
    fn set<T>(
        &mut self,
        name: &str,
        count: usize,
        unique: Unique,
        steps: &[usize],
        mut row: impl FnMut(&WordProblem, String, &mut Dice) -> T,
    ) -> Result<Vec<T>, StageError> {
        let mut dice = Dice::new(self.seed, name);
        let mut rows = Vec::with_capacity(count);
        let mut questions = Vec::new();
        for index in 0..count {
            let (problem, canonical) = self.draw(&mut dice, steps)?;
            rows.push(row(&problem, format!("{name}-{index:05}"), &mut dice));
            if unique == Unique::Within {
                self.taken.canonical.insert(canonical);
            }
            questions.push(problem.question);
        }
        self.taken.questions.extend(questions);
        Ok(rows)
    }

    fn queries(&mut self, name: &str, count: usize) -> Result<Vec<Query>, StageError> {
        let steps = &self.config.steps;
        self.set(name, count, Unique::Within, steps, |problem, id, _| problem.query(id))
    }

    fn sets(&mut self) -> Result<Sets, StageError> {
        let Problems { pretrain, flawed, sft, train, validation, test, steps } = self.config;
        let test = self.queries("test", *test)?;
        let validation = self.queries("validation", *validation)?;
        let held_out = self.taken.canonical.clone();
        let train = self.queries("train", *train)?;
        let sft = self.set("sft", *sft, Unique::Within, steps, |problem, id, dice| {
            problem.example(problem.plan.solution(dice), Some(id))
        })?;
        // Documents may be renamings of training problems, not of held-out ones.
        self.taken.canonical = held_out;
        let flawed = self.set("flawed", *flawed, Unique::Across, &PRETRAIN_STEPS, |problem, _, dice| {
            problem.example(problem.plan.flawed_solution(dice), None)
        })?;
        let mut dice = Dice::new(self.seed, "drills");
        let drills: Vec<bool> = (0..*pretrain).map(|_| dice.chance(DRILLS)).collect();
        let clean = drills.iter().filter(|drill| !**drill).count();
        let clean = self.set("pretrain", clean, Unique::Across, &PRETRAIN_STEPS, |problem, _, dice| {
            problem.example(problem.plan.solution(dice), None)
        })?;
        let mut clean = clean.into_iter();
        let pretrain = drills
            .into_iter()
            .filter_map(|drill| if drill { Some(drill::document(&mut dice)) } else { clean.next() })
            .collect();
        Ok(Sets { pretrain, flawed, sft, train, validation, test })
    }
}

/// Generates all sets. The same settings and seed give the same sets.
///
/// # Errors
/// [`StageError::invalid`] when there are not enough different problems.
pub fn generate(config: &Problems, seed: u64) -> Result<Sets, StageError> {
    Generator { config, seed, taken: Taken::default() }.sets()
}

impl Sets {
    /// Number of rows of each set, by the name of its output.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let Self { pretrain, flawed, sft, train, validation, test } = self;
        BTreeMap::from([
            ("pretrain", pretrain.len()),
            ("flawed", flawed.len()),
            ("sft", sft.len()),
            ("train", train.len()),
            ("validation", validation.len()),
            ("test", test.len()),
        ])
    }
}

#[cfg(test)]
mod tests;
