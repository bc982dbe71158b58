//! Other processors than those of the kernels: what is done there is libtorch's.

use tch::Tensor;

/// There is none.
#[derive(Debug)]
pub enum Split {}

impl Split {
    #[must_use]
    pub fn new(_: &Tensor) -> Option<Self> {
        None
    }

    pub fn product(&self, _: &Tensor) -> Tensor {
        match *self {}
    }
}

#[must_use]
pub fn mm(_: &Tensor, _: &Tensor) -> Option<Tensor> {
    None
}

#[must_use]
pub fn addmm(_: &Tensor, _: &Tensor, _: &Tensor) -> bool {
    false
}

#[must_use]
pub fn attend(_: &Tensor, _: [&Tensor; 2], _: [&Tensor; 2]) -> Option<(Tensor, Tensor)> {
    None
}

#[must_use]
pub fn merge(_: [&Tensor; 2], _: [&Tensor; 2]) -> Option<Tensor> {
    None
}

#[must_use]
pub fn passed(_: &Tensor, _: &[f64]) -> Option<Vec<i64>> {
    None
}
