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
    /// When the response alone is longer than `max_length` (what `too_long` says of its number of tokens), or a text
    /// cannot be encoded.
    pub fn new<S: AsRef<str>>(
        tokenizer: &Tokenizer,
        prompt: &str,
        steps: &[S],
        reading: &Reading,
        max_length: usize,
        too_long: impl FnOnce(usize) -> StageError,
    ) -> Result<Self> {
        let mut ids = tokenizer.encode(prompt)?;
        let (mut response, mut ends) = match reading.encode {
            Encode::Steps => step_by_step(tokenizer, steps, reading)?,
            Encode::Response => whole(tokenizer, steps, reading)?,
        };
        if response.len() > max_length {
            return Err(too_long(response.len()));
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
    /// As [`StepsRow::new`], when steps and labels are not as many, a label is no share, or no token has a label.
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
        let query = &row.query_id;
        if let Some(at) = row.labels.iter().position(|label| !(0.0..=1.0).contains(label)) {
            let (number, label) = (at + 1, row.labels[at]);
            return Err(StageError::invalid(format!(
                "label {number} of a solution of query `{query}` is {label}, not a number from 0 to 1"
            ))
            .hint(
                "a label is the share of continuations that are right: write 0 where other software has -1",
            ));
        }
        let too_long = |tokens| {
            StageError::invalid(format!(
                "a solution of query `{query}` has {tokens} tokens, more than the {max_length} of a row"
            ))
            .hint(
                "raise `training.max_length`, up to the positions that the model has, or leave such rows out of \
                 `labels`",
            )
        };
        let mut encoded = Self::new(tokenizer, &row.prompt, &row.steps, reading, max_length, too_long)?;
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
        if encoded.ends.is_empty() {
            return Err(StageError::invalid(format!("a solution of query `{query}` has no text to label"))
                .hint("leave such rows out of `labels`"));
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
        separator.extend(tokenizer.encode_continued(part)?);
    }
    let (mut ids, mut ends) = (Vec::new(), Vec::new());
    let encode = |text: &str, ids: &mut Vec<i64>| -> Result<()> {
        let lines = if separator.is_empty() { vec![text] } else { text.split(STEP_SEPARATOR).collect() };
        for (number, line) in lines.into_iter().enumerate() {
            if number > 0 {
                ids.extend(&separator);
            }
            if !line.is_empty() {
                ids.extend(tokenizer.encode_continued(line)?);
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
    let (mut ids, starts) = tokenizer.continued_places(&text)?;
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
    use serde_json::{Map, Value, json};

    use crate::tokenizer::tests::{folder, rows, settings};

    const STEPS: [&str; 2] = ["1 + 2 = 3\n\n", "so 3\n\n# Answer\n\n3"];

    fn row(tokenizer: &Tokenizer, prompt: &str, steps: &[&str], reading: &Reading) -> StepsRow {
        let too_long = |tokens| StageError::invalid(format!("{tokens} tokens"));
        StepsRow::new(tokenizer, prompt, steps, reading, 100, too_long).unwrap()
    }

    /// The texts of the tokens that outputs are read at, without spaces, and the number of tokens of the response.
    fn read(reading: &Reading) -> (Vec<String>, usize) {
        let folder = tempfile::tempdir().unwrap();
        let settings =
            bstar_stages::config::Tokenizer { markers: Vec::new(), ..settings(TokenizerKind::Bpe) };
        Tokenizer::train(&settings, &rows(), folder.path()).unwrap();
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        let row = row(&tokenizer, "Ann has 4 pens.", &STEPS, reading);
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
            let found = row(&tokenizer, "Ann has 4 pens.", &["\n\n", "\n\n"], &reading);
            assert_eq!(found.ends[0], found.prompt as i64 - 1, "{encode:?}");
            let found = row(&tokenizer, "", &["\n\n"], &reading);
            assert!(found.ids.is_empty() && found.ends.is_empty(), "{encode:?}");
        }
    }

    /// One token for each character, and a space before every text, as Llama 2 and Mistral (with `Metaspace`) have it.
    fn spaced(normalizer: Value, metaspace: Value) -> Tokenizer {
        let pieces = ["<unk>", "▁", "<0x0A>", "1", "2", "3", "+", "=", "s", "o", "<s>"].into_iter();
        let vocab: Map<String, Value> =
            pieces.enumerate().map(|(id, piece)| (piece.to_owned(), id.into())).collect();
        let special = json!([{"id": 10, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                              "normalized": false, "special": true}]);
        let file = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": special,
                          "normalizer": normalizer, "pre_tokenizer": metaspace, "post_processor": null, "decoder": null,
                          "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "fuse_unk": true,
                                    "byte_fallback": true, "vocab": vocab, "merges": []}});
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokenizer.json"), file.to_string()).unwrap();
        Tokenizer::load(folder.path()).unwrap()
    }

    #[test]
    fn no_space_is_put_before_what_goes_on_from_other_text() {
        let llama = spaced(
            json!({"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}),
            Value::Null,
        );
        let mistral = spaced(
            Value::Null,
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": false}),
        );
        let steps = ["1 + 2 = 3\n\n", " so 3\n\n", "3"];
        let lines = vec!["\n".to_owned(); 2];
        let usual = Reading::default();
        for tokenizer in [llama, mistral] {
            assert_eq!(tokenizer.encode("\n").unwrap(), [1, 2]);
            // What the published code has: prompt and response as one text.
            let (whole, starts) = tokenizer.encode_places(&format!("1\n\n{}", steps.concat())).unwrap();
            for (encode, separator) in
                [(Encode::Steps, lines.clone()), (Encode::Steps, Vec::new()), (Encode::Response, Vec::new())]
            {
                let reading = Reading { encode, separator, ..usual.clone() };
                let found = row(&tokenizer, "1\n\n", &steps, &reading);
                assert_eq!(found.ids, whole, "{reading:?}");
                let places: Vec<usize> =
                    found.ends.iter().map(|end| starts[usize::try_from(*end).unwrap()]).collect();
                assert_eq!(places, [13, 20, 21], "{reading:?}");
            }
            let special = Reading { separator: vec!["<s>".into(), "<s>".into()], ..usual.clone() };
            let found = row(&tokenizer, "1", &["2\n\n", "3"], &special);
            assert_eq!(found.ids, [1, 3, 4, 10, 10, 5]);
        }
    }

    #[test]
    fn labels_are_shares() {
        let tokenizer = Tokenizer::load(folder().path()).unwrap();
        let labelled = |label: f64, max_length| {
            let row = LabelledSteps {
                query_id: "q7".into(),
                prompt: "Ann has 4 pens.".into(),
                steps: STEPS.map(str::to_owned).into(),
                labels: vec![1.0, label],
            };
            StepsRow::labelled(&tokenizer, &row, &Reading::default(), false, max_length)
        };
        for (label, text) in [(-1.0, "-1"), (1.5, "1.5"), (f64::NAN, "NaN")] {
            let error = labelled(label, 100).unwrap_err();
            let expected = format!("label 2 of a solution of query `q7` is {text}, not a number from 0 to 1");
            assert_eq!(error.message, expected);
            assert!(error.hint.unwrap().contains("write 0"));
        }
        for label in [0.0, 0.25, 1.0] {
            assert!(labelled(label, 100).is_ok());
        }
        let error = labelled(1.0, 5).unwrap_err();
        assert!(error.message.starts_with("a solution of query `q7` has "), "{error}");
        assert!(error.message.ends_with(" tokens, more than the 5 of a row"), "{error}");
        assert!(error.hint.unwrap().contains("`training.max_length`"));
    }

    #[test]
    fn labels_need_a_text() {
        let tokenizer = Tokenizer::load(folder().path()).unwrap();
        let reading = Reading { at: Place::Step, answer: false, ..Reading::default() };
        let labelled = |prompt: &str, every_token| {
            let row = LabelledSteps {
                query_id: "q7".into(),
                prompt: prompt.into(),
                steps: vec!["\n\n".into()],
                labels: vec![1.0],
            };
            StepsRow::labelled(&tokenizer, &row, &reading, every_token, 100)
        };
        for (prompt, every_token) in [("", false), ("", true), ("Ann has 4 pens.", true)] {
            let error = labelled(prompt, every_token).unwrap_err();
            assert!(error.message.contains("query `q7` has no text to label"), "{error}");
        }
        // It is read where the prompt ends.
        assert_eq!(labelled("Ann has 4 pens.", false).unwrap().labels, [1.0]);
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
