//! Weights between those of two policies (WiSE-FT, arXiv 2109.01903).

use bstar_stages::protocol::StageError;

use crate::error::Result;
use crate::model::Decoder;

/// Moves every weight of `model` towards that of `other`: w ← (1 − share) · w + share · o.
///
/// # Errors
/// When the two have different tensors.
pub fn merge(model: &Decoder, other: &Decoder, share: f64) -> Result<usize> {
    let (own, others) = (model.named(), other.named());
    let different = |what: String| {
        StageError::invalid(format!("the two policies cannot be merged: {what}"))
            .hint("merge checkpoints of one model: both must come from the same base")
    };
    if own.len() != others.len() {
        return Err(different(format!("one has {} tensors, the other {}", own.len(), others.len())));
    }
    for ((name, tensor), (other_name, other)) in own.iter().zip(&others) {
        if name != other_name {
            return Err(different(format!("`{name}` of one is `{other_name}` of the other")));
        }
        if tensor.size() != other.size() {
            let sizes = (tensor.size(), other.size());
            return Err(different(format!("`{name}` has shape {:?} and {:?}", sizes.0, sizes.1)));
        }
    }
    let _guard = tch::no_grad_guard();
    for ((_, tensor), (_, other)) in own.iter().zip(&others) {
        let merged = *tensor * (1.0 - share) + *other * share;
        tensor.shallow_clone().copy_(&merged);
    }
    Ok(own.len())
}

#[cfg(test)]
mod tests {
    use tch::Tensor;

    use super::*;
    use crate::model::tests::random;

    #[test]
    fn weights_lie_between_those_of_both() {
        let (model, other) = (random(64, 1, 2, 1, 50), random(64, 1, 2, 1, 50));
        let _guard = tch::no_grad_guard();
        other.named().iter().for_each(|(_, tensor)| drop(tensor.shallow_clone().neg_()));
        let before: Vec<Tensor> = model.named().iter().map(|(_, tensor)| tensor.copy()).collect();
        merge(&model, &other, 0.25).unwrap();
        for (index, (name, tensor)) in model.named().into_iter().enumerate() {
            // 0.75 · w − 0.25 · o, where o was made of the same numbers.
            let expected = &before[index] * 0.75 + other.named()[index].1 * 0.25;
            assert!(tensor.equal(&expected), "{name}");
        }
        let last: Vec<Tensor> = model.named().iter().map(|(_, tensor)| tensor.copy()).collect();
        merge(&model, &other, 0.0).unwrap();
        assert!(model.named().iter().zip(&last).all(|((_, tensor), last)| tensor.equal(last)));
        merge(&model, &other, 1.0).unwrap();
        assert!(model.named().iter().zip(other.named()).all(|((_, a), (_, b))| a.equal(b)));
    }

    #[test]
    fn models_of_other_shapes_are_refused() {
        let error = merge(&random(64, 1, 2, 1, 50), &random(64, 2, 2, 1, 50), 0.5).unwrap_err();
        assert!(error.message.contains("cannot be merged"), "{error}");
        let error = merge(&random(64, 1, 2, 1, 50), &random(32, 1, 2, 1, 50), 0.5).unwrap_err();
        assert!(error.message.contains("has shape"), "{error}");
    }
}
