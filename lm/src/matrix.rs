//! Matrix products: those of [`kernels`] where they have them for the processor, else libtorch's.

use tch::Tensor;

use crate::kernels::{self, Split};

/// `left × right`.
pub(crate) fn mm(left: &Tensor, right: &Tensor) -> Tensor {
    kernels::mm(left, right).unwrap_or_else(|| left.mm(right))
}

/// `sums + left × right`.
pub(crate) fn addmm(sums: &Tensor, left: &Tensor, right: &Tensor) -> Tensor {
    match kernels::mm(left, right) {
        Some(mut product) => product.g_add_(sums),
        None => sums.addmm(left, right),
    }
}

/// Adds `left × right` to `sums`.
pub(crate) fn add_product(sums: &mut Tensor, left: &Tensor, right: &Tensor) {
    if !kernels::addmm(sums, left, right) {
        drop(sums.addmm_(left, right));
    }
}

/// A matrix `[outputs, inputs]` that is not learnt, ready for many products.
#[derive(Debug)]
pub enum Matrix {
    /// As it is.
    Plain(Tensor),
    /// Split for the unit of the processor that multiplies it.
    Split(Split),
}

impl Matrix {
    /// Prepares a matrix.
    #[must_use]
    pub fn new(matrix: Tensor) -> Self {
        Split::new(&matrix).map_or(Self::Plain(matrix), Self::Split)
    }

    /// `x` `[rows, inputs]` times the transposed matrix, and `bias` `[outputs]`.
    pub fn apply(&self, x: &Tensor, bias: Option<&Tensor>) -> Tensor {
        match self {
            Self::Plain(matrix) => x.linear(matrix, bias),
            Self::Split(matrix) => match bias {
                Some(bias) => matrix.product(x).g_add_(bias),
                None => matrix.product(x),
            },
        }
    }
}
