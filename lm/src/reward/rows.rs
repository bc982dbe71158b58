//! Responses as a reward model reads them: tokens, and where the output of each step is read.

use bstar_stages::config::{Encode, Place, Reading};
use bstar_stages::grade::STEP_SEPARATOR;
use bstar_stages::protocol::StageError;
use bstar_stages::record::LabelledSteps;

use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// A prompt and a response, and where the outputs of the response's steps are read.
#[derive(Debug, Clone, PartialEq)]
pub struct StepsRow {
    /// The tokens of the prompt, then those of the response up to the last one that matters.
    pub(super) ids: Vec<i64>,
    /// How many of them are the prompt's.
    pub(super) prompt: usize,
    /// The position at which each output is read.
    pub(super) ends: Vec<i64>,
    /// The label of each output, when the row is one to learn from.
    pub(super) labels: Vec<f32>,
}

impl StepsRow {
    /// Encodes a prompt and the steps of a response; a row that is too long loses the beginning of its
    /// prompt.
    ///
    /// # Errors
    /// When the response alone is longer than `max_length`, or a text cannot be encoded.
    pub fn new<S: AsRef<str>>(
        tokenizer: &Tokenizer,
        prompt: &str,
        steps: &[S],
        reading: &Reading,
        max_length: usize,
    ) -> Result<Self> {
        let mut ids = tokenizer.encode(prompt)?;
        let (mut response, mut ends) = match reading.encode {
            Encode::Steps => step_by_step(tokenizer, steps, reading)?,
            Encode::Response => whole(tokenizer, steps, reading)?,
        };
        if response.len() > max_length {
            let tokens = response.len();
            return Err(StageError::invalid(format!(
                "a response of {tokens} tokens does not fit into the reward model's {max_length}"
            ))
            .hint("sample with a smaller `max_tokens`, or use a reward model with a longer context"));
        }
        drop(ids.drain(..(ids.len() + response.len()).saturating_sub(max_length)));
        let prompt = ids.len();
        ids.append(&mut response);
        // A step without tokens is read where the tokens before it end.
        ends.iter_mut().for_each(|end| *end = (*end + prompt as i64).max(0));
        if ids.is_empty() {
            ends.clear();
        }
        Ok(Self { ids, prompt, ends, labels: Vec::new() })
    }

    /// Encodes a labelled solution; with `every_token`, a step's label is that of all of its tokens.
    ///
    /// # Errors
    /// As [`StepsRow::new`], and when steps and labels are not as many.
    pub fn labelled(
        tokenizer: &Tokenizer,
        row: &LabelledSteps,
        reading: &Reading,
        every_token: bool,
        max_length: usize,
    ) -> Result<Self> {
        if row.steps.len() != row.labels.len() || row.steps.is_empty() {
            return Err(StageError::invalid(format!(
                "a solution of query `{}` has {} steps and {} labels",
                row.query_id,
                row.steps.len(),
                row.labels.len()
            )));
        }
        let mut encoded = Self::new(tokenizer, &row.prompt, &row.steps, reading, max_length)?;
        #[expect(clippy::cast_possible_truncation, reason = "labels are shares")]
        let labels: Vec<f32> = row.labels.iter().map(|label| *label as f32).collect();
        if every_token {
            let mut next = encoded.prompt as i64;
            for (end, label) in std::mem::take(&mut encoded.ends).into_iter().zip(&labels) {
                encoded.labels.extend((next..=end).map(|_| *label));
                encoded.ends.extend(next..=end);
                next = next.max(end + 1);
            }
        } else {
            encoded.labels = labels;
        }
        Ok(encoded)
    }
}

/// How many bytes of a step's text precede the place where its output is read. The answer is a part of the last
/// step's text.
fn boundary(step: &str, last: bool, reading: &Reading) -> usize {
    let line = step.find(STEP_SEPARATOR);
    match reading.at {
        _ if last && reading.answer => step.len(),
        Place::Step => line.unwrap_or(step.len()),
        Place::BlankLine => line.map_or(step.len(), |line| line + STEP_SEPARATOR.len()),
    }
}

/// Tokens of which none spans two steps, and the last one before each boundary.
fn step_by_step<S: AsRef<str>>(
    tokenizer: &Tokenizer,
    steps: &[S],
    reading: &Reading,
) -> Result<(Vec<i64>, Vec<i64>)> {
    let mut separator = Vec::new();
    for part in &reading.separator {
        separator.extend(tokenizer.encode(part)?);
    }
    let (mut ids, mut ends) = (Vec::new(), Vec::new());
    let encode = |text: &str, ids: &mut Vec<i64>| -> Result<()> {
        let lines = if separator.is_empty() { vec![text] } else { text.split(STEP_SEPARATOR).collect() };
        for (number, line) in lines.into_iter().enumerate() {
            if number > 0 {
                ids.extend(&separator);
            }
            if !line.is_empty() {
                ids.extend(tokenizer.encode(line)?);
            }
        }
        Ok(())
    };
    for (number, step) in steps.iter().enumerate() {
        let (step, last) = (step.as_ref(), number + 1 == steps.len());
        let (before, after) = step.split_at(boundary(step, last, reading));
        encode(before, &mut ids)?;
        ends.push(ids.len() as i64 - 1);
        // What follows the last boundary has no influence on what comes before.
        if !last {
            encode(after, &mut ids)?;
        }
    }
    Ok((ids, ends))
}

/// The tokens of the whole response, and the one that holds the last character before each boundary.
fn whole<S: AsRef<str>>(
    tokenizer: &Tokenizer,
    steps: &[S],
    reading: &Reading,
) -> Result<(Vec<i64>, Vec<i64>)> {
    let text: String = steps.iter().map(AsRef::as_ref).collect();
    let (mut ids, starts) = tokenizer.encode_places(&text)?;
    let mut before = 0;
    let mut ends = Vec::with_capacity(steps.len());
    for (number, step) in steps.iter().enumerate() {
        let step = step.as_ref();
        let at = before + boundary(step, number + 1 == steps.len(), reading);
        ends.push(starts.partition_point(|start| *start < at) as i64 - 1);
        before += step.len();
    }
    let last = ends.last().map_or(0, |end| usize::try_from(end + 1).unwrap_or(0));
    ids.truncate(last);
    Ok((ids, ends))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bstar_stages::config::TokenizerKind;

    use crate::tokenizer::tests::{folder, rows, settings};

    const STEPS: [&str; 2] = ["1 + 2 = 3\n\n", "so 3\n\n# Answer\n\n3"];

    /// The texts of the tokens that outputs are read at, without spaces, and the number of tokens of the response.
    fn read(reading: &Reading) -> (Vec<String>, usize) {
        let folder = tempfile::tempdir().unwrap();
        let settings =
            bstar_stages::config::Tokenizer { markers: Vec::new(), ..settings(TokenizerKind::Bpe) };
        Tokenizer::train(&settings, &rows(), folder.path()).unwrap();
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        let row = StepsRow::new(&tokenizer, "Ann has 4 pens.", &STEPS, reading, 100).unwrap();
        let token = |end: &i64| {
            tokenizer.decode(&[row.ids[usize::try_from(*end).unwrap()]]).unwrap().replace(' ', "")
        };
        (row.ends.iter().map(token).collect(), row.ids.len() - row.prompt)
    }

    #[test]
    fn outputs_are_read_where_the_settings_say() {
        let usual = Reading::default();
        let (at_blank_lines, all) = read(&usual);
        assert_eq!(at_blank_lines, ["\n\n", "3"], "the last step ends with the answer");
        let (no_answer, fewer) = read(&Reading { answer: false, ..usual.clone() });
        assert_eq!(no_answer, ["\n\n", "\n\n"]);
        assert!(fewer < all, "what follows is not read");
        for encode in [Encode::Steps, Encode::Response] {
            let own = Reading { at: Place::Step, encode, ..usual.clone() };
            assert_eq!(read(&own).0, ["3", "3"], "{encode:?}");
            assert_eq!(read(&Reading { answer: false, ..own }).0, ["3", "3"], "{encode:?}");
        }
        // The published code has two line breaks where others have one token.
        let pair = Reading { separator: vec!["\n".into(), "\n".into()], ..usual };
        let (ends, tokens) = read(&pair);
        assert_eq!(ends, ["\n", "3"]);
        assert!(tokens > all);
    }

    #[test]
    fn a_step_without_text_is_read_where_the_text_before_it_ends() {
        let tokenizer = Tokenizer::load(folder().path()).unwrap();
        let reading = Reading { at: Place::Step, answer: false, ..Reading::default() };
        for encode in [Encode::Steps, Encode::Response] {
            let reading = Reading { encode, ..reading.clone() };
            let row = StepsRow::new(&tokenizer, "Ann has 4 pens.", &["\n\n", "\n\n"], &reading, 100).unwrap();
            assert_eq!(row.ends[0], row.prompt as i64 - 1, "{encode:?}");
            let row = StepsRow::new(&tokenizer, "", &["\n\n"], &reading, 100).unwrap();
            assert!(row.ids.is_empty() && row.ends.is_empty(), "{encode:?}");
        }
    }

    #[test]
    fn every_token_of_a_step_may_have_its_label() {
        let tokenizer = Tokenizer::load(folder().path()).unwrap();
        let row = LabelledSteps {
            query_id: "q".into(),
            prompt: "Ann has 4 pens.".into(),
            steps: STEPS.map(str::to_owned).into(),
            labels: vec![0.25, 1.0],
        };
        let usual = Reading::default();
        let ends = StepsRow::labelled(&tokenizer, &row, &usual, false, 100).unwrap();
        let all = StepsRow::labelled(&tokenizer, &row, &usual, true, 100).unwrap();
        assert_eq!((&ends.ids, ends.labels.as_slice()), (&all.ids, &[0.25, 1.0][..]));
        assert_eq!(all.ends, (all.prompt as i64..all.ids.len() as i64).collect::<Vec<_>>());
        let first = usize::try_from(ends.ends[0] + 1).unwrap() - all.prompt;
        assert!(all.labels[..first].iter().all(|label| *label == 0.25));
        assert!(all.labels[first..].iter().all(|label| *label == 1.0));
    }
}
