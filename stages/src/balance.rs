//! Selecting responses, and the balance score of a selection (paper.md §1.2, §1.4, §10).
//!
//! Candidates of a query are ranked once: by score, then by text, then by sample. For a threshold τ the
//! candidates above it are a prefix of the ranking; keeping the best k and dropping duplicates is a
//! shorter prefix. Counts of distinct texts and of distinct correct texts along the ranking therefore
//! answer every (τ, k) without looking at candidates again.

use std::cmp::Ordering;
use std::collections::HashSet;

use crate::config::{Average, Counted, Rules, Select, Ties};

/// A response that may be kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Its reward.
    pub score: f64,
    /// Its text's identity: what duplicates are told by, and what orders equal scores.
    pub text: u64,
    /// Its position among the query's samples: orders equal texts.
    pub sample: u32,
    /// Whether its answer is right.
    pub correct: bool,
}

impl Candidate {
    fn rank(&self, other: &Self) -> Ordering {
        let Self { score, text, sample, correct: _ } = self;
        other.score.total_cmp(score).then(text.cmp(&other.text)).then(sample.cmp(&other.sample))
    }
}

/// The candidates of one query, best first.
#[derive(Debug, Clone)]
struct Ranking {
    scores: Vec<f64>,
    /// Positions in the list the ranking was made from.
    positions: Vec<usize>,
    /// Whether the text was seen at a better rank.
    duplicate: Vec<bool>,
    /// Distinct texts among the first j.
    unique: Vec<u32>,
    /// Distinct correct texts among the first j.
    correct: Vec<u32>,
}

impl Ranking {
    /// With `distinct`, a text takes only the best of its places.
    fn new(candidates: &[Candidate], distinct: bool) -> Self {
        let mut positions: Vec<usize> = (0..candidates.len()).collect();
        positions.sort_by(|a, b| candidates[*a].rank(&candidates[*b]));
        let mut seen = HashSet::with_capacity(candidates.len());
        if distinct {
            positions.retain(|position| seen.insert(candidates[*position].text));
            seen.clear();
        }
        let (mut unique, mut correct) = (vec![0], vec![0]);
        let mut duplicate = Vec::with_capacity(candidates.len());
        for (rank, position) in positions.iter().enumerate() {
            let candidate = &candidates[*position];
            let new = seen.insert(candidate.text);
            duplicate.push(!new);
            unique.push(unique[rank] + u32::from(new));
            correct.push(correct[rank] + u32::from(new && candidate.correct));
        }
        let scores = positions.iter().map(|position| candidates[*position].score).collect();
        Self { scores, positions, duplicate, unique, correct }
    }

    /// Number of candidates above the threshold.
    fn above(&self, threshold: f64) -> usize {
        self.scores.partition_point(|score| *score > threshold)
    }
}

/// The candidates of all queries at one temperature.
#[derive(Debug, Clone)]
pub struct Pool {
    rankings: Vec<Ranking>,
    rules: Rules,
}

/// What a threshold keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// The mean balance score; over all queries (those without a kept response count 0), or as
    /// [`Rules::average`] says.
    pub balance_score: f64,
    /// Distinct responses kept.
    pub kept: usize,
    /// Distinct correct responses kept.
    pub correct: usize,
    /// Queries with at least one kept response.
    pub covered: usize,
    /// Best responses considered a query.
    pub k: usize,
}

/// The responses to keep in all for so many a query on average.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "counts of responses"
)]
pub fn target(keep_per_query: f64, queries: usize) -> usize {
    // A product a hair above a whole number (0.1 × 30) is meant to be that number.
    (keep_per_query * queries as f64 - 1e-9).ceil().max(0.0) as usize
}

impl Pool {
    /// Ranks the candidates of each query, by the usual rules.
    #[must_use]
    pub fn new<'a>(queries: impl IntoIterator<Item = &'a [Candidate]>) -> Self {
        Self::by(Rules::default(), queries)
    }

    /// Ranks the candidates of each query.
    #[must_use]
    pub fn by<'a>(rules: Rules, queries: impl IntoIterator<Item = &'a [Candidate]>) -> Self {
        let ranking = |candidates| Ranking::new(candidates, rules.distinct_ranks);
        Self { rankings: queries.into_iter().map(ranking).collect(), rules }
    }

    /// Number of queries.
    #[must_use]
    pub fn queries(&self) -> usize {
        self.rankings.len()
    }

    /// The responses to keep in all for so many a query on average; `None` to keep all above a threshold.
    #[must_use]
    pub fn target(&self, keep_per_query: Option<f64>) -> Option<usize> {
        let keep = keep_per_query.filter(|_| self.rules.select == Select::TopK)?;
        Some(target(keep, self.queries()))
    }

    fn above(&self, threshold: f64) -> Vec<usize> {
        self.rankings.iter().map(|ranking| ranking.above(threshold)).collect()
    }

    /// The smallest k at which `target` distinct responses are kept; without a target, or when there
    /// are not enough, the largest number of candidates, or `k_max`.
    fn smallest_k(&self, above: &[usize], target: Option<usize>) -> usize {
        let most = self.rankings.iter().map(|ranking| ranking.scores.len()).max().unwrap_or(0);
        let most = self.rules.k_max.map_or(most, |k_max| most.min(k_max));
        let Some(target) = target else { return most };
        let enough = |k: usize| self.kept_at(above, k) >= target;
        if !enough(most) {
            return most;
        }
        let (mut low, mut high) = (most.min(1), most);
        while low < high {
            let middle = usize::midpoint(low, high);
            if enough(middle) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }

    /// Distinct responses among the best k of each query.
    fn kept_at(&self, above: &[usize], k: usize) -> usize {
        let kept = |(ranking, above): (&Ranking, &usize)| ranking.unique[k.min(*above)] as usize;
        self.rankings.iter().zip(above).map(kept).sum()
    }

    /// k, and how many of the best of each query are kept.
    fn prefixes(&self, threshold: f64, target: Option<usize>) -> (usize, Vec<usize>) {
        let above = self.above(threshold);
        let k = self.smallest_k(&above, target);
        let mut prefixes: Vec<usize> = above.iter().map(|above| k.min(*above)).collect();
        if let (true, Some(target)) = (self.rules.trim, target) {
            self.trim(k, target, &mut prefixes);
        }
        (k, prefixes)
    }

    /// Takes the lowest scores at rank k back until no more than `target` is kept.
    fn trim(&self, k: usize, target: usize, prefixes: &mut [usize]) {
        let Some(rank) = k.checked_sub(1) else { return };
        let excess = self.kept_at(prefixes, k).saturating_sub(target);
        let last = |query: &usize| prefixes[*query] == k && !self.rankings[*query].duplicate[rank];
        let mut last: Vec<usize> = (0..prefixes.len()).filter(last).collect();
        let score = |query: &usize| self.rankings[*query].scores[rank];
        last.sort_by(|a, b| score(a).total_cmp(&score(b)).then(b.cmp(a)));
        for query in last.into_iter().take(excess) {
            prefixes[query] = rank;
        }
    }

    /// What a threshold keeps, and how good that is with `n_star` correct responses wanted a query.
    ///
    /// The balance score of a query with n kept responses, n′ of them correct, is
    /// min(n′ / n*, 1) · n′ / n (paper.md §1.2).
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of responses")]
    pub fn outcome(&self, threshold: f64, target: Option<usize>, n_star: usize) -> Outcome {
        let (k, prefixes) = self.prefixes(threshold, target);
        let mut outcome = Outcome { balance_score: 0.0, kept: 0, correct: 0, covered: 0, k };
        for (ranking, prefix) in self.rankings.iter().zip(prefixes) {
            let (kept, correct) = (ranking.unique[prefix] as usize, ranking.correct[prefix] as usize);
            outcome.kept += kept;
            outcome.correct += correct;
            if kept > 0 {
                let counted = if self.rules.n_i == Counted::Total { prefix } else { kept };
                outcome.covered += 1;
                outcome.balance_score +=
                    (correct as f64 / n_star as f64).min(1.0) * correct as f64 / counted as f64;
            }
        }
        let averaged = match self.rules.average {
            Average::All => self.rankings.len(),
            Average::Selected => outcome.covered,
        };
        outcome.balance_score /= averaged.max(1) as f64;
        outcome
    }

    /// For each query the positions of the kept candidates, best first.
    #[must_use]
    pub fn kept(&self, threshold: f64, target: Option<usize>) -> Vec<Vec<usize>> {
        let (_, prefixes) = self.prefixes(threshold, target);
        let kept = |(ranking, prefix): (&Ranking, &usize)| {
            (0..*prefix)
                .filter(|rank| !ranking.duplicate[*rank])
                .map(|rank| ranking.positions[rank])
                .collect()
        };
        self.rankings.iter().zip(&prefixes).map(kept).collect()
    }
}

/// A temperature and a threshold, and what they keep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// The temperature.
    pub temperature: f64,
    /// The threshold.
    pub threshold: f64,
    /// What the search makes as large as it can: usually the balance score.
    pub value: f64,
    /// What is kept.
    pub outcome: Outcome,
}

impl Choice {
    /// Greater is better: the value; then, as [`Ties`] says, more kept responses, a lower temperature and
    /// a higher threshold, or a lower temperature and a lower threshold.
    fn preference(&self, other: &Self, ties: Ties) -> Ordering {
        let Self { temperature, threshold, value, outcome } = self;
        let colder = other.temperature.total_cmp(temperature);
        let better = value.total_cmp(&other.value);
        match ties {
            Ties::Kept => better
                .then(outcome.kept.cmp(&other.outcome.kept))
                .then(colder)
                .then(threshold.total_cmp(&other.threshold)),
            Ties::First => better.then(colder).then(other.threshold.total_cmp(threshold)),
        }
    }
}

/// Every configuration, by its balance score: temperatures in the order given, thresholds within.
#[must_use]
pub fn surface(
    pools: &[(f64, Pool)],
    thresholds: &[f64],
    keep_per_query: Option<f64>,
    n_star: usize,
) -> Vec<Choice> {
    let of_pool = |(temperature, pool): &(f64, Pool)| {
        let target = pool.target(keep_per_query);
        let choice = |threshold: &f64| {
            let outcome = pool.outcome(*threshold, target, n_star);
            Choice { temperature: *temperature, threshold: *threshold, value: outcome.balance_score, outcome }
        };
        thresholds.iter().map(choice).collect::<Vec<_>>()
    };
    pools.iter().flat_map(of_pool).collect()
}

/// The best configuration; `None` when there is none.
#[must_use]
pub fn best(surface: &[Choice], ties: Ties) -> Option<Choice> {
    surface.iter().copied().max_by(|one, other| one.preference(other, ties))
}

#[cfg(test)]
mod tests;
