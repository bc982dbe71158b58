//! A number as it was written: its value three ways, and with how many decimals.

use super::modular::{self, Residue};
use super::rational::Rational;

/// A literal without sign.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number {
    /// The value, unless it is too long for [`Rational`].
    pub(super) exact: Option<Rational>,
    /// The value, rounded.
    pub(super) float: f64,
    /// The value in a prime field, where long numbers can be told apart.
    pub(super) residue: Option<Residue>,
    /// How many digits stand after the decimal point; `None` without one.
    pub(super) decimals: Option<u32>,
    /// How many digits count: from the first that is not zero.
    pub(super) significant: u32,
}

/// Powers of ten beyond this are no answer anyone compares.
const MAX_EXPONENT: i32 = 4000;

impl Number {
    pub(super) fn integer(value: i128) -> Self {
        Self::from_rational(Rational::integer(value))
    }

    pub(super) fn from_rational(value: Rational) -> Self {
        Self {
            exact: Some(value),
            float: value.to_f64(),
            residue: modular::of_rational(value),
            decimals: None,
            significant: 0,
        }
    }

    /// The number of these digits (anything else in `whole` is a separator), with `fraction` after the
    /// point, times a power of ten.
    pub(super) fn decimal(whole: &str, fraction: Option<&str>, exponent: i32) -> Option<Self> {
        let digits = || whole.bytes().chain(fraction.unwrap_or("").bytes()).filter(u8::is_ascii_digit);
        let decimals = fraction.map(|fraction| fraction.len());
        let scale = exponent.checked_sub(i32::try_from(decimals.unwrap_or(0)).ok()?)?;
        if scale.abs() > MAX_EXPONENT {
            return None;
        }
        let mut mantissa = Some(0_i128);
        let mut residue = Residue::ZERO;
        let mut float = 0.0_f64;
        let mut significant = 0_u32;
        for digit in digits() {
            let digit = digit - b'0';
            mantissa = mantissa
                .and_then(|value| value.checked_mul(10))
                .and_then(|value| value.checked_add(i128::from(digit)));
            residue = residue.times_ten_plus(u64::from(digit));
            float = float.mul_add(10.0, f64::from(digit));
            significant += u32::from(significant > 0 || digit > 0);
        }
        let ten = Rational::integer(10);
        let exact = mantissa.and_then(|value| {
            if value == 0 || scale == 0 {
                return Some(Rational::integer(value));
            }
            let power = ten.power(i128::from(scale.abs()))?;
            let value = Rational::integer(value);
            if scale < 0 { value.over(power) } else { value.times(power) }
        });
        let residue = residue.scaled_by_ten(scale);
        Some(Self {
            exact,
            float: exact.map_or_else(|| float * 10.0_f64.powi(scale), Rational::to_f64),
            residue,
            decimals: decimals.map(|_| u32::try_from((-scale).max(0)).unwrap_or(0)),
            significant,
        })
    }

    /// `0.1` followed by the endlessly repeated digits `6`: 1/6.
    pub(super) fn repeating(self, digits: &str) -> Option<Self> {
        let places = self.decimals?;
        let period = digits.parse::<i128>().ok()?;
        let nines = 10_i128.checked_pow(u32::try_from(digits.len()).ok()?)? - 1;
        let shift = 10_i128.checked_pow(places)?;
        let tail = Rational::new(period, nines.checked_mul(shift)?)?;
        Some(Self::from_rational(self.exact?.plus(tail)?))
    }
}
