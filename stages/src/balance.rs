//! Selecting responses, and the balance score of a selection (paper.md §1.2, §1.4, §10).
//!
//! Candidates of a query are ranked once: by score, then by text, then by sample. For a threshold τ the
//! candidates above it are a prefix of the ranking; keeping the best k and dropping duplicates is a
//! shorter prefix. Counts of distinct texts and of distinct correct texts along the ranking therefore
//! answer every (τ, k) without looking at candidates again.

use std::cmp::Ordering;
use std::collections::HashSet;

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
    fn new(candidates: &[Candidate]) -> Self {
        let mut positions: Vec<usize> = (0..candidates.len()).collect();
        positions.sort_by(|a, b| candidates[*a].rank(&candidates[*b]));
        let mut seen = HashSet::with_capacity(candidates.len());
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
}

/// What a threshold keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// The mean balance score over all queries; queries without a kept response count 0.
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
    /// Ranks the candidates of each query.
    #[must_use]
    pub fn new<'a>(queries: impl IntoIterator<Item = &'a [Candidate]>) -> Self {
        Self { rankings: queries.into_iter().map(Ranking::new).collect() }
    }

    /// Number of queries.
    #[must_use]
    pub fn queries(&self) -> usize {
        self.rankings.len()
    }

    fn above(&self, threshold: f64) -> Vec<usize> {
        self.rankings.iter().map(|ranking| ranking.above(threshold)).collect()
    }

    /// The smallest k at which `target` distinct responses are kept; without a target, or when there
    /// are not enough, the largest number of candidates.
    fn smallest_k(&self, above: &[usize], target: Option<usize>) -> usize {
        let most = self.rankings.iter().map(|ranking| ranking.scores.len()).max().unwrap_or(0);
        let Some(target) = target else { return most };
        let enough = |k: usize| {
            let kept = |(ranking, above): (&Ranking, &usize)| ranking.unique[k.min(*above)] as usize;
            self.rankings.iter().zip(above).map(kept).sum::<usize>() >= target
        };
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

    /// What a threshold keeps, and how good that is with `n_star` correct responses wanted a query.
    ///
    /// The balance score of a query with n kept responses, n′ of them correct, is
    /// min(n′ / n*, 1) · n′ / n.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts of responses")]
    pub fn outcome(&self, threshold: f64, target: Option<usize>, n_star: usize) -> Outcome {
        let above = self.above(threshold);
        let k = self.smallest_k(&above, target);
        let mut outcome = Outcome { balance_score: 0.0, kept: 0, correct: 0, covered: 0, k };
        for (ranking, above) in self.rankings.iter().zip(above) {
            let prefix = k.min(above);
            let (kept, correct) = (ranking.unique[prefix] as usize, ranking.correct[prefix] as usize);
            outcome.kept += kept;
            outcome.correct += correct;
            if kept > 0 {
                outcome.covered += 1;
                outcome.balance_score +=
                    (correct as f64 / n_star as f64).min(1.0) * correct as f64 / kept as f64;
            }
        }
        outcome.balance_score /= self.rankings.len().max(1) as f64;
        outcome
    }

    /// For each query the positions of the kept candidates, best first.
    #[must_use]
    pub fn kept(&self, threshold: f64, target: Option<usize>) -> Vec<Vec<usize>> {
        let above = self.above(threshold);
        let k = self.smallest_k(&above, target);
        let kept = |(ranking, above): (&Ranking, &usize)| {
            (0..k.min(*above))
                .filter(|rank| !ranking.duplicate[*rank])
                .map(|rank| ranking.positions[rank])
                .collect()
        };
        self.rankings.iter().zip(&above).map(kept).collect()
    }
}

/// A temperature and a threshold, and what they keep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// The temperature.
    pub temperature: f64,
    /// The threshold.
    pub threshold: f64,
    /// What is kept.
    pub outcome: Outcome,
}

impl Choice {
    /// Greater is better: the balance score; then more kept responses, a lower temperature, a higher
    /// threshold.
    fn preference(&self, other: &Self) -> Ordering {
        let Self { temperature, threshold, outcome } = self;
        outcome
            .balance_score
            .total_cmp(&other.outcome.balance_score)
            .then(outcome.kept.cmp(&other.outcome.kept))
            .then(other.temperature.total_cmp(temperature))
            .then(threshold.total_cmp(&other.threshold))
    }
}

/// Every configuration: temperatures in the order given, thresholds within.
#[must_use]
pub fn surface(
    pools: &[(f64, Pool)],
    thresholds: &[f64],
    keep_per_query: Option<f64>,
    n_star: usize,
) -> Vec<Choice> {
    let of_pool = |(temperature, pool): &(f64, Pool)| {
        let target = keep_per_query.map(|keep| target(keep, pool.queries()));
        let choice = |threshold: &f64| Choice {
            temperature: *temperature,
            threshold: *threshold,
            outcome: pool.outcome(*threshold, target, n_star),
        };
        thresholds.iter().map(choice).collect::<Vec<_>>()
    };
    pools.iter().flat_map(of_pool).collect()
}

/// The best configuration; `None` when there is none.
#[must_use]
pub fn best(surface: &[Choice]) -> Option<Choice> {
    surface.iter().copied().max_by(Choice::preference)
}

#[cfg(test)]
mod tests;
