//! Choosing one token of each row of logits.

use bstar_stages::config::SampleShard;
use tch::{Kind, Tensor};

use crate::error::{Result, torch};
use crate::kernels;

/// Rows that are looked at together: few enough for their shares to stay in a core's nearer caches.
const CHUNK: usize = 8;

/// How a token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawing {
    /// Logits are divided by it; 0 takes the most likely token.
    pub temperature: f64,
    /// Keep this many of the most likely tokens; 0 = all.
    pub top_k: usize,
    /// Keep the most likely tokens that hold this share of probability; 1 = all.
    pub top_p: f64,
    /// Keep the tokens that are at least this share as likely as the most likely one; 0 = all.
    pub min_p: f64,
}

impl From<&SampleShard> for Drawing {
    fn from(settings: &SampleShard) -> Self {
        let SampleShard { temperature, top_k, top_p, min_p, .. } = *settings;
        Self { temperature, top_k, top_p, min_p }
    }
}

impl Drawing {
    /// Whether no random numbers are needed.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.temperature <= 0.0
    }

    /// The token of each row of logits `[rows, vocabulary]`, and its log-probability at temperature 1: those of
    /// [`Self::draw`].
    ///
    /// # Errors
    /// When libtorch fails.
    pub fn choose(&self, logits: &Tensor, uniforms: &[f64]) -> Result<(Vec<i64>, Vec<f64>)> {
        if let Some(chosen) = self.choose_by_kernels(logits, uniforms) {
            return Ok(chosen);
        }
        let (tokens, logprobs) = self.draw(logits, uniforms);
        // One copy for both: on a device every copy waits for all that came before.
        let both = Tensor::stack(&[tokens.to_kind(Kind::Double), logprobs.to_kind(Kind::Double)], 0);
        let mut both: Vec<f64> = Vec::try_from(both.view([-1])).map_err(|error| torch(&error))?;
        let logprobs = both.split_off(both.len() / 2);
        Ok((both.into_iter().map(|token| token as i64).collect(), logprobs))
    }

    /// The same where there are kernels for it.
    fn choose_by_kernels(&self, logits: &Tensor, uniforms: &[f64]) -> Option<(Vec<i64>, Vec<f64>)> {
        if self.is_greedy() {
            return None;
        }
        let (mut tokens, mut above) =
            (Vec::with_capacity(uniforms.len()), Vec::with_capacity(uniforms.len()));
        for uniforms in uniforms.chunks(CHUNK) {
            let some = logits.narrow(0, tokens.len() as i64, uniforms.len() as i64);
            let (shares, exceeds) = kernels::likelihoods(&some, self.temperature)?;
            tokens.extend(kernels::passed(&self.kept(shares).contiguous(), uniforms)?);
            above.extend(exceeds);
        }
        let chosen = logits.gather(-1, &Tensor::from_slice(&tokens).unsqueeze(-1), false);
        let logprobs = chosen.squeeze_dim(-1).to_kind(Kind::Double) - Tensor::from_slice(&above);
        Some((tokens, Vec::try_from(logprobs).ok()?))
    }

    /// The share of probability of each token, or something in proportion to it: of those that are kept.
    fn shares(&self, logits: &Tensor) -> Tensor {
        #[expect(clippy::float_cmp, reason = "only then is there nothing to do")]
        let shares = if self.temperature == 1.0 {
            logits.softmax(-1, Kind::Float)
        } else {
            (logits / self.temperature).softmax(-1, Kind::Float)
        };
        self.kept(shares)
    }

    /// Without the shares of tokens that are not kept.
    fn kept(&self, mut shares: Tensor) -> Tensor {
        if self.top_k > 0 || self.top_p < 1.0 {
            shares = self.filter(&shares);
        }
        if self.min_p > 0.0 {
            let least = shares.amax([-1_i64].as_slice(), true) * self.min_p;
            shares = shares.masked_fill(&shares.lt_tensor(&least), 0.0);
        }
        shares
    }

    /// Tokens `[rows]`, and their log-probabilities at temperature 1, of logits `[rows, vocabulary]`.
    ///
    /// The token of a row is where the cumulative distribution passes that row's number of `uniforms`
    /// (each in [0, 1)): it depends on nothing but the row.
    pub fn draw(&self, logits: &Tensor, uniforms: &[f64]) -> (Tensor, Tensor) {
        let tokens = if self.is_greedy() {
            logits.argmax(-1, false)
        } else {
            let vocabulary = logits.size()[1];
            let shares = self.shares(logits);
            let cumulative = shares.cumsum(-1, Kind::Double);
            let total = cumulative.narrow(-1, vocabulary - 1, 1);
            let at = Tensor::from_slice(uniforms).view([-1, 1]).to_device(logits.device()) * total;
            // `right`: a token without probability is never reached.
            at.searchsorted(&cumulative, false, true, "right", None::<&Tensor>)
                .squeeze_dim(-1)
                .clamp_max(vocabulary - 1)
        };
        let logprobs = logits.log_softmax(-1, Kind::Float).gather(-1, &tokens.unsqueeze(-1), false);
        (tokens, logprobs.squeeze_dim(-1))
    }

    /// Sets the shares of tokens that are not kept to zero. Of equally likely tokens the first is kept.
    fn filter(&self, shares: &Tensor) -> Tensor {
        let (sorted, order) = shares.sort_stable(true, -1, true);
        let mut kept = sorted;
        if self.top_k > 0 {
            let vocabulary = kept.size()[1];
            let top_k = i64::try_from(self.top_k).unwrap_or(i64::MAX).min(vocabulary);
            drop(kept.narrow(-1, top_k, vocabulary - top_k).zero_());
        }
        if self.top_p < 1.0 {
            // A token is kept while those before it hold less than the wanted share of what is left.
            let cumulative = kept.cumsum(-1, Kind::Double);
            let wanted = cumulative.narrow(-1, cumulative.size()[1] - 1, 1) * self.top_p;
            let before = &cumulative - &kept;
            kept = kept.masked_fill(&before.ge_tensor(&wanted), 0.0);
        }
        kept.zeros_like().scatter(-1, &order, &kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Stream;

    fn logits() -> Tensor {
        Tensor::from_slice(&[0.5_f32, -1.0, 2.0, 0.0, 1.5, -3.0, 0.7, 1.0])
    }

    fn counts(drawing: Drawing, draws: usize) -> Vec<f64> {
        let mut stream = Stream::new("test", 1, "draws", 0);
        let uniforms: Vec<f64> = (0..draws).map(|_| stream.uniform()).collect();
        let rows = logits().unsqueeze(0).expand([draws as i64, -1], false).contiguous();
        let (tokens, _) = drawing.draw(&rows, &uniforms);
        let mut counts = vec![0.0; 8];
        for token in Vec::<i64>::try_from(&tokens).unwrap() {
            counts[token as usize] += 1.0;
        }
        counts
    }

    #[test]
    fn draws_follow_the_distribution() {
        for temperature in [0.5, 1.0, 1.7] {
            let drawing = Drawing { temperature, top_k: 0, top_p: 1.0, min_p: 0.0 };
            let draws = 40_000;
            let shares: Vec<f64> =
                Vec::try_from((logits().to_kind(Kind::Double) / temperature).softmax(-1, Kind::Double))
                    .unwrap();
            let chi_square: f64 = counts(drawing, draws)
                .iter()
                .zip(&shares)
                .map(|(count, share)| (count - share * draws as f64).powi(2) / (share * draws as f64))
                .sum();
            // The 99.9 % point of χ² with 7 degrees of freedom is 24.3.
            assert!(chi_square < 24.3, "{chi_square} at {temperature}");
        }
    }

    #[test]
    fn both_ways_to_draw_agree() {
        let mut stream = Stream::new("test", 1, "agree", 0);
        for (rows, vocabulary) in [(16, 8), (80, 200), (64, 67), (19, 4096)] {
            let logits: Vec<f32> = (0..rows * vocabulary).map(|_| 4.0 * stream.normal() as f32).collect();
            let logits = Tensor::from_slice(&logits).view([rows, vocabulary]);
            let mut uniforms: Vec<f64> = (0..rows).map(|_| stream.uniform()).collect();
            (uniforms[0], uniforms[1]) = (0.0, 1.0 - f64::EPSILON / 2.0);
            for (temperature, top_k, top_p, min_p) in
                [(1.0, 0, 1.0, 0.0), (0.7, 5, 0.9, 0.01), (0.0, 0, 1.0, 0.0)]
            {
                let drawing = Drawing { temperature, top_k, top_p, min_p };
                let (tokens, logprobs) = drawing.draw(&logits, &uniforms);
                let (found, found_logprobs) = drawing.choose(&logits, &uniforms).unwrap();
                assert_eq!(Vec::<i64>::try_from(&tokens).unwrap(), found);
                let found = Tensor::from_slice(&found_logprobs);
                assert!(logprobs.to_kind(Kind::Double).allclose(&found, 1e-6, 1e-6, false), "{temperature}");
            }
        }
    }

    #[test]
    fn filters_keep_the_most_likely() {
        let kept_by = |drawing| -> Vec<usize> {
            let counts = counts(drawing, 4000);
            (0..8).filter(|token| counts[*token] > 0.0).collect()
        };
        let kept = |top_k, top_p| kept_by(Drawing { temperature: 1.0, top_k, top_p, min_p: 0.0 });
        assert_eq!(kept(1, 1.0), [2]);
        assert_eq!(kept(3, 1.0), [2, 4, 7]);
        assert_eq!(kept(100, 1.0).len(), 8);
        // Shares, most likely first: .38 .23 .14 .10 .09 …
        assert_eq!(kept(0, 0.3), [2]);
        assert_eq!(kept(0, 0.6), [2, 4]);
        assert_eq!(kept(2, 0.99), [2, 4]);
        // Of the logits, those at most ln 5 (or ln 1.7) below the greatest, 2; half as far at temperature ½.
        let least = |temperature, min_p| kept_by(Drawing { temperature, top_k: 0, top_p: 1.0, min_p });
        assert_eq!(least(1.0, 0.2), [0, 2, 4, 6, 7]);
        assert_eq!(least(0.5, 0.2), [2, 4]);
        assert_eq!(least(1.0, 0.6), [2, 4]);
        assert_eq!(least(1.0, 1.0), [2]);
        assert_eq!(kept_by(Drawing { temperature: 1.0, top_k: 3, top_p: 1.0, min_p: 0.1 }), [2, 4, 7]);
    }

    #[test]
    fn greedy_takes_the_most_likely_and_logprobs_are_those_of_temperature_one() {
        let rows = logits().unsqueeze(0).expand([16, -1], false).contiguous();
        let (tokens, logprobs) =
            Drawing { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 }.draw(&rows, &[]);
        assert_eq!(tokens.int64_value(&[3]), 2);
        let expected = logits().log_softmax(-1, Kind::Float).double_value(&[2]);
        assert!((logprobs.double_value(&[3]) - expected).abs() < 1e-6);
    }
}
