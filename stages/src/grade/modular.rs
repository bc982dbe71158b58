//! Arithmetic in a prime field: two rational functions that agree at a random point of it are the same
//! one, but for a chance of a few in 10¹⁸. It tells long numbers apart that floats cannot.

use super::rational::Rational;

/// The first prime after 10¹⁸π of which half, rounded down, is a prime too. So the powers of every number but 0 and ±1
/// go through at least half of the field before they repeat: no two powers that anyone writes are the same one.
const PRIME: u64 = 3_141_592_653_589_794_659;

/// A number modulo [`PRIME`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Residue(u64);

impl Residue {
    pub(super) const ZERO: Self = Self(0);
    pub(super) const ONE: Self = Self(1);

    pub(super) fn new(value: u64) -> Self {
        Self(value % PRIME)
    }

    pub(super) fn of_integer(value: i128) -> Self {
        // Smaller than the prime: fits.
        let residue = Self(u64::try_from(value.unsigned_abs() % u128::from(PRIME)).unwrap_or(0));
        if value < 0 { residue.negated() } else { residue }
    }

    pub(super) fn is_zero(self) -> bool {
        self.0 == 0
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self((self.0 + other.0) % PRIME)
    }

    pub(super) fn negated(self) -> Self {
        Self((PRIME - self.0) % PRIME)
    }

    pub(super) fn times(self, other: Self) -> Self {
        let product = u128::from(self.0) * u128::from(other.0);
        // Smaller than the prime: fits.
        Self(u64::try_from(product % u128::from(PRIME)).unwrap_or(0))
    }

    pub(super) fn power(self, mut exponent: u128) -> Self {
        let (mut base, mut result) = (self, Self::ONE);
        while exponent > 0 {
            if exponent & 1 == 1 {
                result = result.times(base);
            }
            base = base.times(base);
            exponent >>= 1;
        }
        result
    }

    pub(super) fn inverse(self) -> Option<Self> {
        (!self.is_zero()).then(|| self.power(u128::from(PRIME) - 2))
    }

    pub(super) fn times_ten_plus(self, digit: u64) -> Self {
        self.times(Self(10)).plus(Self(digit))
    }

    pub(super) fn scaled_by_ten(self, exponent: i32) -> Option<Self> {
        if exponent == 0 {
            return Some(self);
        }
        let power = Self(10).power(u128::from(exponent.unsigned_abs()));
        Some(self.times(if exponent < 0 { power.inverse()? } else { power }))
    }
}

pub(super) fn of_rational(value: Rational) -> Option<Residue> {
    let numerator = Residue::of_integer(value.numerator());
    if value.denominator() == 1 {
        return Some(numerator);
    }
    Some(numerator.times(Residue::of_integer(value.denominator()).inverse()?))
}
