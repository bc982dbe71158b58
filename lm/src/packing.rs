//! Rows in one stream of tokens for training, without padding, each attending to itself only.
//!
//! Attention is block-diagonal: it is computed for each run of equally long rows, on views of the
//! stream, so nothing is copied and no masked score is ever computed. Unlike
//! [`batch`](crate::batch), nothing here promises that bits are independent of a row's company.

use std::cell::RefCell;
use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use crate::attention::{Inputs, band};
use crate::model::{cat, index};

/// Neighbours in the stream that are equally long.
#[derive(Debug)]
struct Segment {
    start: i64,
    rows: i64,
    length: i64,
}

/// Rows laid one after the other.
#[derive(Debug)]
pub(crate) struct Packing {
    /// `[tokens]`
    pub(crate) ids: Tensor,
    /// The position of each token in its row.
    pub(crate) positions: Vec<i64>,
    /// Where each row starts.
    starts: Vec<i64>,
    segments: Vec<Segment>,
    device: Device,
    /// What is added to the scores of the longest row, by how far a token sees. Shorter rows have the first rows and columns.
    bands: RefCell<BTreeMap<i64, Tensor>>,
}

/// What the gradients of one segment's attention need.
#[derive(Debug)]
struct Attended {
    /// `[rows, heads, length, head]`
    inputs: Inputs,
    /// Of the kernel, where there is one: its output, and the log-sum-exp of the scores.
    kernel: Option<[Tensor; 2]>,
}

/// What the gradients of attention need.
#[derive(Debug)]
pub(crate) struct Attention(Vec<Attended>);

impl Packing {
    /// Packs rows, none of which is empty. Equally long neighbours are computed together.
    pub(crate) fn new(rows: &[&[i64]], device: Device) -> Self {
        let (mut ids, mut positions, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        let mut segments: Vec<Segment> = Vec::new();
        for row in rows {
            let (start, length) = (ids.len() as i64, row.len() as i64);
            starts.push(start);
            ids.extend_from_slice(row);
            positions.extend(0..length);
            match segments.last_mut().filter(|last| last.length == length) {
                Some(last) => last.rows += 1,
                None => segments.push(Segment { start, rows: 1, length }),
            }
        }
        Self { ids: index(&ids, device), positions, starts, segments, device, bands: RefCell::default() }
    }

    /// Where a row starts.
    pub(crate) fn start(&self, row: usize) -> i64 {
        self.starts[row]
    }

    /// Tokens in all.
    pub(crate) fn tokens(&self) -> i64 {
        self.positions.len() as i64
    }

    /// Causal attention of queries `[tokens, heads, head]` to keys and values `[tokens, kv heads, head]`:
    /// `[tokens, heads × head]`. With a window, a token sees no more than that many, itself included.
    pub(crate) fn attend(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        window: Option<i64>,
    ) -> (Tensor, Attention) {
        let size = query.size();
        let (heads, head) = (size[1], size[2]);
        let [key, value] = [key, value].map(|stream| shared(stream, heads));
        let mut attended = Vec::with_capacity(self.segments.len());
        let mut outputs = Vec::with_capacity(self.segments.len());
        for segment in &self.segments {
            let length = segment.length;
            let [query, key, value] =
                [query, &key, &value].map(|stream| segment.take(stream).transpose(1, 2));
            let by_kernel = self.device == Device::Cpu;
            let kind = if by_kernel { query.kind() } else { Kind::Float };
            // The kernel knows by itself what is causal.
            let window = window.filter(|window| *window < length).or((!by_kernel).then_some(i64::MAX));
            let mask = window.map(|window| self.mask(length, window, kind));
            let inputs = Inputs { query, key, value, mask };
            let (output, kernel) = if by_kernel {
                let (output, weight) = kernel(&inputs);
                (output.shallow_clone(), Some([output, weight]))
            } else {
                (inputs.attend_in_parts(), None)
            };
            outputs.push(output.transpose(1, 2).reshape([-1, heads * head]));
            attended.push(Attended { inputs, kernel });
        }
        (cat(outputs), Attention(attended))
    }

    /// What is added to the scores of a row of this length in which a token sees no more than `window` in all.
    fn mask(&self, length: i64, window: i64, kind: Kind) -> Tensor {
        let mut bands = self.bands.borrow_mut();
        let band = bands.entry(window).or_insert_with(|| {
            let longest = self.segments.iter().map(|segment| segment.length).max().unwrap_or(0);
            band(longest, window.min(longest), (kind, self.ids.device()))
        });
        band.narrow(0, 0, length).narrow(1, 0, length)
    }

    /// Gradients of queries, keys and values from that of the output, in the shapes they were given in.
    pub(crate) fn attend_backward(
        &self,
        attention: &Attention,
        gradient: &Tensor,
        kv: i64,
    ) -> Result<[Tensor; 3], tch::TchError> {
        let mut parts: [Vec<Tensor>; 3] = Default::default();
        for (segment, attended) in self.segments.iter().zip(&attention.0) {
            let Attended { inputs, kernel } = attended;
            let size = inputs.query.size();
            let (heads, head) = (size[1], size[3]);
            let gradient =
                segment.take(gradient).view([segment.rows, segment.length, heads, head]).transpose(1, 2);
            let found = match kernel {
                Some(kept) => kernel_backward(inputs, &gradient, kept)?,
                None => inputs.backward_in_parts(&gradient),
            };
            for (part, found) in parts.iter_mut().zip(found) {
                let found = found.transpose(1, 2).reshape([segment.rows * segment.length, -1, head]);
                part.push(found);
            }
        }
        let [query, key, value] = parts.map(cat);
        Ok([query, gathered(key, kv), gathered(value, kv)])
    }
}

impl Segment {
    /// `[rows, length, …]`, a view of the stream's `[tokens, …]`.
    fn take(&self, stream: &Tensor) -> Tensor {
        let mut shape = stream.size();
        shape[0] = self.length;
        shape.insert(0, self.rows);
        stream.narrow(0, self.start, self.rows * self.length).view(shape.as_slice())
    }
}

/// Output, and log-sum-exp of the scores, by the CPU's kernel.
fn kernel(Inputs { query, key, value, mask }: &Inputs) -> (Tensor, Tensor) {
    let (causal, mask) = (mask.is_none(), mask.as_ref());
    Tensor::internal_scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, causal, mask, None)
}

/// Gradients of queries, keys and values by that kernel, from that of its output.
fn kernel_backward(
    Inputs { query, key, value, mask }: &Inputs,
    gradient: &Tensor,
    [output, weight]: &[Tensor; 2],
) -> Result<[Tensor; 3], tch::TchError> {
    let (causal, mask) = (mask.is_none(), mask.as_ref());
    let (query, key, value) = Tensor::f_internal_scaled_dot_product_flash_attention_for_cpu_backward(
        gradient, query, key, value, output, weight, 0.0, causal, mask, None,
    )?;
    Ok([query, key, value])
}

/// Keys or values, each repeated for the heads that share it.
fn shared(stream: &Tensor, heads: i64) -> Tensor {
    let size = stream.size();
    if size[1] == heads {
        return stream.shallow_clone();
    }
    stream.unsqueeze(2).expand([-1, -1, heads / size[1], -1], false).reshape([-1, heads, size[2]])
}

/// The gradient of keys or values from those of their copies.
fn gathered(stream: Tensor, kv: i64) -> Tensor {
    let size = stream.size();
    if size[1] == kv {
        return stream;
    }
    stream.view([size[0], kv, -1, size[2]]).sum_dim_intlist([2_i64].as_slice(), false, None::<Kind>)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Stream;

    fn random(shape: [i64; 3], name: &str) -> Tensor {
        let mut stream = Stream::new("test", 1, name, 0);
        let values: Vec<f32> = (0..shape.iter().product::<i64>()).map(|_| stream.normal() as f32).collect();
        Tensor::from_slice(&values).view(shape)
    }

    /// Output and gradients of the attention of rows of these lengths; two heads share keys and values.
    fn attend(lengths: &[usize], window: Option<i64>, kernel: bool) -> [Tensor; 4] {
        let rows: Vec<Vec<i64>> = lengths.iter().map(|length| vec![0; *length]).collect();
        let rows: Vec<&[i64]> = rows.iter().map(Vec::as_slice).collect();
        let mut packing = Packing::new(&rows, Device::Cpu);
        let tokens = packing.tokens();
        let [query, key, value] =
            [("q", 4), ("k", 2), ("v", 2)].map(|(name, heads)| random([tokens, heads, 8], name));
        if !kernel {
            // What is done where there is no such kernel works here as well.
            packing.device = Device::Cuda(0);
        }
        let (output, kept) = packing.attend(&query, &key, &value, window);
        let gradient = random([tokens, 4, 8], "g").view([tokens, 32]);
        let [query, key, value] = packing.attend_backward(&kept, &gradient, 2).unwrap();
        [output, query, key, value]
    }

    #[test]
    fn the_kernel_and_the_products_agree() {
        tch::set_num_threads(1);
        for window in [None, Some(5)] {
            let [ours, theirs] = [true, false].map(|kernel| attend(&[20, 9, 9, 4], window, kernel));
            for (ours, theirs) in ours.iter().zip(&theirs) {
                assert_eq!(ours.size(), theirs.size());
                assert!(ours.allclose(theirs, 1e-4, 1e-5, false), "{window:?}");
            }
        }
    }

    #[test]
    fn packed_rows_see_nothing_of_each_other() {
        tch::set_num_threads(1);
        // The first rows of the stream are the same with and without what follows them.
        let (alone, together) = (attend(&[20], None, true), attend(&[20, 9, 9, 4], None, true));
        for (alone, together) in alone.iter().zip(&together) {
            assert!(alone.allclose(&together.narrow(0, 0, 20), 1e-5, 1e-6, false));
        }
        // A row of one token sees itself only: its output is its value.
        let [output, ..] = attend(&[9, 1], None, true);
        let value = random([10, 2, 8], "v").narrow(0, 9, 1);
        let copies = value.unsqueeze(2).expand([-1, -1, 2, -1], false).reshape([1, 32]);
        assert!(output.narrow(0, 9, 1).allclose(&copies, 1e-6, 1e-6, false));
    }
}
